"""The sampler on the diffusers engine, compared with diffusers' pipeline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
from PIL import Image

from instructbrush.core.diffusion.guidance import Branches
from instructbrush.core.editing import sampler
from instructbrush.core.editing.diffusers_denoiser import DiffusersDenoiser
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.instruction.algebra import compose
from instructbrush.core.instruction.injection import Injection, inject
from instructbrush.core.instruction.instruction import Instruction, InstructionInfo
from instructbrush.core.storage.image_tensors import to_image

THREE_STEPS = SamplingSettings(3, text_scale=7.5, seed=5)


def words_instruction(editor: DiffusersEditor, words: str, tokens: int = 8) -> Instruction:
    """An instruction that consists of the keys and values of words."""
    context = editor.encode_text([words])[0]
    projected = editor.denoiser.project(context)
    info = InstructionInfo(
        editor.description.family.name, editor.description.fingerprint, 5, tokens, init_text=words
    )
    rows = slice(1, 1 + tokens)
    keys = {site: pair[0][rows].expand(5, -1, -1).clone() for site, pair in projected.items()}
    values = {site: pair[1][rows].expand(5, -1, -1).clone() for site, pair in projected.items()}
    return Instruction(keys, values, context, 1, info)


@pytest.fixture
def image() -> torch.Tensor:
    ramp = torch.linspace(0, 1, 64)
    return torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.full((64, 64), 0.3)], dim=-1)


def edited(
    editor: DiffusersEditor,
    image: torch.Tensor,
    words: str,
    injection: Injection | None = None,
    **changes: Any,
) -> torch.Tensor:
    context, null = editor.encode_text([words, ""])
    settings = SamplingSettings(4, **{"text_scale": 3.0, **changes})
    return edit_latents(
        editor.denoiser, editor.encode_images(image[None]), context, null, injection, settings
    )


def test_matches_the_diffusers_pipeline(pocket: Path, editor: DiffusersEditor, image: torch.Tensor) -> None:
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(pocket, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        "make it night",
        image=to_image(image),
        num_inference_steps=4,
        guidance_scale=3.0,
        image_guidance_scale=1.5,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    quantized = torch.round(image * 255) / 255
    ours = editor.decode(edited(editor, quantized, "make it night", seed=7))
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), result, rtol=0, atol=2e-4)


def test_instruction_made_of_words_matches_the_words(editor: DiffusersEditor, image: torch.Tensor) -> None:
    injection = inject(words_instruction(editor, "make it night"))
    assert torch.equal(edited(editor, image, "", injection=injection), edited(editor, image, "make it night"))


def test_strength_0_changes_nothing_bit_for_bit(editor: DiffusersEditor, image: torch.Tensor) -> None:
    instruction = words_instruction(editor, "make it night")
    plain = edited(editor, image, "add a hat")
    for off in (
        inject(instruction, 0.0),
        inject(instruction, end_timestep=1000),
        inject(instruction, segment_strengths=[0.0]),
    ):
        assert torch.equal(edited(editor, image, "add a hat", injection=off), plain)
    assert not torch.equal(edited(editor, image, "add a hat", injection=inject(instruction, 0.5)), plain)


def test_results_do_not_depend_on_the_batch(editor: DiffusersEditor, image: torch.Tensor) -> None:
    context, null = editor.encode_text(["make it night", ""])
    latents = editor.encode_images(torch.stack([image, image.flip(0)]))
    together = edit_latents(editor.denoiser, latents, context, null, settings=THREE_STEPS)
    for index in range(2):
        settings = replace(THREE_STEPS, seed=5 + index)
        alone = edit_latents(editor.denoiser, latents[index : index + 1], context, null, settings=settings)
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-4)


def test_accepts_a_seed_for_each_image(editor: DiffusersEditor, image: torch.Tensor) -> None:
    context, null = editor.encode_text(["make it night", ""])
    latents = editor.encode_images(torch.stack([image, image.flip(0)]))
    together = edit_latents(
        editor.denoiser, latents, context, null, settings=replace(THREE_STEPS, seed=(5, 5))
    )
    torch.testing.assert_close(
        together[1:],
        edit_latents(editor.denoiser, latents[1:], context, null, settings=THREE_STEPS),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("instructed", [False, True])
@pytest.mark.parametrize(
    ("scales", "branches"), [((3.0, 1.5), 3), ((3.0, 1.0), 2), ((1.5, 1.5), 2), ((1.0, 1.0), 1)]
)
def test_computes_only_the_branches_that_count(
    editor: DiffusersEditor,
    image: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    instructed: bool,
    scales: tuple[float, float],
    branches: int,
) -> None:
    """One model call for each step, and the result of Eq. 3 with all three branches."""
    injection = inject(words_instruction(editor, "make it night")) if instructed else None
    text_scale, image_scale = scales

    def edit() -> torch.Tensor:
        return edited(
            editor, image, "make it night", injection, text_scale=text_scale, image_scale=image_scale
        )

    rows, forward = [], editor.denoiser.unet.forward
    monkeypatch.setattr(
        editor.denoiser.unet,
        "forward",
        lambda sample, *rest, **named: rows.append(len(sample)) or forward(sample, *rest, **named),
    )
    fewer = edit()
    assert rows == [branches] * 4
    monkeypatch.setattr(sampler, "needed_branches", lambda *_: Branches(True, True, True))
    complete = edit()
    assert rows[4:] == [3] * 4
    # Rounding: batches of other sizes are summed in another order, which differs between CPUs.
    assert (fewer - complete).abs().max() < 2e-5
    assert branches < 3 or torch.equal(fewer, complete)


def test_long_instructions_get_a_call_of_their_own(
    editor: DiffusersEditor, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33 rows and 32 of the empty words have 1056 in common, which a single call would repeat them to."""
    first, second = (words_instruction(editor, words, 1) for words in ("make it night", "add a hat"))
    injection = inject(compose(first, second))
    assert len(injection.parts[0].context) == 33 and not injection.joins(32)
    calls, forward = [], editor.denoiser.unet.forward

    def noted(sample: torch.Tensor, times: torch.Tensor, context: torch.Tensor, **named: Any) -> Any:
        calls.append((len(sample), context.shape[1]))
        return forward(sample, times, context, **named)

    monkeypatch.setattr(editor.denoiser.unet, "forward", noted)
    apart = edited(editor, image, "", injection)
    assert calls == [(1, 33), (2, 32)] * 4
    calls.clear()
    monkeypatch.setattr(Injection, "joins", lambda *_: True)
    together = edited(editor, image, "", injection)
    assert calls == [(3, 1056)] * 4
    torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-3)


def test_samples_on_the_models_noise_schedule(editor: DiffusersEditor, image: torch.Tensor) -> None:
    default = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for options in (default, {**default, "beta_schedule": "linear"}):
        scheduler = EulerAncestralDiscreteScheduler(**options)
        scheduler.set_timesteps(7)
        timesteps, sigmas = sampler._schedule(7, DDPMScheduler(**options).alphas_cumprod)
        assert timesteps == scheduler.timesteps.tolist() and sigmas == scheduler.sigmas.tolist()
    linear = DDPMScheduler(**options).alphas_cumprod
    other = DiffusersEditor(
        DiffusersDenoiser(editor.denoiser.unet, editor.description, linear),
        editor.vae,
        editor.text_encoder,
        editor.tokenizer,
    )
    assert not torch.allclose(edited(other, image, "add a hat"), edited(editor, image, "add a hat"), atol=0.1)


def test_samples_on_a_schedule_without_signal_at_its_end(
    editor: DiffusersEditor, image: torch.Tensor
) -> None:
    zero_snr = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    assert zero_snr.alphas_cumprod[-1] == 0
    denoiser = DiffusersDenoiser(editor.denoiser.unet, editor.description, zero_snr.alphas_cumprod)
    context, null = editor.encode_text(["add a hat", ""])
    result = edit_latents(denoiser, editor.encode_images(image[None]), context, null, settings=THREE_STEPS)
    assert torch.isfinite(result).all()


def test_image_scale_below_1_uses_all_three_branches(editor: DiffusersEditor, image: torch.Tensor) -> None:
    """Unlike diffusers' pipeline, which drops guidance below 1."""
    low = edited(editor, image, "make it night", image_scale=0.5)
    assert torch.isfinite(low).all() and not torch.allclose(
        low, edited(editor, image, "make it night", image_scale=1.0)
    )


def test_image_tensors_round_trip_through_pil() -> None:
    image = Image.new("RGB", (24, 16), (10, 20, 30))
    from instructbrush.core.storage.image_tensors import fit_to_multiple, from_image

    assert to_image(from_image(image)).tobytes() == image.tobytes()
    assert fit_to_multiple(torch.rand(30, 45, 3)).shape == (32, 48, 3)
    assert fit_to_multiple(torch.rand(4, 3, 3)).shape == (8, 8, 3)
    kept = torch.rand(16, 24, 3)
    assert fit_to_multiple(kept) is kept


def test_fixed_noise_is_the_same_for_all_images_and_runs(
    editor: DiffusersEditor, image: torch.Tensor
) -> None:
    context, null = editor.encode_text(["make it night", ""])
    images = editor.encode_images(torch.stack([image, image]))
    fixed = SamplingSettings(4, text_scale=3.0, seed=7, fixed_noise=True)
    first = edit_latents(editor.denoiser, images, context, null, settings=fixed)
    second = edit_latents(editor.denoiser, images, context, null, settings=fixed)
    assert torch.equal(first, second)
    torch.testing.assert_close(first[0], first[1], rtol=1e-4, atol=1e-4)
    fresh = edit_latents(editor.denoiser, images, context, null, settings=replace(fixed, fixed_noise=False))
    assert not torch.allclose(first, fresh, atol=0.1)
