"""Folders of vision-language models: layouts, errors, and quantized weights."""

import importlib.util
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.encoders.mllm_folders import check_folder, stored_bits, stored_dtype
from instructbrush.core.encoders.mllm_loading import move_network
from instructbrush.core.errors import ModelError
from instructbrush.tests.support import tiny_mllms

ADVICE = (
    "Put llava-hf/llava-1.5-7b-hf, or another model of its kind, into {folder}: config.json, "
    "model.safetensors (or its numbered parts), "
)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json"], "config.json is missing."),
        (
            ["preprocessor_config.json", "processor_config.json"],
            "preprocessor_config.json or processor_config.json is missing.",
        ),
        (["tokenizer.json"], "tokenizer.json or tokenizer.model or vocab.json and merges.txt is missing."),
    ],
)
def test_missing_file_error_names_the_file(own, files, message):
    folder = own()
    for file in files:
        (folder / file).unlink()
    with pytest.raises(ModelError) as caught:
        load_mllm(folder)
    assert str(caught.value).startswith(f"MLLM 'left': {message} {ADVICE.format(folder=folder)}")
    assert str(caught.value).endswith("chat_template.json. Nothing is downloaded automatically.")


def test_missing_folder_error_tells_what_belongs_there(tmp_path):
    folder = tmp_path / "llava-1.5-7b-hf"
    with pytest.raises(ModelError) as caught:
        load_mllm(folder)
    assert str(caught.value).startswith(
        f"MLLM 'llava-1.5-7b-hf': there is no folder {folder}. {ADVICE.format(folder=folder)}"
    )


def test_rejects_a_language_model_without_images(own):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", model_type="llama")
    with pytest.raises(
        ModelError,
        match="its config.json says 'llama', which transformers does not know as a model that reads images "
        "and words",
    ):
        check_folder(folder)


def test_rejects_pickled_and_missing_weights(own):
    folder = own()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model.bin: .bin files are not read, only .safetensors"):
        load_mllm(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="there is no model.safetensors in"):
        load_mllm(folder)


def test_rejects_damaged_weights(own):
    folder = own()
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="model.safetensors: the file is cut short"):
        load_mllm(folder)
    file.write_bytes(whole)
    states = load_file(file)
    del states["multi_modal_projector.linear_1.weight"]
    save_file(states, file, {"format": "pt"})
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': 1 weights such as model.multi_modal_projector.linear_1.weight are missing in .* "
        r"incomplete",
    ):
        load_mllm(folder)


def test_loads_weights_without_metadata(own):
    file = own() / "model.safetensors"
    save_file(load_file(file), file)
    assert load_mllm(file.parent).loaded


def test_loads_a_folder_of_the_hugging_face_cache(own, tmp_path):
    home = tmp_path / "models--owner--some-model"
    (home / "blobs").mkdir(parents=True)
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in own().iterdir():
        file.rename(home / "blobs" / file.name)
        (snapshot / file.name).symlink_to(home / "blobs" / file.name)
    assert check_folder(home) == "llava" and stored_dtype(home) is torch.float32
    assert load_mllm(home).name == "some-model"


def test_rejects_missing_shards_of_an_index(own):
    folder = own()
    states = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(states)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for part in set(places.values()):
        save_file({name: tensor for name, tensor in states.items() if places[name] == part}, folder / part)
    assert load_mllm(folder).loaded
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(
        ModelError,
        match=r"left: part-1.safetensors is missing, which its index names as a part of model. Download the "
        r"missing parts.",
    ):
        check_folder(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["part-0.safetensors"]}))
    with pytest.raises(
        ModelError,
        match="left/model.safetensors.index.json: it does not say which file holds which weight. Download it "
        "again.",
    ):
        check_folder(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../other.safetensors"}})
    )
    with pytest.raises(ModelError, match="Name '../other.safetensors' cannot be used"):
        check_folder(folder)


@pytest.mark.parametrize("numbered", [False, True])
def test_rejects_an_index_that_names_pickles(own, numbered):
    """transformers follows the index and opens all other files as pickles, even beside numbered parts."""
    folder = own()
    (folder / "model.safetensors").rename(folder / ("model-00001-of-00001.safetensors" if numbered else "x"))
    (folder / "evil.bin").write_bytes(b"\x80\x02.")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors", "b": "evil.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ModelError,
        match="left/model.safetensors.index.json: it names evil.bin, but only .safetensors files are read. "
        "Take the .safetensors version of the model.",
    ):
        check_folder(folder)


def test_checks_files_of_an_index_beside_numbered_parts(own):
    folder = own()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "other.safetensors").write_bytes(b"no safetensors")
    index = {"weight_map": {"a": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="left: 2 of 1 parts|other.safetensors: "):
        check_folder(folder)


def test_rejects_gguf_weights(own):
    folder = own()
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(
        ModelError,
        match="model.gguf: GGUF files are not read, only .safetensors. Take the model in fp16, bf16 or fp32.",
    ):
        check_folder(folder)


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="optimum is installed")
def test_rejects_quantized_weights_without_their_package(own):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': a package that its weights or files need is missing \(.*\)\. Install it, or get "
        r"the model in fp16",
    ):
        load_mllm(folder)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_rejects_stored_bitsandbytes_weights_without_the_package(own):
    folder = own()
    tiny_mllms.change_json(
        folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    )
    assert stored_bits(folder) == 4
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': its weights are quantized with bitsandbytes, which is not installed. Run: pip "
        r"install bitsandbytes. Or get the model",
    ):
        load_mllm(folder)


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        (None, None),
        ({}, None),
        ([], None),
        ({"load_in_8bit": True}, 8),
        ({"bits": 4}, 4),
        ({"quant_method": "fp8"}, 8),
        ({"bits": "x"}, 8),
    ],
)
def test_reads_the_bits_of_stored_weights(own, settings, bits):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", quantization_config=settings)
    assert stored_bits(folder) == bits


def test_a_network_that_cannot_be_moved_stays_with_a_warning(caplog):
    network = torch.nn.Linear(1, 1)
    network.device = "cpu"

    def refuse(*_):
        raise ValueError("`.to` is not supported for `4-bit` or `8-bit` bitsandbytes models.")

    network.to = refuse
    assert move_network(network, torch.device("cpu"), "MLLM 'left'") is network
    assert "MLLM 'left' stays on cpu: `.to` is not supported for `4-bit`" in caplog.text


def test_rejects_an_absurd_number_of_layers(own):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", text_config={"num_hidden_layers": 10**9})
    with pytest.raises(
        ModelError,
        match=r"left/config.json: num_hidden_layers is above 10000. The file is damaged; download it again.",
    ):
        check_folder(folder)


def test_rejects_damaged_settings(own):
    folder = own()
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="left/config.json: not a table of settings"):
        load_mllm(folder)
    (folder / "config.json").write_text(whole)
    tiny_mllms.change_json(folder / "config.json", vision_feature_layer="last")
    with pytest.raises(ModelError, match="MLLM 'left': transformers cannot load "):
        load_mllm(folder)


def test_rejects_failing_and_missing_chat_templates(own):
    folder = own()
    (folder / "chat_template.jinja").write_text("{{ raise_exception('only one word at a time') }}")
    with pytest.raises(
        ModelError, match=r"MLLM 'left': its chat template cannot be used \(only one word at a time\)"
    ):
        load_mllm(folder).prompt("x")
    folder = own("qwen")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(
        ModelError,
        match=re.escape(
            "MLLM 'qwen': it has no chat template. Put chat_template.jinja or chat_template.json of the "
            f"model into {folder}"
        ),
    ):
        load_mllm(folder)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_rejects_bits_without_bitsandbytes(folders):
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': 4 bits need the package bitsandbytes, which is not installed. Run: pip install "
        r"bitsandbytes. Or choose fp16.",
    ):
        load_mllm(folders["left"], bits=4)


def test_rejects_other_bits(folders):
    with pytest.raises(
        ModelError, match="MLLM 'left': weights of 3 bits are not supported. Choose 8 or 4, or none."
    ):
        load_mllm(folders["left"], bits=3)


def test_rejects_an_adapter(own):
    folder = own()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/name"}))
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': .* holds an adapter \(adapter_config.json\), which is not supported. Merge the "
        "adapter into its model, or take the whole model without it.",
    ):
        check_folder(folder)


@pytest.mark.parametrize(
    ("file", "settings", "name"),
    [
        (
            "processor_config.json",
            {
                "audio_tokenizer": {
                    "audio_tokenizer_class": "DacModel",
                    "audio_tokenizer_name_or_path": "owner/name",
                }
            },
            "audio_tokenizer_name_or_path",
        ),
        (
            "audio_tokenizer_config.json",
            {"audio_tokenizer_name_or_path": "owner/name"},
            "audio_tokenizer_name_or_path",
        ),
        ("preprocessor_config.json", {"class_info_file": "classes.json"}, "class_info_file"),
        ("preprocessor_config.json", {"is_vqa": True}, "is_vqa"),
        ("tokenizer_config.json", {"processor_class": "MgpstrProcessor"}, "processor_class"),
    ],
)
def test_rejects_processors_that_ask_the_hub(own, file, settings, name):
    folder = own()
    (folder / file).touch()
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text() or "{}"), **settings}))
    with pytest.raises(
        ModelError, match=f"left/{file}: with {name} = .*, something else than the model's own"
    ):
        check_folder(folder)


def test_runs_no_code_of_the_folder(own):
    folder = own()
    tiny_mllms.change_json(
        folder / "config.json",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"},
    )
    tiny_mllms.change_json(folder / "processor_config.json", auto_map={"AutoProcessor": "evil.Processor"})
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    assert type(load_mllm(folder).module["mllm"]).__name__ == "LlavaForConditionalGeneration"
