"""Scale, Blend, Compose, Add Words and Inspect Instruction in graphs."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    conditioned,
    instruction,
    learning,
    make_image,
    sampled,
)
from instructbrush.tests.comfy.learning.test_text_space import text_instruction


def parts_of(comfy, learned):
    return [
        (part.weight, part.instruction)
        for part in comfy.pack("core.instruction.instruction").parts_of(learned)
    ]


def made(comfy, node_id, **inputs):
    """The first output of a node for instructions, words and numbers."""
    graph = comfy.graph()
    inputs = {
        name: value if isinstance(value, int | float | str) else comfy.give(graph, value)
        for name, value in inputs.items()
    }
    return comfy.values(graph, graph.node(node_id, **inputs).out(0))[0]


def error_of(comfy, node_id, **inputs):
    graph = comfy.graph()
    inputs = {
        name: value if isinstance(value, int | float | str) else comfy.give(graph, value)
        for name, value in inputs.items()
    }
    return comfy.error(graph, graph.node(node_id, **inputs).out(0))


def edited(comfy, learned, **changes):
    """Stock sampling with Apply Instruction."""
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, positive = applied(graph, comfy, parts.model, positive, learned, **changes)
    return comfy.values(graph, sampled(graph, model, positive, negative, latent, steps=2))[0]["samples"]


def close(first, second, tolerance=2e-5):
    return torch.allclose(first, second, atol=tolerance * second.abs().max().item())


def with_thumbnail(comfy, learned, colour):
    """The instruction with a plain thumbnail."""
    return comfy.pack("nodes.shared.socket_types").with_thumbnail(
        learned, Image.new("RGB", (256, 128), colour)
    )


def test_scale_matches_the_strength_of_apply(comfy):
    learned = instruction(comfy)
    assert made(comfy, "InstructBrushScale", instruction=learned, factor=1.0) is learned
    for factor in (0.5, -1.0):
        scaled = made(comfy, "InstructBrushScale", instruction=learned, factor=factor)
        assert close(edited(comfy, scaled), edited(comfy, learned, strength=factor))
    assert torch.equal(
        edited(comfy, made(comfy, "InstructBrushScale", instruction=learned, factor=0.0)),
        edited(comfy, learned, strength=0.0),
    )


def test_blend_is_a_weighted_sum(comfy):
    first, second = instruction(comfy, 1), instruction(comfy, 2, segments=2, tokens=4)
    whole = made(
        comfy, "InstructBrushBlend", instruction_1=first, weight_1=0.25, instruction_2=second, weight_2=0.75
    )
    assert [weight for weight, _ in parts_of(comfy, whole)] == [0.25, 0.75]
    other = made(
        comfy, "InstructBrushBlend", instruction_1=second, weight_1=0.75, instruction_4=first, weight_4=0.25
    )
    assert close(edited(comfy, whole), edited(comfy, other))
    only = made(
        comfy, "InstructBrushBlend", instruction_1=first, weight_1=1.0, instruction_3=second, weight_3=0.0
    )
    assert only is first
    nested = made(
        comfy, "InstructBrushBlend", instruction_1=whole, weight_1=2.0, instruction_2=text_instruction(comfy)
    )
    assert [weight for weight, _ in parts_of(comfy, nested)] == [0.5, 1.5, 0.5]
    assert torch.isfinite(edited(comfy, nested)).all()


def test_saves_and_loads_a_blend_as_one_file(comfy):
    first, second = (
        with_thumbnail(comfy, instruction(comfy, 1), "red"),
        with_thumbnail(comfy, text_instruction(comfy), "blue"),
    )
    whole = made(
        comfy, "InstructBrushBlend", instruction_1=first, weight_1=0.5, instruction_2=second, weight_2=-1.0
    )
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushSave",
        instruction=comfy.give(graph, whole),
        name="both",
        if_taken="overwrite",
        precision="fp32",
    )
    kept, path = comfy.values(graph, node.out(0), node.out(1))
    assert kept is whole and Path(path).name == "both.safetensors"
    graph = comfy.graph()
    run = comfy.run(graph, graph.node("InstructBrushLoad", name="both.safetensors").out(0))
    loaded = run.values[0]
    assert [(weight, part.info.space) for weight, part in parts_of(comfy, loaded)] == [
        (0.5, "attention"),
        (-1.0, "text"),
    ]
    assert torch.equal(edited(comfy, loaded), edited(comfy, whole))
    remarks = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})][0]
    assert (
        len(remarks) == 2
        and remarks[0].startswith("0.5 x seeded, pocket:")
        and remarks[1].endswith("rows, text space")
    )
    # Instructions made of the parts keep both thumbnails, one below the other.
    assert comfy.pack("nodes.shared.socket_types").thumbnail_of(loaded).size == (256, 256)
    half = made(comfy, "InstructBrushScale", instruction=loaded, factor=0.5)
    assert comfy.pack("nodes.shared.socket_types").thumbnail_of(half).size == (256, 256)


def test_composition_acts_and_keeps_both_thumbnails(comfy):
    first, second = (
        with_thumbnail(comfy, instruction(comfy, 1), "red"),
        with_thumbnail(comfy, instruction(comfy, 2, segments=2, tokens=4), "blue"),
    )
    both = made(comfy, "InstructBrushCompose", first=first, second=second)
    assert (both.info.tokens, both.info.segments) == (12, 10)
    site = next(iter(both.keys))
    assert torch.equal(both.keys[site][9, :8], first.keys[site][4]) and torch.equal(
        both.keys[site][4, 8:], second.keys[site][0]
    )
    assert both.thumbnail.size == (256, 256)
    assert torch.isfinite(edited(comfy, both)).all() and not close(
        edited(comfy, both), edited(comfy, first), 1e-2
    )


def test_composition_may_exceed_the_text_window(comfy):
    """Twice 16 rows with a window of 32: attention accepts any number of rows, also mixed with words."""
    both = made(
        comfy,
        "InstructBrushCompose",
        first=instruction(comfy, 1, tokens=16),
        second=instruction(comfy, 2, tokens=16),
    )
    assert both.context.shape[0] == 48 and both.info.tokens == 32
    assert (
        torch.isfinite(edited(comfy, both)).all()
        and torch.isfinite(
            edited(comfy, made(comfy, "InstructBrushScale", instruction=both, factor=0.5))
        ).all()
    )


def test_a_composition_is_no_burden_for_the_other_branches(comfy, monkeypatch):
    """33 rows and 32 of the words have 1056 in common: ComfyUI calls the model twice instead."""
    first, second = (instruction(comfy, seed, tokens=1) for seed in (1, 2))
    both = made(comfy, "InstructBrushCompose", first=first, second=second)
    attached = comfy.pack("nodes.comfy.sampling.instruction_patch")
    prepared, lengths = attached.prepare_call, []

    def noted(injection, sites, timesteps, context, options):
        context, options = prepared(injection, sites, timesteps, context, options)
        lengths.append(context.shape[1])
        return context, options

    monkeypatch.setattr(attached, "prepare_call", noted)
    apart = edited(comfy, both)
    assert lengths == [33] * 2
    monkeypatch.setattr(comfy.pack("core.instruction.injection").Injection, "joins", lambda *_: True)
    comfy.forget()
    together = edited(comfy, both)
    assert lengths == [33] * 2 + [1056] * 2 and close(apart, together)


def test_rejects_composing_two_spaces(comfy):
    assert error_of(
        comfy, "InstructBrushCompose", first=instruction(comfy), second=text_instruction(comfy)
    ) == (
        "Compose: 'seeded' was learned in attention space, 'seeded' in text space. Blend them "
        "instead, or learn one again."
    )


def with_words(comfy, learned, words):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushAddWords", instruction=comfy.give(graph, learned), clip=Parts(graph).clip, words=words
    )
    run = comfy.run(graph, node.out(0), node.out(1))
    remark = [data["output"]["text"][0] for data in run.data("executed") if "text" in (data["output"] or {})][
        -1
    ]
    return *run.values, remark


def test_add_words_appends_them_to_the_learned_rows(comfy):
    learned = with_thumbnail(comfy, instruction(comfy), "red")
    hybrid, cut, remark = with_words(comfy, learned, "make it night")
    editor = comfy.pack("core.editing.loading").load_editor()
    states = editor.encode_text(["make it night"])[0]
    assert cut == "" and remark == "3 tokens of words after the learned rows"
    assert torch.equal(hybrid.context[:9], learned.context[:9]) and close(hybrid.context[9:], states[1:24])
    assert hybrid.thumbnail is learned.thumbnail and hybrid.keys is learned.keys
    assert not close(edited(comfy, hybrid), edited(comfy, learned), 1e-3)
    same, cut, remark = with_words(comfy, learned, "  ")
    assert same is learned and cut == "" and remark == "0 tokens of words after the learned rows"


def test_add_words_passes_on_that_there_is_no_instruction(comfy):
    graph = comfy.graph()
    node = graph.node("InstructBrushAddWords", clip=Parts(graph).clip, words="make it night")
    assert comfy.run(graph, node.out(0), node.out(1)).values == [None, ""]


def test_add_words_returns_the_words_that_do_not_fit(comfy):
    learned = text_instruction(comfy, tokens=26)
    hybrid, cut, remark = with_words(comfy, learned, "make it night and add snow with rain")
    assert cut == "add snow with rain" and remark.endswith(
        "The text window is full; these words are cut: add snow with rain"
    )
    _, cut, _ = with_words(comfy, learned, "make it night and " * 12)
    assert cut == ("make it night and " * 11).strip()
    _, cut, _ = with_words(comfy, text_instruction(comfy, tokens=31), "make it night")
    assert cut == "make it night"


def inspected(comfy, learned, connected=True, **changes):
    graph = comfy.graph()
    parts = Parts(graph)
    inputs = {"model": parts.model, "clip": parts.clip} if connected else {}
    node = graph.node("InstructBrushInspect", instruction=comfy.give(graph, learned), **inputs, **changes)
    run = comfy.run(graph, node.out(0), node.out(1), node.out(2))
    output = next(data["output"] for data in run.data("executed") if "images" in (data["output"] or {}))
    assert output["text"][0] == run.values[0]
    return *run.values, len(output["images"])


def test_inspect_describes_an_instruction(comfy):
    editor = comfy.pack("core.editing.loading").load_editor()
    phrase = editor.encode_text(["make it night"])[0]
    projected = editor.denoiser.project(phrase)
    learned = instruction(comfy, segments=2, tokens=3)
    # Equal to its init text, but with doubled values in the second segment.
    init = {
        site: (keys[1:4].expand(2, -1, -1), torch.stack([values[1:4], 2 * values[1:4]]))
        for site, (keys, values) in projected.items()
    }
    learned = type(learned)(
        {site: pair[0] for site, pair in init.items()},
        {site: pair[1] for site, pair in init.items()},
        phrase,
        1,
        learned.info,
    )
    description, bars, thumbnail, shown = inspected(
        comfy, with_thumbnail(comfy, learned, "red"), words="night, snow\nmake"
    )
    assert "  t 0-499: K 0%, V 0%\n  t 500-999: K 0%, V 100%\n" in description
    assert "\n  row 1: make 1.00, " in description and "\n  row 3: night " in description
    assert bars.shape[2:] == (640, 3) and thumbnail.shape == (1, 128, 256, 3) and shown == 2
    description, bars, thumbnail, shown = inspected(comfy, learned, connected=False)
    assert (
        "connect the model" in description
        and "nearest words:" not in description
        and thumbnail.shape == (1, 1, 1, 3)
        and shown == 1
    )
    description, *_ = inspected(comfy, learned)
    assert "anime" not in description, "words of several tokens are left out"


def test_can_learn_on_a_model_after_inspecting(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    description = graph.node(
        "InstructBrushInspect",
        instruction=comfy.give(graph, instruction(comfy)),
        model=parts.model,
        clip=parts.clip,
    ).out(0)
    after = learning(graph, comfy, parts, steps=2, init_text="make it night").out(0)
    _, learned = comfy.values(graph, description, after)
    assert learned.info.steps == 2


def test_inspect_describes_every_part_of_a_blend(comfy):
    whole = made(
        comfy,
        "InstructBrushBlend",
        instruction_1=instruction(comfy),
        weight_1=0.5,
        instruction_2=text_instruction(comfy),
        weight_2=2.0,
    )
    description, bars, *_ = inspected(comfy, whole)
    assert (
        "weight: 0.5" in description
        and "weight: 2" in description
        and description.count("nearest words:") == 2
    )
    assert bars.shape[1] == 504


@pytest.mark.parametrize(
    "node_id",
    [
        "InstructBrushScale",
        "InstructBrushBlend",
        "InstructBrushCompose",
        "InstructBrushAddWords",
        "InstructBrushInspect",
    ],
)
def test_nodes_do_not_change_their_inputs(comfy, node_id):
    learned = instruction(comfy, tokens=4)
    before = {name: tensor.clone() for name, tensor in learned.learned().items()} | {
        "context": learned.context.clone()
    }
    if node_id == "InstructBrushCompose":
        made(comfy, node_id, first=learned, second=learned)
    elif node_id == "InstructBrushAddWords":
        with_words(comfy, learned, "make it night")
    elif node_id == "InstructBrushInspect":
        inspected(comfy, learned)
    else:
        made(
            comfy,
            node_id,
            **(
                {"instruction": learned, "factor": 0.5}
                if "Scale" in node_id
                else {"instruction_1": learned, "weight_1": 0.5}
            ),
        )
    after = learned.learned() | {"context": learned.context}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
