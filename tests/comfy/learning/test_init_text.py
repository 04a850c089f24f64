"""Load OpenCLIP, Unique Phrases and Caption Init in ComfyUI."""

import gc
import weakref

import pytest
import torch
from safetensors.torch import save_file

from instructbrush.tests.comfy.graphs import Parts, learning
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS

TITLE = "pocket CLIP (built in)"


@pytest.fixture(scope="module")
def night(comfy):
    before, after = EFFECTS["night_snow"].pairs(3, 1)
    return comfy.pack("core.pairs.pairs").make_pairs(torch.from_numpy(before), torch.from_numpy(after))


@pytest.fixture(scope="module")
def light(comfy, repository):
    """The pairs of the example workflow that finds words."""
    return comfy.pack("core.pairs.pairs").load_pairs(
        repository / "example_workflows" / "pairs" / "light_from_the_right"
    )


def loaded(graph, name=TITLE):
    return graph.node("InstructBrushLoadOpenClip", clip_name=name).out(0)


def phrases(comfy, graph, pairs, **changes):
    settings = {"open_clip": loaded(graph), "phrases": 3, "eta": -1.0, "word_lists": "auto", **changes}
    return graph.node("InstructBrushUniquePhrases", pairs=comfy.give(graph, pairs), **settings)


def caption(comfy, graph, pairs, **changes):
    settings = {"open_clip": loaded(graph), "tokens": 4, "steps": 6, "seed": 0, **changes}
    return graph.node("InstructBrushCaptionInit", pairs=comfy.give(graph, pairs), **settings)


def interrupt_at(comfy, monkeypatch, count):
    """Presses Cancel when the progress bar moves for the given time."""
    import comfy.model_management as management

    progress = comfy.pack("nodes.comfy.encoders.progress")
    original = progress.check_interrupted
    calls = []

    def check():
        calls.append(None)
        if len(calls) == count:
            management.interrupt_current_processing(True)
        original()

    monkeypatch.setattr(progress, "check_interrupted", check)


def test_finds_shows_and_learns_from_phrases(comfy, night):
    graph = comfy.graph()
    node = phrases(comfy, graph, night)
    learned = learning(
        graph, comfy, Parts(graph), init_text=node.out(0), pairs=comfy.give(graph, night), steps=2
    )
    run = comfy.run(graph, node.out(0), node.out(1), learned.out(0))
    text, table, instruction = run.values
    assert (
        text.startswith("turn ")
        and text.endswith((" into night", " into snow"))
        and instruction.info.init_text == text
    )
    assert (
        table.splitlines()[0].split() == ["set", "phrase", "sensitivity"]
        and 8 < len(table.splitlines()) <= 8 + 8
        and ("night" in table or "snow" in table)
    )
    shown = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert shown == [[table]]
    assert max(step["value"] / step["max"] for step in run.data("progress")) == 1.0


def test_cache_is_not_served_over_http(comfy, night):
    graph = comfy.graph()
    comfy.values(graph, phrases(comfy, graph, night, phrases=1).out(0))
    (file,) = (comfy.base / "user" / "__instructbrush" / "phrases").iterdir()
    assert file.name.startswith("pocket-") and file.suffix == ".safetensors"


def shown_phrases(run):
    """The data of the chips."""
    (data,) = [data["output"] for data in run.data("executed") if "phrases" in (data["output"] or {})]
    return data["phrases"][0]


@pytest.mark.parametrize("weak", ["take the best", "take none"])
def test_finds_no_words_far_above_eta_and_says_why(comfy, night, weak):
    graph = comfy.graph()
    node = phrases(comfy, graph, night, eta=50.0, weak_phrases=weak)
    text, table = comfy.values(graph, node.out(0), node.out(1))
    assert text == "" and "eta 50. No init text: the highest sensitivity after the edit is" in table


def test_takes_the_best_weak_phrases_unless_told_not_to(comfy, light):
    graph = comfy.graph()
    node = phrases(comfy, graph, light, phrases=5)
    run = comfy.run(graph, node.out(0), node.out(1))
    text, table = run.values
    assert text == "turn bright light into dark corners"
    assert "these differ most" in table.splitlines()[-1]
    shown = shown_phrases(run)
    taken = {each["text"]: each["weak"] for each in shown["phrases"] if each["taken"]}
    assert taken == {"bright light": True, "dark corners": False}
    for each in shown["phrases"]:
        own, other = (each["before"], each["after"])[:: 1 if each["side"] == "before" else -1]
        assert each["sensitivity"] == pytest.approx(own - other, abs=1e-5)
    graph = comfy.graph()
    paper = phrases(comfy, graph, light, phrases=5, weak_phrases="take none")
    assert comfy.values(graph, paper.out(0)) == [""]


def test_follows_the_users_choice_and_searches_once(comfy, light, monkeypatch):
    module = comfy.pack("nodes.learning.init_text")
    searches = []
    original = module.unique_phrases
    monkeypatch.setattr(module, "unique_phrases", lambda *given: searches.append(1) or original(*given))
    module._FOUND.clear()
    clip_graph = comfy.graph()
    (clip,) = comfy.values(clip_graph, loaded(clip_graph))

    def choose(pairs, chosen):
        graph = comfy.graph()
        node = phrases(comfy, graph, pairs, phrases=5, open_clip=comfy.give(graph, clip), chosen=chosen)
        run = comfy.run(graph, node.out(0), node.out(1))
        return *run.values, shown_phrases(run)

    choose(light, "")
    text, table, shown = choose(light, '{"before": [], "after": ["dark corners", "a photo"]}')
    assert text == "turn it into a photo and dark corners" and shown["by_user"] and not shown["gone"]
    assert "(your choice)" in table
    text, _, shown = choose(light, '{"before": ["bright light"], "after": []}')
    assert text == "" and shown["by_user"]
    text, table, shown = choose(light, '{"before": [], "after": ["dark corners", "an igloo"]}')
    assert text == "turn it into dark corners" and list(shown["gone"]) == ["an igloo"]
    assert "No longer among the phrases, and left out: an igloo." in table
    assert len(searches) == 1
    text, table, shown = choose(light, '{"before": [], "after": ["an igloo"]}')
    assert text == "turn bright light into dark corners" and not shown["by_user"]
    graph = comfy.graph()
    assert "the taken phrases cannot be read" in comfy.error(
        graph, phrases(comfy, graph, light, chosen='["snow"]').out(0)
    )


def test_uses_the_chosen_list_and_scale(comfy, night):
    graph = comfy.graph()
    table = comfy.values(
        graph,
        phrases(comfy, graph, night, phrases=1, word_lists="pocket", similarity_scale=100.0, eta=20.0).out(1),
    )[0]
    assert "eta 20. Init text: turn " in table


def test_finds_shows_and_repeats_a_caption(comfy, night):
    graph = comfy.graph()
    node = caption(comfy, graph, night, steps=20)
    run = comfy.run(graph, node.out(0), node.out(1))
    text, report = run.values
    assert report.startswith(f"{text}\nmean cosine ") and ", 4 tokens" in report
    assert [step["value"] for step in run.data("progress")][-1] == 20
    comfy.forget()
    again = comfy.graph()
    assert comfy.values(again, caption(comfy, again, night, steps=20).out(0)) == [text]


def test_zero_steps_mean_the_default_of_the_clip(comfy, night, monkeypatch):
    monkeypatch.setattr(comfy.pack("core.learning.init_text.captions"), "POCKET_STEPS", 7)
    graph = comfy.graph()
    run = comfy.run(graph, caption(comfy, graph, night, steps=0).out(0))
    assert {step["max"] for step in run.data("progress")} == {7}


@pytest.mark.parametrize("which", [phrases, caption])
def test_cancel_stops_the_node(comfy, night, monkeypatch, which):
    comfy.forget()
    comfy.pack("nodes.learning.init_text")._FOUND.clear()
    graph = comfy.graph()
    interrupt_at(comfy, monkeypatch, 2)
    run = comfy.attempt(graph, which(comfy, graph, night).out(0))
    assert run.error["exception_type"] == "interrupted"


def test_comfyui_holds_the_clip_and_it_works_after_inference_mode(comfy, night):
    import comfy.model_management as management

    graph = comfy.graph()
    (clip,) = comfy.values(graph, loaded(graph))
    assert not any(
        parameter.is_inference() or parameter.requires_grad for parameter in clip.module.parameters()
    )
    residency = comfy.pack("nodes.comfy.encoders.residency")
    with torch.inference_mode():
        clip.module.ln_final.weight = torch.nn.Parameter(
            clip.module.ln_final.weight.clone(), requires_grad=False
        )
        residency.prepare(clip)
    assert not clip.module.ln_final.weight.is_inference()
    assert any(
        each.model is not None and each.model.model is clip.module
        for each in management.current_loaded_models
    )
    with torch.inference_mode():
        residency.prepare(clip)
    held = weakref.ref(residency.patchers[clip])
    assert (
        sum(
            each.model is not None and each.model.model is clip.module
            for each in management.current_loaded_models
        )
        == 1
    )
    del clip
    comfy.forget()
    gc.collect()
    assert held() is None


def test_lists_and_loads_a_model_in_the_folder(comfy, night, tmp_path):
    from instructbrush.tests.support import tiny_clip

    path = comfy.base / "models" / "open_clip" / "ViT-B-32-small.safetensors"
    tiny_clip.register(tmp_path, "ViT-B-32", tiny_clip.CONFIG)
    try:
        states = tiny_clip.reference(tmp_path).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in states.items()}, path)
        assert "ViT-B-32/small" in comfy.pack("nodes.comfy.encoders.open_clip").names()
        graph = comfy.graph()
        clip = loaded(graph, "ViT-B-32/small")
        run = comfy.run(
            graph, phrases(comfy, graph, night, open_clip=clip, word_lists="pocket", phrases=1).out(1), clip
        )
        assert "eta 0.05." in run.values[0] and run.values[1].name == "ViT-B-32/small"
        path.write_bytes(path.read_bytes()[:-8])
        graph = comfy.graph()
        assert comfy.error(graph, loaded(graph, "ViT-B-32/small")).startswith(
            "ViT-B-32-small.safetensors: the file is cut short"
        )
    finally:
        path.unlink(missing_ok=True)
        import open_clip.factory

        open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path / "ViT-B-32.json")
        open_clip.factory._rescan_model_configs()


def test_names_the_missing_file_and_its_folder(comfy):
    graph = comfy.graph()
    message = comfy.error(graph, loaded(graph, "ViT-L-14/openai"))
    folder = comfy.base / "models" / "open_clip"
    assert (
        f"CLIP 'ViT-L-14/openai': ViT-L-14-openai.safetensors is not in {folder}. "
        "Put the model's .safetensors file" in message
    )
    graph = comfy.graph()
    assert (
        "CLIP 'nonsense': a name is architecture/weights, such as ViT-L-14/openai, or pocket."
        in comfy.error(graph, loaded(graph, "nonsense"))
    )


def test_rejects_invalid_inputs_by_name(comfy, night):
    graph = comfy.graph()
    assert comfy.error(graph, caption(comfy, graph, night, tokens=31).out(0)) == (
        "Caption Init: 31 tokens do not fit. Choose 1 to 30, the text window of this CLIP."
    )
