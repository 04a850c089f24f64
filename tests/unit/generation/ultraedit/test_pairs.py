"""What makes pairs of images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from instructbrush.core.diffusion.region_blending import Region
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import BuildError, ModelError
from instructbrush.core.evaluation.metrics import quantized
from instructbrush.core.generation.ultraedit.pairs import EditedAnchors, PairRequest, PromptToPromptPairs
from instructbrush.core.models.builtin import POCKET_REGION_FOLDER
from instructbrush.tests.support.text_to_image.tiny_models import write_model


@pytest.fixture
def request_(make_image) -> PairRequest:
    return PairRequest("a circle", "a red circle", "make it red", make_image(0))


def test_free_form_pairs_are_the_anchor_and_its_edit(request_: PairRequest, editor) -> None:
    made = EditedAnchors(steps=4)().pairs(request_, [5, 9])
    for (source, target), seed in zip(made, (5, 9), strict=True):
        assert source is request_.anchor
        expected = editor.edit(request_.anchor[None], "make it red", SamplingSettings(4, seed=seed))
        assert torch.allclose(target, quantized(expected)[0], atol=2 / 255)


def test_region_pairs_are_limited_by_eq_1(request_: PairRequest) -> None:
    mask = torch.zeros(128, 128)
    mask[32:96, 32:64] = 1
    mask[32:96, 64:96] = 0.5
    ((source, target),) = EditedAnchors(region=True, steps=4)().pairs(replace(request_, mask=mask), [3])
    editor = load_editor(POCKET_REGION_FOLDER)
    latents = editor.scale(editor.encode_images(source[None]))
    small = functional.interpolate(mask[None, None], latents.shape[2:], mode="bilinear", antialias=True)
    settings = SamplingSettings(4, seed=3)
    expected = editor.edit(source[None], "make it red", settings, Region(small, latents), mask)
    assert torch.allclose(target, quantized(expected)[0], atol=2 / 255)
    outside = functional.max_pool2d(mask[None], 33, 1, 16)[0] == 0
    unedited = editor.decode(latents)[0]
    assert (target - unedited)[outside].abs().max() < 0.02
    assert (target - unedited)[~outside].abs().max() > 0.1


def test_region_pairs_need_a_mask(request_: PairRequest) -> None:
    with pytest.raises(BuildError, match="has no mask"):
        EditedAnchors(region=True, steps=4)().pairs(request_, [3])


def test_prompt_to_prompt_makes_both_images_from_the_anchor(request_: PairRequest, tmp_path: Path) -> None:
    spec = PromptToPromptPairs(str(write_model(tmp_path / "model", "sd15")), steps=4, strength=0.5)
    small = replace(request_, anchor=request_.anchor[:64, :64])
    pairs = spec().pairs(small, [1, 2])
    alone = spec().pairs(small, [2])
    assert [tuple(image.shape) for pair in pairs for image in pair] == [(64, 64, 3)] * 4
    assert not torch.equal(*pairs[0])
    assert not torch.equal(pairs[0][0], pairs[1][0])
    assert torch.allclose(torch.stack(alone[0]), torch.stack(pairs[1]), atol=2 / 255)
    ((source, target),) = replace(spec, strength=0.0)().pairs(small, [1])
    assert torch.equal(source, target)
    assert torch.equal(source, quantized(small.anchor))
    with pytest.raises(BuildError, match="free-form pairs only"):
        spec().pairs(replace(small, mask=torch.ones(64, 64)), [1])


def test_wrong_settings_and_models_say_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing"):
        EditedAnchors(str(tmp_path / "nothing"))()
