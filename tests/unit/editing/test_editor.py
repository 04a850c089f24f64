"""One edit request: ``SamplingSettings`` and ``DiffusersEditor.edit``."""

import pickle

import pytest
import torch

from instructbrush.core.diffusion.region_blending import Region
from instructbrush.core.diffusion.schedule import SEEDS
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import ModelError
from instructbrush.core.models.families import POCKET, SD15

SETTINGS = SamplingSettings(steps=2, text_scale=3.0, image_scale=1.4, seed=5)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))


def test_settings_can_be_pickled_and_hashed() -> None:
    copy = pickle.loads(pickle.dumps(SETTINGS))  # noqa: S301
    assert copy == SETTINGS and hash(copy) == hash(SETTINGS)


def test_seed_counts_up_from_image_to_image() -> None:
    assert SamplingSettings(seed=5).seeds(3) == [5, 6, 7]
    assert SamplingSettings(seed=SEEDS - 1).seeds(2) == [SEEDS - 1, 0]
    assert SamplingSettings(seed=(4, 4)).seeds(2) == [4, 4]


def test_scales_default_to_the_family() -> None:
    assert SamplingSettings().scales_for(POCKET) == (2.0, 1.5)
    assert SamplingSettings().scales_for(SD15) == (7.5, 1.5)
    assert SETTINGS.scales_for(SD15) == (3.0, 1.4)


def test_scales_of_the_instruction_act_as_a_pair() -> None:
    assert SamplingSettings().scales_for(SD15, own=(1.0, 1.0)) == (1.0, 1.0)
    # A given number beside the instruction's other scale would be a pair that nobody has tried.
    assert SamplingSettings(image_scale=1.5).scales_for(SD15, own=(1.0, 1.0)) == (7.5, 1.5)
    assert SamplingSettings(text_scale=3.0).scales_for(SD15, own=(1.0, 1.0)) == (3.0, 1.5)
    assert SETTINGS.scales_for(SD15, own=(1.0, 1.0)) == (3.0, 1.4)
    assert SamplingSettings().with_scales_for(SD15, (1.0, 1.2)) == SamplingSettings(
        text_scale=1.0, image_scale=1.2
    )


def test_words_edit_as_their_text_states(editor: DiffusersEditor, images: torch.Tensor) -> None:
    context = editor.encode_text(["make it night"])[0]
    latents = edit_latents(
        editor.denoiser, editor.condition(images), context, editor.null_context, settings=SETTINGS
    )
    expected = editor.decode(latents)
    assert torch.equal(editor.edit(images, context, SETTINGS), expected)
    assert torch.equal(editor.edit(images, "make it night", SETTINGS), expected)


def test_each_image_may_have_words(editor: DiffusersEditor, images: torch.Tensor) -> None:
    both = editor.edit(images, ["make it night", "add a hat"], SETTINGS)
    second = editor.edit(images[1:], "add a hat", SamplingSettings(2, 3.0, 1.4, seed=6))
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-4)


def test_region_keeps_the_source(editor: DiffusersEditor, images: torch.Tensor) -> None:
    source = editor.scale(editor.encode_images(images))
    region = Region(torch.zeros(1, 1, *source.shape[2:]), source)
    torch.testing.assert_close(
        editor.edit(images, "make it night", SETTINGS, region), editor.decode(source), rtol=0, atol=1e-5
    )


def test_rejects_masks_for_a_model_that_reads_none(editor: DiffusersEditor, images: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="this model reads no mask"):
        editor.edit(images, "make it night", SETTINGS, masks=torch.ones(64, 64))
