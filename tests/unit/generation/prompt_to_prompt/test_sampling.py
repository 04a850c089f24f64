"""Sampled pairs: with and without injection, anchors, agreement with diffusers' pipelines, determinism."""

import copy
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Generator, Tensor

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.prompt_to_prompt.control import ControlSettings, steps_of
from instructbrush.core.generation.prompt_to_prompt.model import TextToImage
from instructbrush.core.generation.prompt_to_prompt.sampling import PairRequest, PairSettings, sample_pairs
from instructbrush.tests.support.text_to_image.tiny_models import SIDE

SOURCE, TARGET = "a cat sits on grass", "a labradoodle sits on deep snow"
NONE = ControlSettings(cross=0, self_attention=0)
FULL = ControlSettings(cross=1, self_attention=1, self_pixels=1, source_caption=1)
KINDS = pytest.mark.parametrize("kind", ["sd15", "sdxl"])


def settings(steps: int = 4, strength: float = 1.0) -> PairSettings:
    return PairSettings(steps, SIDE, SIDE, strength)


def pipeline(model: TextToImage, from_image: bool = False) -> Any:
    """diffusers' own pipeline of a model."""
    parts = {
        "vae": model.vae,
        "unet": model.unet,
        "scheduler": type(model.scheduler).from_config(model.scheduler.config),
        "text_encoder": model.text_encoders[0],
        "tokenizer": model.tokenizers[0],
    }
    name = "StableDiffusionXL" if model.is_xl else "StableDiffusion"
    if model.is_xl:
        parts |= {"text_encoder_2": model.text_encoders[1], "tokenizer_2": model.tokenizers[1]}
        parts |= {"add_watermarker": False}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    made = getattr(diffusers, f"{name}{'Img2Img' if from_image else ''}Pipeline")(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def generators(seed: int, count: int = 2) -> list[Generator]:
    return [Generator().manual_seed(seed) for _ in range(count)]


def picture(seed: int = 0) -> Tensor:
    return (
        torch.rand(SIDE // 8, SIDE // 8, 3, generator=generators(seed)[0])
        .repeat_interleave(8, 0)
        .repeat_interleave(8, 1)
    )


@KINDS
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_without_control_both_images_are_those_of_diffusers(
    models: dict[str, TextToImage], kind: str, guidance: float
) -> None:
    model = models[kind]
    request = PairRequest(SOURCE, TARGET, 5, NONE, guidance)
    sources, targets = sample_pairs(model, [request], settings())
    expected = pipeline(model)(
        [SOURCE, TARGET],
        height=SIDE,
        width=SIDE,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=generators(5),
        output_type="pt",
    ).images.movedim(1, 3)
    torch.testing.assert_close(torch.cat([sources, targets]), expected, rtol=0, atol=1e-4)
    assert (sources - targets).abs().max() > 2e-3


@KINDS
@pytest.mark.parametrize(("steps", "strength"), [(5, 0.6), (10, 0.3)])
def test_without_control_anchored_images_are_those_of_diffusers(
    models: dict[str, TextToImage], kind: str, steps: int, strength: float
) -> None:
    model = models[kind]
    request = PairRequest(SOURCE, TARGET, 6, NONE, 0.0, picture())
    images = torch.cat(sample_pairs(model, [request], settings(steps, strength)))
    # diffusers samples the anchor's latent; as a latent it takes the mode.
    anchor = model.encode(picture()[None]).repeat(2, 1, 1, 1)
    made = pipeline(model, from_image=True)
    expected = made(
        [SOURCE, TARGET],
        image=anchor,
        num_inference_steps=steps,
        strength=strength,
        guidance_scale=0.0,
        generator=generators(6),
        output_type="pt",
        **({"original_size": (SIDE, SIDE), "target_size": (SIDE, SIDE)} if kind == "sdxl" else {}),
    ).images.movedim(1, 3)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


@KINDS
@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_with_full_injection_the_target_is_the_source(
    models: dict[str, TextToImage], kind: str, guidance: float
) -> None:
    for strength in (1.0, 0.5):
        request = PairRequest(SOURCE, TARGET, 7, FULL, guidance, picture())
        sources, targets = sample_pairs(models[kind], [request], settings(strength=strength))
        torch.testing.assert_close(targets, sources, rtol=0, atol=1e-4)


@KINDS
def test_the_source_never_depends_on_the_target_or_its_control(
    models: dict[str, TextToImage], kind: str
) -> None:
    first, _ = sample_pairs(models[kind], [PairRequest(SOURCE, SOURCE, 7, NONE)], settings())
    for control in (ControlSettings(), FULL):
        again, targets = sample_pairs(models[kind], [PairRequest(SOURCE, TARGET, 7, control)], settings())
        torch.testing.assert_close(again, first, rtol=0, atol=1e-5)
        assert torch.isfinite(targets).all()


def test_more_injection_brings_the_target_closer_to_the_source(models: dict[str, TextToImage]) -> None:
    distances = []
    for share in (0.0, 0.75, 1.0):
        control = ControlSettings(cross=0, self_attention=0, source_caption=share)
        request = PairRequest(SOURCE, TARGET, 9, control, 4.0)
        sources, targets = sample_pairs(models["sdxl"], [request], settings())
        distances.append(float((sources - targets).square().mean()))
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-9 < distances[0]


@KINDS
def test_equal_captions_give_equal_images(models: dict[str, TextToImage], kind: str) -> None:
    control = ControlSettings(cross=1, self_attention=1, self_pixels=1)
    sources, targets = sample_pairs(models[kind], [PairRequest(SOURCE, SOURCE, 3, control)], settings())
    torch.testing.assert_close(targets, sources, rtol=0, atol=1e-4)


def test_strength_0_is_the_anchor_and_strength_1_needs_none(models: dict[str, TextToImage]) -> None:
    model = models["sdxl"]
    anchored = PairRequest(SOURCE, TARGET, 4, ControlSettings(), 0.0, picture())
    free = PairRequest(SOURCE, TARGET, 4, ControlSettings(), 0.0)
    sources, targets = sample_pairs(model, [anchored], settings(strength=0.0))
    assert torch.equal(sources[0], picture()) and torch.equal(targets[0], picture())
    with_anchor = sample_pairs(model, [anchored], settings())
    without = sample_pairs(model, [free], settings())
    assert torch.equal(with_anchor[0], without[0]) and torch.equal(with_anchor[1], without[1])
    half = sample_pairs(model, [anchored], settings(strength=0.5))[0]
    other = sample_pairs(model, [replace(anchored, anchor=picture(1))], settings(strength=0.5))[0]
    assert (half - other).abs().max() > 1e-2


@pytest.mark.parametrize(("kind", "strength"), [("sd15", 1.0), ("sdxl", 0.75)])
def test_a_pair_does_not_depend_on_its_batch(
    models: dict[str, TextToImage], kind: str, strength: float
) -> None:
    both = ControlSettings(null_branch=True, self_pixels=1)
    requests = [
        PairRequest("a red car", "a blue bus at night", 2, NONE, 0.0, picture(2)),
        PairRequest(SOURCE, "a cat sits", 3, both, 2.0, picture(3)),
        PairRequest("a dog", "a wolf", 4, FULL, 1.0, picture(4)),
    ]
    together = sample_pairs(models[kind], requests, settings(strength=strength))
    for number, request in enumerate(requests):
        alone = sample_pairs(models[kind], [request], settings(strength=strength))
        for batch, single in zip(together, alone, strict=True):
            torch.testing.assert_close(batch[number], single[0], rtol=0, atol=1e-4)


def test_half_precision_and_captions_beyond_the_window_are_sampled(models: dict[str, TextToImage]) -> None:
    model = replace(models["sdxl"], unet=copy.deepcopy(models["sdxl"].unet).to(torch.bfloat16))
    captions = f"{SOURCE} and grass " * 20, f"{TARGET} and snow " * 20
    controls = (NONE, ControlSettings(), FULL)
    requests = [PairRequest(*captions, 4, control, 4.0) for control in controls]
    sources, targets = sample_pairs(model, requests, settings())
    torch.testing.assert_close(sources, sources[:1].expand_as(sources), rtol=0, atol=0.02)
    none, partly, full = (sources - targets).square().mean((1, 2, 3)).tolist()
    assert full < 1e-5 < min(none, partly) and partly != none


def test_the_same_seed_gives_the_same_images(models: dict[str, TextToImage]) -> None:
    request = PairRequest(SOURCE, TARGET, 2**63 - 1)
    first = sample_pairs(models["sdxl"], [request], settings())
    torch.manual_seed(99)
    second = sample_pairs(models["sdxl"], [request], settings())
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    other = sample_pairs(models["sdxl"], [PairRequest(SOURCE, TARGET, 8)], settings())
    assert (other[0] - first[0]).abs().max() > 0.05


def test_an_error_within_a_step_leaves_the_model_untouched(models: dict[str, TextToImage]) -> None:
    model = models["sd15"]
    before = dict(model.unet.attn_processors)
    steps = model.scheduler.timesteps.clone()
    hook = model.unet.conv_out.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_pairs(model, [PairRequest(SOURCE, TARGET, 1)], settings())
    hook.remove()
    assert model.unet.attn_processors == before and torch.equal(model.scheduler.timesteps, steps)


@pytest.mark.parametrize("name", ["PNDMScheduler", "HeunDiscreteScheduler", "DDPMScheduler", "LCMScheduler"])
def test_other_schedulers_agree_with_diffusers(models: dict[str, TextToImage], name: str) -> None:
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name).from_config(models["sd15"].scheduler.config, **options)
    model = replace(models["sd15"], scheduler=scheduler)
    images = torch.cat(sample_pairs(model, [PairRequest(SOURCE, TARGET, 5, NONE, 3.0)], settings()))
    expected = pipeline(model)(
        [SOURCE, TARGET], height=SIDE, width=SIDE, num_inference_steps=4, guidance_scale=3.0,
        generator=generators(5), output_type="pt",
    ).images.movedim(1, 3)  # fmt: skip
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    full = sample_pairs(model, [PairRequest(SOURCE, TARGET, 5, FULL, 3.0)], settings())
    torch.testing.assert_close(full[1], full[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "anchor", "message"),
    [
        ({"steps": 0}, None, "0 steps"),
        ({"strength": 1.1}, None, "strength 1.1"),
        ({"strength": float("nan")}, None, "strength nan"),
        ({"strength": 0.2}, (SIDE, SIDE, 3), "a strength of 0.2 runs none. Raise the strength to 0.25"),
        ({"strength": 0.5}, None, "needs an anchor of shape .64, 64, 3.; none is given"),
        ({"strength": 0.5}, (SIDE, 32, 3), r"it has \(64, 32, 3\)"),
        ({"strength": 0.0}, None, "none is given"),
        ({"width": 60}, None, "60 x 64 pixels do not fit sd15; sides must be multiples of 8"),
    ],
)
def test_rejects_settings_that_cannot_work(
    models: dict[str, TextToImage], changes: dict[str, Any], anchor: tuple[int, ...] | None, message: str
) -> None:
    chosen = PairSettings(**({"steps": 4, "height": SIDE, "width": SIDE} | changes))
    image = None if anchor is None else torch.rand(anchor)
    with pytest.raises(BuildError, match=message):
        sample_pairs(models["sd15"], [PairRequest(SOURCE, TARGET, 1, anchor=image)], chosen)


def test_shares_of_steps_are_rounded_down_but_not_below_exact_numbers() -> None:
    assert [steps_of(share, 10) for share in (0.3, 0.29, 0.7, 1.0, 0.0)] == [3, 2, 7, 10, 0]
    assert steps_of(0.1 + 0.2, 10) == 3 and steps_of(0.29, 100) == 29 and steps_of(0.9, 4) == 3
