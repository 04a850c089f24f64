"""The rows of Visii's Table 1: what they learn with, the noise of their edits, their figures and table."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbrush.core.diffusion.schedule import fixed_noise
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.clip import image_features, text_features
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_example.effects import Effect
from instructbrush.core.evaluation.by_example.methods import METHODS, BenchmarkModels, Edited, EffectEditor
from instructbrush.core.evaluation.by_example.methods import base as methods_module
from instructbrush.core.evaluation.by_example.published import VISII_PAPER
from instructbrush.core.evaluation.by_example.results import Outcome
from instructbrush.core.evaluation.by_example.scoring import EffectScorer
from instructbrush.core.evaluation.by_example.tables import TABLES, text_tables
from instructbrush.core.learning.request import LearningRequest
from instructbrush.core.learning.settings import VISII
from instructbrush.core.pairs.pairs import make_pairs

CAPTIONS = (("a red wall", "a blue wall"), ("a lake", "a lake in snow"))


@pytest.fixture(scope="module")
def effect_editor(
    editor: DiffusersEditor, pair_tensors: Callable[..., tuple[Tensor, Tensor]]
) -> EffectEditor:
    train, test = make_pairs(*pair_tensors(3, 64, 64)), make_pairs(*pair_tensors(2, 64, 64, seed=50))
    return EffectEditor(
        BenchmarkModels(editor, pocket_clip(), steps=1, sampling=SamplingSettings(1)),
        Effect("swap", "global", "shift the colors", train, test, CAPTIONS),
    )


def row_names() -> list[str]:
    return [method for table in TABLES if table.published is VISII_PAPER for _, method, _ in table.rows]


def test_table_has_all_rows_and_both_kinds_of_noise() -> None:
    assert {("all", name) for name in row_names()} == set(VISII_PAPER)
    assert set(row_names()) <= set(METHODS)
    random, fixed = (table for table in TABLES if table.published is VISII_PAPER)
    assert len(random.rows) == 9 and len(fixed.rows) == 7
    # As printed: the first and the last row with random noise, and the last row with fixed noise.
    assert VISII_PAPER["all", "words"] == (0.824, 0.196, 0.301)
    assert VISII_PAPER["all", "visii_4"] == (0.798, 0.148, 0.280)
    assert VISII_PAPER["all", "visii_4_fixed_noise"] == (0.812, 0.133, 0.260)


def test_each_row_learns_with_its_losses_pairs_init_text_and_noise(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(EffectEditor, "caption", lambda self, pairs, seed: f"caption of {len(pairs)}")
    for name in row_names():
        if not name.startswith("visii") or "4" in name:
            continue
        monkeypatch.setattr(
            EffectEditor, "by_learning", lambda self, *arguments, name=name: seen.update({name: arguments})
        )
        METHODS[name].edit(effect_editor, 3)
    assert len(seen) == 12
    preset = effect_editor.models.settings("text", 3)
    for name, (settings, pairs, init_text, sampling) in seen.items():
        fixed = name.endswith("_fixed_noise")
        row = name.removesuffix("_fixed_noise")
        count = int(row[-1]) if row[-1].isdigit() else 1
        weight = 0.0 if "mse" in row else preset.direction_weight
        assert settings == replace(preset, direction_weight=weight, noise="fixed" if fixed else "fresh")
        assert len(pairs) == count == METHODS[name].pairs
        assert init_text == ("shift the colors" if "words" in row else f"caption of {count}")
        assert sampling == SamplingSettings(1, fixed_noise=fixed)


def test_rows_need_as_many_pairs_as_they_learn_from(effect_editor: EffectEditor) -> None:
    with pytest.raises(EvaluationError, match="'swap' has 3 training pairs, and the method learns from 4"):
        METHODS["visii_4"].edit(effect_editor, 0)


def test_fixed_noise_reaches_learning_and_edits(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[LearningRequest] = []
    samplings: list[SamplingSettings] = []
    learn, edit = methods_module.learn, DiffusersEditor.edit

    def noted_learn(request: LearningRequest, **options: Any) -> Any:
        requests.append(request)
        return learn(request, **options)

    def noted_edit(
        self: DiffusersEditor, images: Tensor, instruction: Any, sampling: SamplingSettings
    ) -> Any:
        samplings.append(sampling)
        return edit(self, images, instruction, sampling)

    monkeypatch.setattr(methods_module, "learn", noted_learn)
    monkeypatch.setattr(DiffusersEditor, "edit", noted_edit)
    METHODS["visii_words_fixed_noise"].edit(effect_editor, 5)
    assert requests[0].settings.noise == "fixed" and requests[0].settings.seed == 5
    (sampling,) = samplings
    # The noise of an edit is that of learning: it follows from the seed and the timestep alone.
    assert sampling.fixed_noise and sampling.seeds(1) == [5]
    shape = effect_editor.latents(effect_editor.pairs(1)).after[0].shape
    assert torch.equal(fixed_noise(shape, 999, sampling.seeds(1)[0]), fixed_noise(shape, 999, 5))


def test_rows_that_learn_the_same_learn_once(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The paper's preset learns with fixed noise, so only the edits of the two rows differ.
    preset = replace(VISII, steps=1, objective="plain", text_scale=2.0)
    monkeypatch.setattr(BenchmarkModels, "settings", lambda self, space, seed: replace(preset, seed=seed))
    counts: list[int] = []
    learn = methods_module.learn
    monkeypatch.setattr(methods_module, "learn", lambda *a, **b: counts.append(1) or learn(*a, **b))
    editor = EffectEditor(effect_editor.models, effect_editor.effect)
    random = METHODS["visii_words"].edit(editor, 1)
    fixed = METHODS["visii_words_fixed_noise"].edit(editor, 1)
    assert len(counts) == 1 and random.final_loss == fixed.final_loss
    assert not torch.equal(random.images[0], fixed.images[0])
    METHODS["visii_mse_words"].edit(editor, 1)
    assert len(counts) == 2


def test_scores_the_similarities_as_by_hand(effect_editor: EffectEditor) -> None:
    effect, clip = effect_editor.effect, pocket_clip()
    scorer = EffectScorer(effect, clip, None, effect_editor.models.editor.description.family)
    outcome = scorer.score("words", 0, Edited(tuple(effect.truth)), 1.0)

    def normal(vector: Tensor) -> Tensor:
        return vector / vector.norm()

    inputs, outputs = image_features(clip, effect.inputs), image_features(clip, effect.truth)
    train = effect.train
    examples = image_features(clip, [pair.after for pair in train]) - image_features(
        clip, [pair.before for pair in train]
    )
    for index, (before, after) in enumerate(CAPTIONS):
        texts = text_features(clip, [before, after])
        move = normal(outputs[index] - inputs[index])
        assert outcome.visual_similarity is not None and outcome.direction_similarity is not None
        assert outcome.visual_similarity[index] == pytest.approx(
            float(move @ normal(examples.mean(0))), abs=1e-5
        )
        assert outcome.direction_similarity[index] == pytest.approx(
            float(move @ normal(texts[1] - texts[0])), abs=1e-5
        )
        assert outcome.image_similarity[index] == pytest.approx(
            float(normal(inputs[index]) @ normal(outputs[index])), abs=1e-5
        )
    without = EffectScorer(replace(effect, captions=()), clip, None, scorer._family)
    assert without.score("words", 0, Edited(tuple(effect.truth)), 1.0).direction_similarity is None


def outcome(method: str, similarities: tuple[float, float, float] | None) -> Outcome:
    image, direction, visual = similarities or (0.5, 0.0, 0.25)
    captioned = None if similarities is None else (direction, direction)
    figures = {"direction_similarity": captioned, "visual_similarity": (visual, visual)}
    return Outcome("a", "global", method, 0, (20.0, 20.0), (0.5, 0.5), None, 0.3, (image, image), **figures)


def test_text_table_has_our_figures_beside_the_papers() -> None:
    outcomes = [
        outcome("words", (0.81, 0.21, 0.31)),
        outcome("visii_1", (0.82, 0.22, 0.32)),
        outcome("visii_2_fixed_noise", (0.83, 0.23, 0.33)),
    ]
    text = text_tables(outcomes, "Clean-InstructPix2Pix")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Visii's Table 1, random noise" in lines and "Visii's Table 1, fixed noise" in lines
    assert "Clean-InstructPix2Pix no training, words 0.810 0.210 0.310 | 0.824 0.196 0.301" in lines
    assert "1 pair, MSE + CLIP, caption 0.820 0.220 0.320 | 0.823 0.126 0.299" in lines
    assert "Clean-InstructPix2Pix 2 pairs, MSE + CLIP, caption 0.830 0.230 0.330 | 0.826 0.117 0.253" in lines
    assert "Datasets Method Img ↑ Direct. ↑ Visual ↑ | Img ↑ Direct. ↑ Visual ↑" in lines
    assert "Directional similarity was not measured" not in text
    silent = text_tables([outcome("visii_1", None)], "TOP-Bench")
    assert "1 pair, MSE + CLIP, caption 0.500 - 0.250 |" in " ".join(silent.split())
    assert silent.splitlines()[-1] == "Directional similarity was not measured: the data set has no captions."
    assert "Visii's Table 1" not in text_tables([outcome("words", None)], "TOP-Bench")
