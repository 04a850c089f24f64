"""Segments, the forward process and dual guidance."""

import pytest
import torch

from instructbrush.core.diffusion.guidance import dual_guidance
from instructbrush.core.diffusion.schedule import add_noise, segment_bounds, segment_of


@pytest.mark.parametrize("segments", [1, 3, 5, 7, 1000])
def test_segment_bounds_match_segment_of(segments: int) -> None:
    found = segment_of(torch.arange(1000), segments)
    for segment in range(segments):
        first, last = segment_bounds(segment, segments)
        assert (found[first:last] == segment).all() and last > first
    assert segment_bounds(0, segments)[0] == 0 and segment_bounds(segments - 1, segments)[1] == 1000


def test_segment_of_accepts_float_timesteps() -> None:
    times = torch.tensor([0.0, 199.99, 200.0, 946.89, 999.0])
    assert segment_of(times, 5).tolist() == [0, 0, 1, 4, 4]


def test_dual_guidance_matches_equation_3() -> None:
    none, image, full = torch.randn(3, 2, 4, 8, 8, dtype=torch.float64)
    expected = none + 1.5 * (image - none) + 7.5 * (full - image)
    assert torch.equal(dual_guidance(none, image, full, 1.5, 7.5), expected)
    # Below 1 diffusers' pipeline switches guidance off. Here all three branches still count.
    assert torch.allclose(dual_guidance(none, image, full, 0.5, 1.0), 0.5 * none - 0.5 * image + full)
    assert torch.allclose(dual_guidance(none, image, full, 1.0, 1.0), full)


def test_add_noise_matches_the_forward_process() -> None:
    abar = torch.linspace(0.999, 0.01, 1000)
    clean = torch.randn(2, 4, 4, 4)
    noise = torch.randn(2, 4, 4, 4)
    noisy = add_noise(clean, noise, torch.tensor([0, 999]), abar)
    assert torch.allclose(noisy[1], 0.01**0.5 * clean[1] + 0.99**0.5 * noise[1])
    assert torch.allclose(noisy[0], 0.999**0.5 * clean[0] + 0.001**0.5 * noise[0], atol=1e-6)
