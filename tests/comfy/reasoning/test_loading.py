"""Load MLLM and Load Connector in a real ComfyUI: lists, files, memory."""

import gc
import json
import shutil
import sys
import weakref
from pathlib import Path

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, make_image
from instructbrush.tests.comfy.reasoning.reasoning_graphs import (
    CONNECTOR,
    MLLM,
    encode,
    load_connector,
    load_mllm,
)


def test_lists_folders_and_files(comfy, models):
    mllms = comfy.pack("nodes.comfy.encoders.mllms")
    other = Path(comfy.folder_paths.models_dir) / "LLM" / "me" / "tiny"
    shutil.copytree(models.mllm_folder, other)
    try:
        assert {MLLM, "LLM/me/tiny"} <= set(mllms.names())
        assert CONNECTOR in mllms.connector_names()
        graph = comfy.graph()
        (mllm,) = comfy.values(graph, load_mllm(graph, "LLM/me/tiny", "bf16"))
        assert mllm.dtype == torch.bfloat16
    finally:
        shutil.rmtree(other.parent)


def test_list_follows_renamed_folders(comfy, models):
    mllms = comfy.pack("nodes.comfy.encoders.mllms")
    renamed = models.mllm_folder.rename(models.mllm_folder.with_name("away"))
    try:
        assert "mllm/away" in mllms.names()
        assert MLLM not in mllms.names()
    finally:
        renamed.rename(models.mllm_folder)


def test_lists_built_in_models_that_are_installed(comfy):
    mllms = comfy.pack("nodes.comfy.encoders.mllms")
    built_in = comfy.pack("core.models.builtin")
    assert (mllms.POCKET_TITLE in mllms.names()) == built_in.POCKET_READER_FOLDER.is_dir()
    has_connector = mllms.POCKET_CONNECTOR_TITLE in mllms.connector_names()
    assert has_connector == built_in.POCKET_CONNECTOR_FILE.is_file()


def test_reloads_changed_folders_and_files(comfy, models):
    graph = comfy.graph()
    mllm, connector = comfy.values(graph, load_mllm(graph), load_connector(graph))
    graph = comfy.graph()
    assert comfy.values(graph, load_mllm(graph), load_connector(graph)) == [mllm, connector]
    file = models.mllm_folder / "generation_config.json"
    text = file.read_text()
    file.write_text(json.dumps({**json.loads(text), "top_k": 7}))
    models.connector_file.write_bytes(models.connector_file.read_bytes())
    try:
        graph = comfy.graph()
        new_mllm, new_connector = comfy.values(graph, load_mllm(graph), load_connector(graph))
        assert new_mllm is not mllm
        assert new_connector is not connector
    finally:
        file.write_text(text)


def test_comfyui_frees_the_models_when_they_are_dropped(comfy, states_folder):
    import comfy.model_management as management

    comfy.forget()
    graph = comfy.graph()
    mllm, connector = comfy.values(graph, load_mllm(graph), load_connector(graph))
    residency = comfy.pack("nodes.comfy.encoders.residency")
    assert not mllm.loaded
    with torch.inference_mode():
        for _ in range(2):
            residency.prepare(mllm)
            residency.prepare(connector)
    parameters = [*mllm.module.parameters(), *connector.parameters()]
    assert not any(parameter.is_inference() or parameter.requires_grad for parameter in parameters)
    loaded = [entry.model.model for entry in management.current_loaded_models if entry.model is not None]
    assert sum(module is mllm.module for module in loaded) == 1
    references = [
        weakref.ref(residency.patchers[mllm]),
        weakref.ref(residency.patchers[connector]),
        weakref.ref(next(mllm.module.parameters())),
    ]

    management.unload_all_models()
    graph = comfy.graph()
    links = {"mllm": comfy.give(graph, mllm), "connector": comfy.give(graph, connector)}
    assert comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(1), **links))[0]

    del mllm, connector, parameters, loaded
    management.unload_all_models()
    comfy.forget()
    sys.modules[type(comfy).__module__].SHELF.clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("mllm/none", "auto", "MLLM 'none': there is no folder "),
        ("LLM/none", "auto", "Put llava-hf/llava-1.5-7b-hf, or another model of its kind, into "),
        (
            "mllm/../../output",
            "auto",
            "Name '../../output' cannot be used: it starts with a slash, or a part of it is empty or made of "
            "dots.",
        ),
        ("mllm/..", "auto", "Name '..' cannot be used: "),
        ("nonsense", "auto", "MLLM 'nonsense': there is no folder "),
        (MLLM, "2 bit", "Value not in list"),
    ],
)
def test_rejects_missing_models_before_the_run(comfy, name, precision, message):
    graph = comfy.graph()
    assert message in comfy.error(graph, load_mllm(graph, name, precision))


@pytest.mark.parametrize("name", ["none.safetensors", "none in models/connectors yet"])
def test_rejects_missing_connectors_before_the_run(comfy, name):
    graph = comfy.graph()
    message = (
        f"Connector '{name}' was not found. Put a connector (.safetensors) that "
        "'python -m instructbrush reason train' wrote into "
    )
    assert message in comfy.error(graph, load_connector(graph, name))


def test_rejects_names_that_leave_their_folder(comfy):
    graph = comfy.graph()
    name = "../../output/x.safetensors"
    assert f"Name '{name}' cannot be used: " in comfy.error(graph, load_connector(graph, name))
