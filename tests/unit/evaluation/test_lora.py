"""LoRAs on an effect's pairs, and the damage that methods do to unrelated edits."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_example import lora as lora_module
from instructbrush.core.evaluation.by_example.damage import Probes
from instructbrush.core.evaluation.by_example.effects import Effect
from instructbrush.core.evaluation.by_example.lora import (
    RATES,
    LoraTask,
    choose_rate,
    error_on,
    learn_lora,
    lora_layers,
    round_to_half,
)
from instructbrush.core.evaluation.by_example.methods import METHODS, BenchmarkModels, EffectEditor
from instructbrush.core.evaluation.by_example.methods import lora as method_module
from instructbrush.core.pairs.pairs import make_pairs


@pytest.fixture
def effect_editor(
    editor: DiffusersEditor,
    pair_tensors: Callable[..., tuple[Tensor, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> EffectEditor:
    monkeypatch.setattr(EffectEditor, "phrase", lambda self, pairs: "turn it into snow")
    train, test = make_pairs(*pair_tensors(4, 64, 64)), make_pairs(*pair_tensors(2, 64, 64, seed=50))
    models = BenchmarkModels(
        editor, pocket_clip(), steps=4, sampling=SamplingSettings(2), cache=tmp_path, find_scales=False
    )
    return EffectEditor(models, Effect("swap", "global", "shift the colors", train, test))


@pytest.fixture
def task(effect_editor: EffectEditor) -> LoraTask:
    editor = effect_editor.models.editor
    context = editor.encode_text(["turn it into snow"])[0]
    latents = effect_editor.latents(effect_editor.pairs())
    return LoraTask(editor.denoiser, latents, context, effect_editor.models.settings("attention", 0))


def test_leaves_the_model_bit_for_bit_as_it_was(task: LoraTask) -> None:
    unet = task.denoiser.unet
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    modules, attributes = list(map(id, unet.modules())), set(vars(unet))
    before = error_on(task, 0)
    with lora_layers(unet, 4, 0) as parameters:
        assert error_on(task, 0) == before, "B is zero, so a new LoRA has no effect"
        learn_lora(task.at_rate(0.01), parameters)
        assert error_on(task, 0) != before
    with pytest.raises(ZeroDivisionError), lora_layers(unet, 4, 0):
        raise ZeroDivisionError
    assert error_on(task, 0) == before
    assert list(map(id, unet.modules())) == modules and set(vars(unet)) == attributes
    assert list(unet.state_dict()) == list(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_learns_q_k_v_and_out_of_both_attentions(task: LoraTask) -> None:
    with lora_layers(task.denoiser.unet, 4, 0) as first, torch.no_grad():
        layers = {name.partition(".lora_")[0] for name in first}
        start = [tensor.clone() for tensor in first.values()]
    wanted = {
        f"{attention}.{layer}"
        for name in task.denoiser.unet.attn_processors
        for attention in [name.removesuffix(".processor")]
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
    }
    assert layers == wanted and {name.rpartition(".")[0] for name in wanted}
    with lora_layers(task.denoiser.unet, 4, 0) as same:
        assert all(map(torch.equal, start, same.values()))
    with lora_layers(task.denoiser.unet, 4, 1) as other:
        assert not all(map(torch.equal, start, other.values()))


def test_chooses_the_rate_on_a_pair_that_it_never_saw(
    task: LoraTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned_from = []
    original = lora_module.learn_lora

    def learn(given: LoraTask, parameters: dict[str, Tensor]) -> float | None:
        learned_from.append(given.latents.after)
        return original(given, parameters)

    monkeypatch.setattr(lora_module, "learn_lora", learn)
    rate, errors = choose_rate(task, 4, (1e-8, 1e-3, 1e-2))
    assert set(errors) == {"1e-08", "0.001", "0.01"} and errors[str(rate)] == min(errors.values())
    for latents in learned_from:
        assert len(latents) == 3 and not any(torch.equal(each, task.latents.after[3]) for each in latents)
    assert task.at_rate(0.02).settings.rate_at(3) == pytest.approx(0.002)


def test_file_is_the_one_that_people_share(task: LoraTask) -> None:
    with lora_layers(task.denoiser.unet, 4, 0) as parameters:
        learn_lora(task.at_rate(0.01), parameters)
        size = round_to_half(parameters)
        halves = {name: tensor.detach().half() for name, tensor in parameters.items()}
        file = save(halves)
        assert size == len(file) and all(
            torch.equal(load(file)[name].float(), tensor) for name, tensor in parameters.items()
        )


def test_method_reports_cost_and_chooses_its_rate_with_every_seed(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def choose(given: LoraTask, rank: int) -> tuple[float, dict[str, float]]:
        seeds.append(given.settings.seed)
        return choose_rate(given, rank)

    monkeypatch.setattr(method_module, "choose_rate", choose)
    first = METHODS["lora_r4"].edit(effect_editor, 0)
    assert first.cost is not None and first.cost.learning_rate in RATES and first.cost.file_bytes > 100_000
    assert (
        first.init_text == "turn it into snow" and first.final_loss is not None and first.damage is not None
    )
    second = METHODS["lora_r4"].edit(effect_editor, 1)
    assert seeds == [0, 1] and second.cost is not None and second.cost.learning_rate in RATES
    assert second.damage is None and not torch.equal(first.images[0], second.images[0])


def diverge_at(*rates: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes all numbers of LoRAs at these rates infinite. Returns the rates that are tried, as they come."""
    tried: list[float] = []
    original = lora_module.learn_lora

    def learn(given: LoraTask, parameters: dict[str, Tensor]) -> float | None:
        tried.append(given.settings.learning_rate)
        if given.settings.learning_rate in rates:
            for parameter in parameters.values():
                parameter.data.fill_(torch.inf)
        return original(given, parameters)

    monkeypatch.setattr(lora_module, "learn_lora", learn)
    monkeypatch.setattr(method_module, "learn_lora", learn)
    return tried


def test_takes_the_next_best_rate_where_the_best_diverges(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"0.003": 0.5, "0.01": 0.2, "0.02": 0.1}
    monkeypatch.setattr(method_module, "choose_rate", lambda *given: (0.02, errors))
    tried = diverge_at(0.02, monkeypatch=monkeypatch)
    found = METHODS["lora_r4"].edit(effect_editor, 0)
    assert tried == [0.02, 0.01] and found.cost is not None and found.cost.learning_rate == 0.01
    assert found.remark == "Learning diverged at the rate 0.02, so the next best was taken: 0.01."
    assert found.damage is not None and all(torch.isfinite(image).all() for image in found.images)
    # A rate that diverged when it was chosen is not tried.
    monkeypatch.setattr(method_module, "choose_rate", lambda *given: (0.02, {"0.02": 0.1}))
    with pytest.raises(EvaluationError, match="on 'swap': learning with seed 1 diverges at the rate 0.02. L"):
        METHODS["lora_r4"].edit(effect_editor, 1)


def test_a_lora_that_gets_worse_on_the_pair_that_chose_its_rate_has_diverged(
    effect_editor: EffectEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small an error unseen that learning from the pair cannot keep it.
    monkeypatch.setattr(method_module, "choose_rate", lambda *given: (0.02, {"0.02": 1e-9, "0.01": 9.0}))
    found = METHODS["lora_r4"].edit(effect_editor, 0)
    assert found.cost is not None and found.cost.learning_rate == 0.01
    assert found.remark == "Learning diverged at the rate 0.02, so the next best was taken: 0.01."


def test_a_rate_that_diverges_is_not_chosen(task: LoraTask, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge_at(0.003, 0.01, monkeypatch=monkeypatch)
    rate, errors = choose_rate(task, 4)
    assert rate == 0.02 and set(errors) == {"0.02"}
    with pytest.raises(EvaluationError, match="not finite at any rate of 0.003, 0.01. Leave the method out"):
        choose_rate(task, 4, (0.003, 0.01))


def test_stops_soon_where_the_loss_is_not_finite(task: LoraTask, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    original = lora_module._backward

    def backward(*given: Any) -> Tensor:
        steps.append(1)
        return original(*given)

    monkeypatch.setattr(lora_module, "_backward", backward)
    longer = replace(task, settings=replace(task.settings, steps=60))
    with lora_layers(task.denoiser.unet, 4, 0) as parameters:
        for parameter in parameters.values():
            parameter.data.fill_(torch.inf)
        assert learn_lora(longer, parameters) is None and len(steps) == 25


def test_a_lora_that_is_not_finite_after_its_last_step_has_diverged(task: LoraTask) -> None:
    with lora_layers(task.denoiser.unet, 4, 0) as parameters:
        # Every loss is finite; only the step after it is not.
        for parameter in parameters.values():
            parameter.register_hook(lambda gradient: gradient * torch.inf)
        one = replace(task, settings=replace(task.settings, steps=1))
        assert learn_lora(one, parameters) is None


def test_names_the_package_that_is_missing(task: LoraTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    told = "the LoRA methods need the peft package, which is not installed. Run: pip install peft"
    with pytest.raises(EvaluationError, match=told), lora_layers(task.denoiser.unet, 4, 0):
        pass


def test_a_lora_moves_unrelated_edits_and_an_instruction_does_not(
    effect_editor: EffectEditor, task: LoraTask
) -> None:
    editor = effect_editor.models.editor
    probes = Probes(editor, effect_editor.effect.inputs, SamplingSettings(2))
    probes.keep(beside=False)
    with lora_layers(task.denoiser.unet, 4, 0) as parameters:
        assert probes.damage(None) == 0
        learn_lora(task.at_rate(0.02), parameters)
        assert probes.damage(None) > 1e-3
    models = replace(effect_editor.models, steps=4)
    learned = EffectEditor(models, effect_editor.effect).by_learning(
        models.settings("attention", 0), effect_editor.pairs(), "turn it into snow"
    )
    assert learned.damage == 0 and learned.cost is not None and learned.cost.file_bytes > 0
