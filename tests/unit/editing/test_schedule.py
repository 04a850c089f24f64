"""Segments, the forward process and dual guidance."""

import pytest
import torch

from instructbrush.core.diffusion.guidance import dual_guidance, needed_branches
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


@pytest.mark.parametrize(
    ("image_scale", "text_scale", "needed"),
    [
        (1.5, 7.5, (True, True, True)),
        (1.0, 7.5, (True, True, False)),
        (1.5, 1.5, (True, False, True)),
        (1.0, 1.0, (True, False, False)),
        (1.5, 0.0, (False, True, True)),
        (1.0, 0.0, (False, True, False)),
        (0.0, 0.0, (False, False, True)),
    ],
)
def test_leaves_out_branches_that_do_not_count(
    image_scale: float, text_scale: float, needed: tuple[bool, bool, bool]
) -> None:
    assert needed_branches(image_scale, text_scale) == needed
    full, image, none = branches = torch.randn(3, 2, 4, 8, 8)
    complete = dual_guidance(none, image, full, image_scale, text_scale)
    full, image, none = (branch if counts else None for branch, counts in zip(branches, needed, strict=True))
    torch.testing.assert_close(
        dual_guidance(none, image, full, image_scale, text_scale), complete, rtol=0, atol=1e-6 * 7.5
    )


def test_guidance_rejects_a_missing_branch() -> None:
    prediction = torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"s_T 2\.0 and s_I 1\.0 need"):
        dual_guidance(None, None, prediction, 1.0, 2.0)


def test_add_noise_matches_the_forward_process() -> None:
    abar = torch.linspace(0.999, 0.01, 1000)
    clean = torch.randn(2, 4, 4, 4)
    noise = torch.randn(2, 4, 4, 4)
    noisy = add_noise(clean, noise, torch.tensor([0, 999]), abar)
    assert torch.allclose(noisy[1], 0.01**0.5 * clean[1] + 0.99**0.5 * noise[1])
    assert torch.allclose(noisy[0], 0.999**0.5 * clean[0] + 0.001**0.5 * noise[0], atol=1e-6)
