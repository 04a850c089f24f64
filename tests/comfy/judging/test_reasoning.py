"""Load MLLM, Explain Instruction, Load Connector and Encode Instruction in a real ComfyUI: folders, conditionings for other nodes, memory, what is kept."""

import gc
import json
import shutil
import sys
import weakref
from pathlib import Path

import pytest
import torch

from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    conditioned,
    half,
    images_of,
    instruction,
    make_image,
    sampled,
)
from instructbrush.tests.support import tiny_mllms

MLLM, CONNECTOR = "mllm/tiny", "tiny.safetensors"
WISH = "it should look as if hours had passed"
ANSWER = '{"instruction": "make it night", "reason": "hours pass"}'


@pytest.fixture(scope="module", autouse=True)
def models(comfy):
    """A taught tiny LLaVA and a connector for it, where users put theirs."""
    root = Path(comfy.folder_paths.models_dir)
    folder = root / "mllm" / "tiny"
    tiny_mllms.train_llava(folder, [(make_image(1)[0], WISH, ANSWER)], 200)
    made = connector(comfy, folder)
    file = comfy.pack("core.reasoning.connector").save_connector(made, root / "connectors" / CONNECTOR)
    yield folder, file
    shutil.rmtree(folder)
    file.unlink()


def connector(comfy, folder, trained=True, **changes):
    room = comfy.pack("core.reasoning.connector")
    mllm = comfy.pack("core.encoders.mllm").Mllm(folder)
    editor = comfy.pack("core.editing.loading").load_editor()
    known = {
        "mllm_name": mllm.name,
        "mllm_fingerprint": mllm.fingerprint,
        "text_fingerprint": room.text_fingerprint(editor.text_encoder.state_dict()),
    }
    made = (
        room.new_connector(room.config_for(editor.description.family, mllm.width, **{**known, **changes}))
        .eval()
        .requires_grad_(False)
    )
    if trained:
        made.project_out.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(4))
    return made


@pytest.fixture
def forgetful(comfy, tmp_path, monkeypatch):
    """A store of states of this test's own."""
    store = comfy.pack("core.reasoning.state_cache").StateStore(tmp_path / "states")
    monkeypatch.setattr(comfy.pack("nodes.comfy.encoders.mllms"), "store", lambda: store)
    return tmp_path / "states"


def load(graph, name=MLLM, precision="auto"):
    return graph.node("InstructBrushLoadMllm", mllm_name=name, precision=precision).out(0)


def load_connector(graph, name=CONNECTOR):
    return graph.node("InstructBrushLoadConnector", connector_name=name).out(0)


def explain(comfy, graph, image, wish=WISH, **changes):
    return graph.node(
        "InstructBrushExplain", mllm=load(graph), image=comfy.give(graph, image), wish=wish, **changes
    )


def encode(comfy, graph, parts, image, words=WISH, mllm=None, link=None):
    given = {"mllm": mllm or load(graph), "connector": link or load_connector(graph), "clip": parts.clip}
    return graph.node(
        "InstructBrushEncodeInstruction", image=comfy.give(graph, image), words=words, **given
    ).out(0)


def plain(graph, parts, words):
    return graph.node("CLIPTextEncode", clip=parts.clip, text=words).out(0)


def test_a_wish_becomes_an_instruction_that_is_shown(comfy):
    graph = comfy.graph()
    node = explain(comfy, graph, make_image(1, 2))
    run = comfy.run(graph, node.out(0), node.out(1))
    assert run.values == ["make it night", "hours pass"]
    shown = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert shown == [["make it night\n\nhours pass"]] and run.data("progress")


def test_without_an_answer_the_words_are_taken_with_a_warning(comfy, caplog):
    graph = comfy.graph()
    node = explain(comfy, graph, make_image(1), max_tokens=8)
    run = comfy.run(graph, node.out(0), node.out(1))
    assert run.values == [WISH, ""]
    (shown,) = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert shown[0].startswith(
        f"{WISH}\n\nWarning: tiny gave no usable answer, so your own words are used. There was no JSON in it."
    )
    assert "tiny gave no usable answer" in caplog.text


def test_the_instruction_goes_into_every_other_node(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    words = explain(comfy, graph, make_image(1)).out(0)
    mine, theirs = comfy.values(graph, plain(graph, parts, words), plain(graph, parts, "make it night"))
    assert torch.equal(mine[0][0], theirs[0][0])


def test_an_untrained_connector_is_clip_text_encode_to_the_bit(comfy, models, forgetful):
    graph = comfy.graph()
    parts = Parts(graph)
    link = comfy.give(graph, connector(comfy, models[0], trained=False))
    mine, theirs = comfy.values(
        graph, encode(comfy, graph, parts, make_image(1), link=link), plain(graph, parts, WISH)
    )
    assert torch.equal(mine[0][0], theirs[0][0]) and mine[0][1].keys() == theirs[0][1].keys()


def test_without_words_it_is_the_null_branch(comfy, forgetful):
    graph = comfy.graph()
    parts = Parts(graph)
    mine, theirs = comfy.values(
        graph, encode(comfy, graph, parts, make_image(1, 3), " "), plain(graph, parts, " ")
    )
    assert torch.equal(mine[0][0], theirs[0][0]) and not forgetful.exists()


def test_every_image_of_a_batch_has_states_of_its_own(comfy, models, forgetful):
    core = comfy.pack("core.encoders.mllm").load_mllm(models[0])
    images = make_image(1, 3)
    graph = comfy.graph()
    parts = Parts(graph)
    mine, text = comfy.values(graph, encode(comfy, graph, parts, images), plain(graph, parts, WISH))
    states = core.states(list(images), [WISH] * 3)
    made = comfy.pack("core.reasoning.connector").load_connector(models[1])
    expected = made.encode(text[0][0], *states)
    assert (
        mine[0][0].shape == (3, *text[0][0].shape[1:]) and (mine[0][0][0] - mine[0][0][1]).abs().max() > 1e-3
    )
    torch.testing.assert_close(mine[0][0], expected, rtol=0, atol=1e-4)
    assert len(list(forgetful.glob("*.safetensors"))) == 3


def test_the_second_time_costs_nothing(comfy, models, forgetful):
    graph = comfy.graph()
    (first,) = comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(2)))
    comfy.forget()
    graph = comfy.graph()
    mllm = load(graph)
    again, model = comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(2), mllm=mllm), mllm)
    assert torch.equal(again[0][0], first[0][0]) and not model.loaded


def test_edits_follow_the_image_s_states_through_stock_nodes(comfy, forgetful):
    def edited(image, batch):
        graph = comfy.graph()
        parts = Parts(graph)
        positive = encode(comfy, graph, parts, image)
        pixels = comfy.give(graph, batch)
        node = graph.node(
            "InstructPixToPixConditioning",
            positive=positive,
            negative=plain(graph, parts, ""),
            vae=parts.vae,
            pixels=pixels,
        )
        return images_of(
            comfy, graph, parts, sampled(graph, parts.model, node.out(0), node.out(1), node.out(2))
        )

    images = make_image(3, 2)
    both = edited(images, images)
    assert both.shape == images.shape and both.isfinite().all()
    # The second image of a batch heeds its own states, not the first one's.
    other = edited(images[[0, 0]], images)
    torch.testing.assert_close(both[0], other[0], rtol=0, atol=2e-3)
    assert (both[1] - other[1]).abs().max() > 0.02


def test_edit_guider_masks_regions_and_instructions_take_it(comfy, forgetful):
    graph = comfy.graph()
    parts = Parts(graph)
    image = make_image(1, 2)
    positive = encode(comfy, graph, parts, image)
    guider = graph.node(
        "InstructBrushEditGuider",
        model=parts.model,
        clip=parts.clip,
        vae=parts.vae,
        image=comfy.give(graph, image),
        words="",
        text_scale=2.0,
        image_scale=1.5,
        strength=1.0,
        conditioning=positive,
    )
    noise = graph.node("RandomNoise", noise_seed=1).out(0)
    sampler = graph.node("KSamplerSelect", sampler_name="euler_ancestral").out(0)
    sigmas = graph.node("BasicScheduler", model=parts.model, scheduler="normal", steps=2, denoise=1.0).out(0)
    latent = graph.node(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider.out(0),
        sampler=sampler,
        sigmas=sigmas,
        latent_image=guider.out(1),
    ).out(0)
    assert images_of(comfy, graph, parts, latent).shape == image.shape

    graph = comfy.graph()
    parts = Parts(graph)
    _, negative, empty = conditioned(graph, parts, comfy.give(graph, image))
    regions = graph.node(
        "InstructBrushCombineRegions",
        conditioning_1=encode(comfy, graph, parts, image),
        mask_1=comfy.give(graph, half()),
        conditioning_2=plain(graph, parts, "add snow"),
        mask_2=comfy.give(graph, 1 - half()),
    ).out(0)
    held = graph.node(
        "InstructPixToPixConditioning",
        positive=regions,
        negative=negative,
        vae=parts.vae,
        pixels=comfy.give(graph, image),
    ).out(0)
    model, with_learned = applied(graph, comfy, parts.model, held, instruction(comfy), strength=0.5)
    found = images_of(comfy, graph, parts, sampled(graph, model, with_learned, negative, empty, steps=2))
    assert found.shape == image.shape and found.isfinite().all()


def test_the_model_is_held_by_comfyui_and_goes_with_it(comfy, forgetful):
    import comfy.model_management as management

    comfy.forget()
    graph = comfy.graph()
    links = load(graph), load_connector(graph)
    mllm, made = comfy.values(graph, *links)
    residency = comfy.pack("nodes.comfy.encoders.residency")
    assert not mllm.loaded
    with torch.inference_mode():
        for _ in range(2):
            residency.prepare(mllm)
            residency.prepare(made)
    assert not any(
        parameter.is_inference() or parameter.requires_grad
        for parameter in (*mllm.module.parameters(), *made.parameters())
    )
    assert (
        sum(
            each.model is not None and each.model.model is mllm.module
            for each in management.current_loaded_models
        )
        == 1
    )
    held = [
        weakref.ref(residency.patchers[each]) for each in (mllm, made)
    ] + [weakref.ref(next(mllm.module.parameters()))]
    management.unload_all_models()
    graph = comfy.graph()
    parts = Parts(graph)
    assert comfy.values(
        graph,
        encode(
            comfy, graph, parts, make_image(1), mllm=comfy.give(graph, mllm), link=comfy.give(graph, made)
        ),
    )[0]
    del mllm, made
    management.unload_all_models()
    comfy.forget()
    sys.modules[type(comfy).__module__].SHELF.clear()
    gc.collect()
    assert [each() for each in held] == [None] * 3


def test_folders_and_files_are_listed(comfy, models):
    rooms = comfy.pack("nodes.comfy.encoders.mllms")
    other = Path(comfy.folder_paths.models_dir) / "LLM" / "me" / "tiny"
    shutil.copytree(models[0], other)
    try:
        assert {MLLM, "LLM/me/tiny"} <= set(rooms.names()) and CONNECTOR in rooms.connector_names()
        graph = comfy.graph()
        assert comfy.values(graph, load(graph, "LLM/me/tiny", "bf16"))[0].dtype == torch.bfloat16
    finally:
        shutil.rmtree(other.parent)
    away = models[0].rename(models[0].with_name("away"))
    try:
        assert "mllm/away" in rooms.names() and MLLM not in rooms.names()
    finally:
        away.rename(models[0])
    built_in = comfy.pack("core.models.builtin")
    assert (rooms.POCKET_TITLE in rooms.names()) == built_in.POCKET_READER_FOLDER.is_dir()
    assert (
        rooms.POCKET_CONNECTOR_TITLE in rooms.connector_names()
    ) == built_in.POCKET_CONNECTOR_FILE.is_file()


def test_a_changed_folder_or_file_is_loaded_again(comfy, models):
    graph = comfy.graph()
    first, made = comfy.values(graph, load(graph), load_connector(graph))
    graph = comfy.graph()
    assert comfy.values(graph, load(graph), load_connector(graph)) == [first, made]
    file = models[0] / "generation_config.json"
    text = file.read_text()
    file.write_text(json.dumps({**json.loads(text), "top_k": 7}))
    whole = models[1].read_bytes()
    models[1].write_bytes(whole)
    try:
        graph = comfy.graph()
        again, other = comfy.values(graph, load(graph), load_connector(graph))
        assert again is not first and other is not made
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("mllm/none", "auto", "MLLM 'none': there is no folder "),
        ("LLM/none", "auto", "Put llava-hf/llava-1.5-7b-hf, or another vision-language model, into "),
        (
            "mllm/../../output",
            "auto",
            "Name '../../output' cannot be used: it starts with a slash, or a part of it is empty or made of dots.",
        ),
        ("mllm/..", "auto", "Name '..' cannot be used: "),
        ("nonsense", "auto", "MLLM 'nonsense': there is no folder "),
        (MLLM, "2 bit", "Value not in list"),
    ],
)
def test_models_that_are_not_there_are_refused_before_the_run(comfy, name, precision, message):
    graph = comfy.graph()
    assert message in comfy.error(graph, load(graph, name, precision))


@pytest.mark.parametrize("name", ["none.safetensors", "none in models/connectors yet"])
def test_connectors_that_are_not_there_are_refused_before_the_run(comfy, name):
    graph = comfy.graph()
    assert (
        f"Connector '{name}' was not found. Put a connector (.safetensors) that 'python -m instructbrush reason train' wrote into "
        in comfy.error(graph, load_connector(graph, name))
    )


def test_names_do_not_leave_their_folder(comfy):
    graph = comfy.graph()
    assert "Name '../../output/x.safetensors' cannot be used: " in comfy.error(
        graph, load_connector(graph, "../../output/x.safetensors")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image": make_image(1, 1, 4, 64)},
            "MLLM 'tiny': an image of shape [4, 64, 3] does not fit; [height, width, 3] with sides from 8 is needed.",
        ),
        ({"image": make_image(1) * float("nan")}, "Image: image 1 of 1 holds values that are not finite."),
        ({"words": "hours " * 500}, "tokens long, it reads 2048. Use fewer words."),
    ],
)
def test_bad_input_is_refused_by_name(comfy, forgetful, changes, message):
    graph = comfy.graph()
    assert message in comfy.error(
        graph, encode(comfy, graph, Parts(graph), **{"image": make_image(1), **changes})
    )


def test_parts_that_do_not_belong_together(comfy, models, forgetful, caplog):
    for changes, message in (
        (
            {"text_width": 64},
            "Encode Instruction: CLIP gives text states 128 wide, the connector was trained for 64 (pocket).",
        ),
        (
            {"queries": 40},
            "Connector: text states of shape [1, 32, 128] do not fit; [batch, 40 or more, 128] is needed.",
        ),
    ):
        room = comfy.pack("core.reasoning.connector")
        width = comfy.pack("core.encoders.mllm").Mllm(models[0]).width
        made = room.new_connector(
            room.ConnectorConfig(
                **{
                    "family": "pocket",
                    "text_width": 128,
                    "mllm_width": width,
                    "heads": 4,
                    "layers": 1,
                    **changes,
                }
            )
        )
        graph = comfy.graph()
        assert message in comfy.error(
            graph, encode(comfy, graph, Parts(graph), make_image(1), link=comfy.give(graph, made.eval()))
        )
    narrow = (
        connector(comfy, models[0])
        .__class__(room.ConnectorConfig("pocket", 128, 20, heads=4, layers=1, mllm_name="llava"))
        .eval()
    )
    graph = comfy.graph()
    message = comfy.error(
        graph, encode(comfy, graph, Parts(graph), make_image(1), link=comfy.give(graph, narrow))
    )
    assert (
        "Encode Instruction: 'tiny' has states 48 wide, the connector was trained with llava (20). Load that MLLM, or a connector for this one."
        in message
    )
    other = connector(comfy, models[0], mllm_fingerprint="aa", text_fingerprint="bb")
    graph = comfy.graph()
    comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(1), link=comfy.give(graph, other)))
    assert (
        "another MLLM (tiny) than the one that is connected" in caplog.text
        and "another CLIP than the one that is connected" in caplog.text
    )


def test_the_text_encoder_is_the_one_it_was_trained_with(comfy, forgetful, caplog):
    graph = comfy.graph()
    comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(1)))
    assert "The connector was trained with" not in caplog.text


def test_no_wish_is_refused(comfy):
    graph = comfy.graph()
    assert "Explain Instruction: there is no wish. Write what you would like" in comfy.error(
        graph, explain(comfy, graph, make_image(1), "  ").out(0)
    )


def test_cancelling_ends_the_node_as_any_other(comfy, monkeypatch):
    import comfy.model_management as management

    rooms = comfy.pack("nodes.comfy.encoders.open_clip")
    original, calls = rooms.check_interrupted, []

    def check():
        calls.append(None)
        if len(calls) == 2:
            management.interrupt_current_processing(True)
        original()

    monkeypatch.setattr(rooms, "check_interrupted", check)
    graph = comfy.graph()
    run = comfy.attempt(graph, explain(comfy, graph, make_image(1), "something else").out(0))
    assert run.error["exception_type"] == "interrupted"
