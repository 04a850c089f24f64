"""Segments and noise levels."""

import pytest
import torch

from instructbrush.core.diffusion.guidance import dual_guidance
from instructbrush.core.diffusion.schedule import add_noise, segment_bounds, segment_of


@pytest.mark.parametrize("segments", [1, 3, 5, 7, 1000])
def test_every_timestep_lies_in_exactly_the_segment_that_bounds_it(segments: int) -> None:
    found = segment_of(torch.arange(1000), segments)
    for segment in range(segments):
        first, last = segment_bounds(segment, segments)
        assert (found[first:last] == segment).all() and last > first
    assert segment_bounds(0, segments)[0] == 0 and segment_bounds(segments - 1, segments)[1] == 1000


def test_float_timesteps_of_a_sampler_fall_into_the_same_segments() -> None:
    times = torch.tensor([0.0, 199.99, 200.0, 946.89, 999.0])
    assert segment_of(times, 5).tolist() == [0, 0, 1, 4, 4]


def test_guidance_is_eq_3_written_by_hand() -> None:
    none, image, full = torch.randn(3, 2, 4, 8, 8, dtype=torch.float64)
    expected = none + 1.5 * (image - none) + 7.5 * (full - image)
    assert torch.equal(dual_guidance(none, image, full, 1.5, 7.5), expected)
    # All three branches count below 1 too, where diffusers' pipeline switches guidance off.
    assert torch.allclose(dual_guidance(none, image, full, 0.5, 1.0), 0.5 * none - 0.5 * image + full)
    assert torch.allclose(dual_guidance(none, image, full, 1.0, 1.0), full)


def test_noise_is_the_forward_process() -> None:
    abar = torch.linspace(0.999, 0.01, 1000)
    clean, noise, times = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([0, 999])
    noisy = add_noise(clean, noise, times, abar)
    assert torch.allclose(noisy[1], 0.01**0.5 * clean[1] + 0.99**0.5 * noise[1])
    assert torch.allclose(noisy[0], 0.999**0.5 * clean[0] + 0.001**0.5 * noise[0], atol=1e-6)
