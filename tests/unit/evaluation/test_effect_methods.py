"""What each method of an effect learns with, and the noise of its test images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.evaluation.by_example.effects import Effect
from instructbrush.core.evaluation.by_example.methods import (
    DEFAULT_METHODS,
    METHODS,
    BenchmarkModels,
    EffectEditor,
)
from instructbrush.core.evaluation.by_example.methods import base as methods_module
from instructbrush.core.evaluation.by_example.results import EffectFolder
from instructbrush.core.evaluation.by_example.run import EffectRunSettings
from instructbrush.core.evaluation.runner import run
from instructbrush.core.instruction.instruction import Instruction
from instructbrush.core.learning.init_text.captions import CaptionSettings, caption_images, default_steps
from instructbrush.core.learning.init_text.phrases import unique_phrases
from instructbrush.core.learning.request import LearningRequest
from instructbrush.core.learning.settings import PAPER, PAPER_GUIDED, LearningSettings
from instructbrush.core.models.families import SD15
from instructbrush.core.pairs.pairs import EditPairs, make_pairs
from instructbrush.tools.benchmarks.pocket_bench import PocketEffect


@pytest.fixture(scope="module")
def effect_editor(
    editor: DiffusersEditor, pair_tensors: Callable[..., tuple[Tensor, Tensor]]
) -> EffectEditor:
    train, test = make_pairs(*pair_tensors(10, 64, 64)), make_pairs(*pair_tensors(5, 64, 64, seed=50))
    return EffectEditor(
        BenchmarkModels(editor, pocket_clip(), steps=1, sampling=SamplingSettings(1)),
        Effect("swap", "global", "shift the colors", train, test),
    )


def test_each_method_learns_with_its_settings(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Any, int, str]] = {}
    monkeypatch.setattr(EffectEditor, "phrase", lambda self, pairs: "turn it into snow")
    monkeypatch.setattr(EffectEditor, "caption", lambda self, pairs, seed: "red blue")
    for name in [*DEFAULT_METHODS, "visii_one_shot"]:
        monkeypatch.setattr(
            EffectEditor,
            "by_learning",
            lambda self, settings, pairs, text, name=name: seen.update({name: (settings, len(pairs), text)}),
        )
        METHODS[name].edit(effect_editor, 4)
    assert "words" not in seen and all(
        settings.seed == 4 and settings.text_scale == 2.0 for settings, _, _ in seen.values()
    )
    full, shots, text = seen["instructbrush"]
    assert (full.space, full.segments, full.direction_weight, shots, text) == (
        "attention",
        5,
        0.0,
        10,
        "turn it into snow",
    )
    visii = seen["visii"][0]
    assert (
        (visii.space, visii.objective, seen["visii"][2]) == ("text", "plain", "red blue")
        and visii.direction_weight > 0
        and visii.segments == 1
    )
    rates = {"learning_rate": visii.learning_rate, "final_learning_rate": visii.final_learning_rate}
    assert seen["no_attention"] == (replace(full, space="text", **rates), 10, "turn it into snow")
    assert seen["no_time"] == (
        replace(full, segments=1, batch=5 * full.batch, parametrisation="separate"),
        10,
        "turn it into snow",
    )
    assert seen["no_init"] == (full, 10, "red blue")
    assert seen["one_shot"] == (full, 1, "turn it into snow") and seen["visii_one_shot"][:2] == (visii, 1)


@pytest.mark.slow
def test_init_text_comes_from_the_training_pairs(tmp_path: Path) -> None:
    source = PocketEffect("hue_75")
    settings = EffectRunSettings(("visii", "instructbrush"), steps=1, sampling=SamplingSettings(1))
    caption, phrase = run([source], settings, EffectFolder(tmp_path), data="test")
    pairs = source.load().train
    clip = pocket_clip()
    assert phrase.init_text == unique_phrases(clip, pairs).init_text and "turn" in phrase.init_text
    seeded = CaptionSettings(steps=default_steps(clip), seed=0)
    assert (
        caption.init_text == caption_images(clip, [pair.after for pair in pairs], seeded).text
        and caption.init_text
    )


def test_paper_methods_ignore_the_presets_of_the_model(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[LearningSettings, str, SamplingSettings]] = []
    monkeypatch.setattr(EffectEditor, "phrase", lambda self, pairs: "turn it into snow")
    monkeypatch.setattr(
        EffectEditor,
        "by_learning",
        lambda self, settings, pairs, text, sampling: seen.append((settings, text, sampling)),
    )
    changed = replace(effect_editor.models, changes={"attention": {"tokens": 3}})
    given = replace(changed, sampling=SamplingSettings(1, text_scale=2.0))
    for models in (changed, given):
        editor = EffectEditor(models, effect_editor.effect)
        for name in ("instructbrush_paper", "instructbrush_paper_guided"):
            METHODS[name].edit(editor, 4)
    plain, guided = replace(PAPER, steps=1, seed=4), replace(PAPER_GUIDED, steps=1, seed=4)
    paper_scales = SamplingSettings(1, text_scale=7.5, image_scale=1.5)
    assert seen[:2] == [(each, "turn it into snow", paper_scales) for each in (plain, guided)]
    # An explicit s_T is the only one that replaces the paper's.
    assert seen[2][0] == replace(plain, text_scale=2.0) and seen[2][2].text_scale == 2.0


@pytest.mark.parametrize("objective", ["plain", "guided"])
def test_on_a_full_size_model_instructbrush_has_the_papers_settings(
    effect_editor: EffectEditor, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = replace(effect_editor.models, steps=None, changes={"attention": {"objective": objective}})
    full_size = replace(models.editor.description, family=SD15)
    monkeypatch.setattr(DiffusersEditor, "description", property(lambda self: full_size))
    preset = "paper" if objective == "plain" else "paper_guided"
    assert models.settings("attention", 0) == models.paper_settings(preset, 0)
    assert (models.text_scale, models.sampling.image_scale_for(SD15)) == (7.5, 1.5)


def test_paper_methods_keep_their_steps_unless_others_are_given(effect_editor: EffectEditor) -> None:
    def steps(name: str, models: BenchmarkModels) -> int:
        return next(iter(METHODS[name].recipe(models).values()))["steps"]

    pocket_bench = replace(effect_editor.models, steps=None, own_steps=250)
    given = replace(pocket_bench, steps=40)
    for name in ("instructbrush_paper", "instructbrush_paper_guided"):
        assert (steps(name, pocket_bench), steps(name, given)) == (1000, 40)
    for name in ("instructbrush", "visii", "adapter", "no_time", "lora_r4", "visii_1"):
        assert (steps(name, pocket_bench), steps(name, given)) == (250, 40)
        assert METHODS[name].recipe(pocket_bench) == METHODS[name].recipe(replace(given, steps=250))


def test_fixed_noise_learns_and_edits_with_the_noise_of_the_seed(effect_editor: EffectEditor) -> None:
    sampling = SamplingSettings(2, fixed_noise=True)
    models = replace(effect_editor.models, sampling=sampling)
    assert models.settings("text", 5).noise == models.settings("attention", 5).noise == "fixed"
    pairs = effect_editor.effect.test.pairs
    twice = replace(effect_editor.effect, test=EditPairs((pairs[0], *pairs[:4])))
    edited = EffectEditor(models, twice).by_words(5).images
    assert torch.equal(edited[0], edited[1])
    editor = models.editor
    context = editor.encode_text([twice.words])[0]
    by_hand = editor.edit(pairs[0].before[None], context, replace(sampling, seed=5))[0]
    torch.testing.assert_close(edited[0], by_hand, rtol=0, atol=1.01 / 255)
    fresh = EffectEditor(effect_editor.models, twice).by_words(5).images
    assert not torch.equal(fresh[0], fresh[1])


def test_leaves_out_direction_loss_with_another_clip(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    original = methods_module.learn

    def learn(request: LearningRequest, **options: Any) -> Instruction:
        requests.append(request)
        return original(request, **options)

    monkeypatch.setattr(methods_module, "learn", learn)
    settings, pairs = effect_editor.models.settings("text", 0), effect_editor.pairs(2)
    whole = effect_editor.by_learning(settings, pairs, "snow")
    assert (whole.losses, whole.remark) == ("noise, direction", "")
    assert requests[0].settings.direction_weight == 0.1 and requests[0].direction is not None
    narrow = torch.zeros(64, 32)
    monkeypatch.setattr(type(effect_editor.models.clip), "text_projection", property(lambda self: narrow))
    part = effect_editor.by_learning(settings, pairs, "snow")
    assert part.losses == "noise" and "The direction loss (weight 0.1) is left out" in part.remark
    assert "128 wide, and the CLIP projects text states 64 wide" in part.remark
    assert requests[1].settings.direction_weight == 0.0 and requests[1].direction is None


def test_noise_of_an_image_does_not_depend_on_its_batch(
    effect_editor: EffectEditor, pair_tensors: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    together = effect_editor.by_words(3).images
    assert all(torch.equal(image, (image * 255).round() / 255) for image in together)
    assert not torch.equal(effect_editor.by_words(4).images[0], together[0])
    # An image of another size in the middle splits the batch. The others do not change.
    odd = make_pairs(*pair_tensors(1, 64, 72)).pairs
    pairs = effect_editor.effect.test.pairs
    mixed = replace(effect_editor.effect, test=EditPairs((*pairs[:2], *odd, *pairs[3:])))
    apart = EffectEditor(effect_editor.models, mixed).by_words(3).images
    assert apart[2].shape == (64, 72, 3)
    for index in (0, 1, 3, 4):
        torch.testing.assert_close(apart[index], together[index], rtol=0, atol=1.01 / 255)
