"""Finding the guidance scales that suit an edit."""

import pytest
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.scale_search import CANDIDATES, ScaleSearch, candidates_of, find_scales
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.models.families import POCKET, SD15


def conditions(count: int, side: int = 8) -> list[Tensor]:
    return list(torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("scales", CANDIDATES)
def test_finds_the_scales_that_made_the_pairs(editor: DiffusersEditor, scales: tuple[float, float]) -> None:
    """Also with fewer pairs than edits and pairs of two sizes."""
    contexts = tuple(editor.encode_text(["make it night", ""]))
    search = ScaleSearch(seed=3, edits=4, steps=2)
    before = [*conditions(1), *conditions(1, 16)]
    pairs = []
    for edit, pair in enumerate((0, 0, 1, 1)):
        settings = SamplingSettings(2, *scales, seed=search.seed_of(edit))
        pairs.append(
            (before[pair], edit_latents(editor.denoiser, before[pair][None], *contexts, settings=settings)[0])
        )
    done = []
    found = find_scales(
        editor.denoiser, pairs, contexts, None, search, lambda *progress: done.append(progress)
    )
    assert (found.text_scale, found.image_scale) == scales
    assert found.errors[scales] < 1e-6 < min(error for each, error in found.errors.items() if each != scales)
    assert done == [(count, 4) for count in (1, 2, 3, 4)]


def test_edits_one_pair_from_several_noises(editor: DiffusersEditor) -> None:
    contexts = tuple(editor.encode_text(["make it night", ""]))
    pair = (conditions(1)[0], torch.zeros(4, 8, 8))
    once = find_scales(editor.denoiser, [pair], contexts, None, ScaleSearch(edits=1, steps=1)).errors
    found = find_scales(editor.denoiser, [pair], contexts, None, ScaleSearch(edits=3, steps=1)).errors
    assert all(found[scales] != pytest.approx(once[scales], rel=1e-4) for scales in CANDIDATES)


def test_splits_edits_that_do_not_fit_into_memory(
    editor: DiffusersEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = tuple(editor.encode_text(["make it night", ""]))
    pairs = [(before, torch.zeros(4, 8, 8)) for before in conditions(3)]
    search = ScaleSearch(edits=3, steps=1)
    expected = find_scales(editor.denoiser, pairs, contexts, None, search).errors
    rows, forward = [], editor.denoiser.unet.forward

    def limited(sample: Tensor, *rest: object, **named: object) -> object:
        if len(sample) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        rows.append(len(sample))
        return forward(sample, *rest, **named)

    monkeypatch.setattr(editor.denoiser.unet, "forward", limited)
    found = find_scales(editor.denoiser, pairs, contexts, None, search).errors
    assert found == pytest.approx(expected, rel=1e-4) and max(rows) == 3


def test_counts_pixels_by_their_weights(editor: DiffusersEditor) -> None:
    contexts = tuple(editor.encode_text(["make it night", ""]))
    search = ScaleSearch(edits=1, steps=1)
    weights = torch.zeros(8, 8)
    weights[:, :4] = 2

    def errors(target: Tensor, *weighted: Tensor) -> list[float]:
        pair = (conditions(1)[0], target)
        found = find_scales(editor.denoiser, [pair], contexts, None, search, weights=weighted)
        return list(found.errors.values())

    target, other = torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)
    other[..., 4:] = 9
    assert errors(target, weights) == pytest.approx(errors(other, weights))
    assert errors(target) != pytest.approx(errors(other), rel=0.1)
    assert errors(target, torch.ones(8, 8)) == pytest.approx(errors(target))


def test_prefers_the_cheapest_of_equal_scales(editor: DiffusersEditor) -> None:
    """Without words and image the three branches are the same."""
    null = editor.null_context
    pairs = [(torch.zeros(4, 8, 8), torch.randn(4, 8, 8))]
    found = find_scales(editor.denoiser, pairs, (null, null), None, ScaleSearch(edits=2, steps=1))
    assert (found.text_scale, found.image_scale) == (1.0, 1.0)


def test_a_candidate_that_is_not_finite_never_wins(editor: DiffusersEditor) -> None:
    contexts = tuple(editor.encode_text(["make it night", ""]))
    pairs = [(torch.full((4, 8, 8), torch.inf), torch.zeros(4, 8, 8))]
    found = find_scales(editor.denoiser, pairs, contexts, None, ScaleSearch(edits=1, steps=1))
    assert (found.text_scale, found.image_scale) == (2.0, 1.5)  # the default of the model


def test_tries_the_default_of_the_family() -> None:
    assert candidates_of(POCKET) == CANDIDATES
    assert candidates_of(SD15) == (*CANDIDATES, (7.5, 1.5))


def test_search_fits_into_its_budget() -> None:
    one_edit = ScaleSearch(edits=1).rows(POCKET)
    assert one_edit == 10 * (1 + 2 + 2 + 3)
    assert ScaleSearch.within(one_edit - 1, POCKET, 0) is None
    assert ScaleSearch.within(2.5 * one_edit, POCKET, 7) == ScaleSearch(seed=7, edits=2)
    assert ScaleSearch.within(1e6, POCKET, 0) == ScaleSearch(edits=4)
    assert ScaleSearch.within(1e6, SD15, 0).rows(SD15) == 4 * 10 * (1 + 2 + 2 + 3 + 3)
