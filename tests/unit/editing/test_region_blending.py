"""Region blending (UltraEdit, Eq. 1) against a hand-written loop."""

from collections.abc import Callable

import pytest
import torch
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from torch import Tensor

from instructbrush.core.diffusion.region_blending import Region, blend, blended_states
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import RegionError

STEPS = 5
TEXT_SCALE = 2.0
IMAGE_SCALE = 1.5
SEED = 3

Edit = Callable[..., Tensor]


@pytest.fixture(scope="module")
def source(editor: DiffusersEditor) -> Tensor:
    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    return editor.encode_images(images)


@pytest.fixture(scope="module")
def edit(editor: DiffusersEditor, source: Tensor) -> Edit:
    words, null = editor.encode_text(["make it night", ""])

    def run(region: Region | None) -> Tensor:
        settings = SamplingSettings(STEPS, TEXT_SCALE, IMAGE_SCALE, SEED)
        return edit_latents(editor.denoiser, source, words, null, settings=settings, region=region)

    return run


def soft_mask(source: Tensor) -> Tensor:
    mask = torch.zeros(1, 1, *source.shape[2:])
    mask[..., 1:5, 2:6] = 0.5
    mask[..., 2:4, 3:5] = 1.0
    return mask


def by_hand(editor: DiffusersEditor, source: Tensor, scaled: Tensor, mask: Tensor, every: int) -> Tensor:
    """Eq. 1 and Eq. 3 as in the papers, with one model call for each branch."""
    words, null = editor.encode_text(["make it night", ""])
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    scheduler.set_timesteps(STEPS)
    generators = [torch.Generator().manual_seed(SEED + index) for index in range(2)]
    noise = torch.stack([torch.randn(source.shape[1:], generator=generator) for generator in generators])
    state, sigmas = noise * scheduler.init_noise_sigma, scheduler.sigmas
    for index, timestep in enumerate(scheduler.timesteps):
        model_input, times = scheduler.scale_model_input(state, timestep), timestep.expand(2)

        def predict(
            text: Tensor, frame: Tensor, model_input: Tensor = model_input, times: Tensor = times
        ) -> Tensor:
            return editor.denoiser.predict(model_input, times, frame, text.expand(2, -1, -1))

        with torch.no_grad():
            none = predict(null, source * 0)
            image = predict(null, source)
            full = predict(words, source)
        guided = none + IMAGE_SCALE * (image - none) + TEXT_SCALE * (full - image)
        state = scheduler.step(guided, timestep, state, generator=generators).prev_sample
        if (STEPS - 1 - index) % every == 0:
            state = (1 - mask) * (scaled + sigmas[index + 1] * noise) + mask * state
    return state


@pytest.mark.parametrize("every", [1, 2, 3])
def test_matches_a_hand_written_loop(editor: DiffusersEditor, source: Tensor, edit: Edit, every: int) -> None:
    scaled = editor.scale(source)
    torch.testing.assert_close(
        edit(Region(soft_mask(source), scaled, every)),
        by_hand(editor, source, scaled, soft_mask(source), every),
        rtol=0,
        atol=1e-4,
    )


def test_mask_of_ones_edits_freely_and_of_zeros_keeps_the_source(
    editor: DiffusersEditor, source: Tensor, edit: Edit
) -> None:
    scaled, whole = editor.scale(source), torch.ones(1, 1, *source.shape[2:])
    free = edit(None)
    assert torch.equal(edit(Region(whole, scaled)), free) and not torch.allclose(free, scaled, atol=0.1)
    assert torch.equal(edit(Region(whole * 0, scaled)), scaled)


def test_soft_mask_mixes_edit_and_source_in_the_last_state(
    editor: DiffusersEditor, source: Tensor, edit: Edit
) -> None:
    scaled, half = editor.scale(source), torch.full((1, 1, *source.shape[2:]), 0.5)
    # Only the last state is blended, so the free edit is blended.
    torch.testing.assert_close(edit(Region(half, scaled, every=STEPS)), 0.5 * scaled + 0.5 * edit(None))


def test_keeps_the_source_outside_the_mask_of_each_image(
    editor: DiffusersEditor, source: Tensor, edit: Edit
) -> None:
    scaled = editor.scale(source)
    masks = torch.cat([soft_mask(source), soft_mask(source).flip(2)])
    made = edit(Region(masks, scaled))
    assert torch.equal(made[masks.expand_as(made) == 0], scaled[masks.expand_as(made) == 0])
    torch.testing.assert_close(made[:1], edit(Region(masks[:1], scaled))[:1])
    assert not torch.allclose(made[1:], edit(Region(masks[:1], scaled))[1:])


def test_blended_states_include_the_last() -> None:
    assert blended_states(6, 2) == [2, 4, 6] and blended_states(5, 2) == [1, 3, 5]
    assert blended_states(4, 1) == [1, 2, 3, 4] and blended_states(4, 9) == [4]


def test_blended_states_are_those_of_ultraedits_code_for_even_numbers_of_steps() -> None:
    # Its loop: for i in range(steps): step; if i % 2 == 1: blend. Its data takes 3 or 4 steps.
    published = {steps: [i + 1 for i in range(steps) if i % 2 == 1] for steps in (3, 4, 20)}
    assert blended_states(4, 2) == published[4] and blended_states(20, 2) == published[20]
    assert published[3] == [2] and blended_states(3, 2) == [1, 3]


def test_blend_is_exact_for_masks_of_0_and_1() -> None:
    source, state = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    one = torch.ones(1, 1, 8, 8)
    assert torch.equal(blend(one, source, state), state) and torch.equal(
        blend(one * 0, source, state), source
    )


@pytest.mark.parametrize(
    ("mask", "every", "message"),
    [
        (
            torch.ones(1, 1, 7, 8),
            2,
            r"a mask of shape \(1, 1, 7, 8\) does not fit latents of shape \(3, 4, 8, 8\)",
        ),
        (torch.ones(8, 8), 2, "Scale it to the latent's height and width"),
        (torch.ones(2, 1, 8, 8), 2, "2 masks were given for 3 images"),
        (torch.ones(1, 1, 8, 8), 0, "blending every 0 steps is not possible"),
    ],
)
def test_rejects_regions_that_do_not_fit(mask: Tensor, every: int, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        Region(mask, torch.zeros(3, 4, 8, 8), every)
