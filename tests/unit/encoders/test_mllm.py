"""Vision-language models: states against a prefill by hand, padding and order, answers, memory, what is refused and how, and what is kept."""

import gc
import importlib.util
import json
import os
import re
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from instructbrush.core.encoders.mllm import (
    STATES_TASK,
    Mllm,
    check_folder,
    load_mllm,
    stored_bits,
    stored_dtype,
)
from instructbrush.core.errors import ModelError
from instructbrush.core.reasoning.state_cache import StateStore, cached_states, padded, state_key
from instructbrush.tests.support import tiny_mllms

WORDS = ["make it night", "she prefers a face mask to sunglasses", "hm"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of tiny models by name; left and right are one model whose tokenizers pad at different ends."""
    root = tmp_path_factory.mktemp("mllms")
    return {
        "left": tiny_mllms.llava(root / "left", padding_side="left"),
        "right": tiny_mllms.llava(root / "right", padding_side="right"),
        "qwen": tiny_mllms.qwen2_vl(root / "qwen"),
    }


@pytest.fixture(scope="module")
def mllm(folders):
    return load_mllm(folders["left"])


@pytest.fixture
def own(folders, tmp_path):
    """A copy of a tiny model's folder that a test may spoil."""
    return lambda name="left": Path(shutil.copytree(folders[name], tmp_path / name))


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(5)
    return [torch.rand(*size, 3, generator=draw) for size in ((40, 56), (64, 64), (32, 32))]


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(0, 1)


def vision_by_hand(w, pixels):
    """Tokens of an image [3, 32, 32]: CLIP's tower up to its last layer but one, without the class token, through the projector."""

    def linear(x, name):
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    tower = "vision_tower."
    patches = (
        functional.conv2d(pixels[None], w[f"{tower}embeddings.patch_embedding.weight"], stride=8)[0]
        .flatten(1)
        .T
    )
    x = (
        torch.cat([w[f"{tower}embeddings.class_embedding"][None], patches])
        + w[f"{tower}embeddings.position_embedding.weight"]
    )
    x = norm(x, f"{tower}pre_layrnorm")
    for layer in (f"{tower}encoder.layers.0.", f"{tower}encoder.layers.1."):
        y = norm(x, f"{layer}layer_norm1")
        q, k, v = (heads(linear(y, f"{layer}self_attn.{part}_proj"), 2) for part in "qkv")
        mixed = ((q @ k.transpose(1, 2)) * 8**-0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(0, 1).flatten(1), f"{layer}self_attn.out_proj")
        y = linear(norm(x, f"{layer}layer_norm2"), f"{layer}mlp.fc1")
        x = x + linear(y * (1.702 * y).sigmoid(), f"{layer}mlp.fc2")
    return linear(
        functional.gelu(linear(x[1:], "multi_modal_projector.linear_1")), "multi_modal_projector.linear_2"
    )


def language_by_hand(w, x):
    """LLaMA's states of embeddings [L, 32], after the final norm: 4 heads of 8, two of them share keys and values."""
    model, length = "language_model.model.", len(x)

    def norm(x, name):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w[name]

    angles = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(0, 8, 2) / 8)).repeat(1, 2)

    def turned(x):
        left, right = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

    future = torch.full((length, length), float("-inf")).triu(1)
    for layer in (f"{model}layers.0.", f"{model}layers.1."):
        y = norm(x, f"{layer}input_layernorm.weight")
        q, k, v = (
            heads(y @ w[f"{layer}self_attn.{part}_proj.weight"].T, count)
            for part, count in (("q", 4), ("k", 2), ("v", 2))
        )
        q, k, v = turned(q), turned(k).repeat_interleave(2, 0), v.repeat_interleave(2, 0)
        mixed = (q @ k.transpose(1, 2) * 8**-0.5 + future).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).flatten(1) @ w[f"{layer}self_attn.o_proj.weight"].T
        y = norm(x, f"{layer}post_attention_layernorm.weight")
        gate = functional.silu(y @ w[f"{layer}mlp.gate_proj.weight"].T)
        x = x + (gate * (y @ w[f"{layer}mlp.up_proj.weight"].T)) @ w[f"{layer}mlp.down_proj.weight"].T
    return norm(x, f"{model}norm.weight")


def embedded_by_hand(w, image, words):
    """What LLaMA is given: the chat's tokens, with the image's in their place."""
    pixels = (image * 255).round().movedim(2, 0) / 255
    mean, std = (
        torch.tensor(each).view(3, 1, 1)
        for each in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    start, end = f"USER: IMAGE\n{STATES_TASK}\n {words} ASSISTANT:".split("IMAGE")
    tokens = tiny_mllms.tokenizer()
    before, after = ([*tokens(text, add_special_tokens=False).input_ids] for text in (start, end))
    table = w["language_model.model.embed_tokens.weight"]
    return torch.cat([table[[1, *before]], vision_by_hand(w, (pixels - mean) / std), table[after]])


def test_states_are_those_of_a_prefill_by_hand(mllm, folders, images):
    weights = load_file(folders["left"] / "model.safetensors")
    expected = language_by_hand(weights, embedded_by_hand(weights, images[2], WORDS[1]))
    states, mask = mllm.states([images[2]], [WORDS[1]])
    assert states.dtype == torch.float32 and mask.all() and states.shape == (1, *expected.shape)
    torch.testing.assert_close(states[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["left", "right", "qwen"])
def test_padding_and_order_change_nothing(folders, images, name):
    model = load_mllm(folders[name])
    together, mask = model.states(images, WORDS)
    assert together.shape[:2] == mask.shape and not together[~mask].any() and mask.sum(1).unique().numel() > 1
    for place in range(3):
        alone, whole = model.states([images[place]], [WORDS[place]])
        assert whole.all() and mask[place].sum() == alone.shape[1]
        torch.testing.assert_close(together[place][mask[place]], alone[0], rtol=0, atol=1e-5)
    order = [2, 0, 1]
    turned, turned_mask = model.states([images[place] for place in order], [WORDS[place] for place in order])
    assert torch.equal(turned_mask, mask[order])
    torch.testing.assert_close(turned, together[order], rtol=0, atol=1e-5)


def test_tokenizers_that_pad_at_different_ends_give_the_same(folders, images):
    left, right = (load_mllm(folders[name]).states(images, WORDS) for name in ("left", "right"))
    assert torch.equal(left[1], right[1])
    torch.testing.assert_close(left[0], right[0], rtol=0, atol=1e-5)


def test_image_and_words_both_matter(mllm, images):
    states, _ = mllm.states([images[0], images[1], images[0]], [WORDS[0], WORDS[0], "make it noon!"])
    assert (states[0] - states[1]).abs().max() > 0.1 and (states[0] - states[2]).abs().max() > 0.1
    # What comes before the image knows nothing of it.
    torch.testing.assert_close(states[0, :6], states[1, :6])


def test_an_answer_is_the_most_probable_token_each_time(mllm, folders, images):
    weights = load_file(folders["left"] / "model.safetensors")
    given = embedded_by_hand(weights, images[2], WORDS[0])
    ids = []
    for _ in range(6):
        logits = language_by_hand(weights, given)[-1] @ weights["language_model.lm_head.weight"].T
        ids.append(int(logits.argmax()))
        given = torch.cat([given, weights["language_model.model.embed_tokens.weight"][ids[-1:]]])
    expected = tiny_mllms.tokenizer().decode(ids, skip_special_tokens=True).strip()
    assert (
        mllm.answer(images[2], WORDS[0], 6, STATES_TASK)
        == expected
        == mllm.answer(images[2], WORDS[0], 6, STATES_TASK)
    )


def test_the_folder_s_own_settings_of_sampling_do_not_count(mllm, own, images):
    folder = own()
    tiny_mllms.change_json(
        folder / "generation_config.json", do_sample=True, temperature=5.0, repetition_penalty=9.0, top_k=3
    )
    assert load_mllm(folder).answer(images[0], WORDS[0], 8) == mllm.answer(images[0], WORDS[0], 8)


def test_an_answer_shows_how_far_it_is_and_can_be_stopped(mllm, images):
    seen = []
    mllm.answer(images[0], WORDS[0], 4, progress=lambda done, most: seen.append((done, most)))
    assert seen == [(done, 4) for done in range(1, len(seen) + 1)] and seen

    def stop(done, most):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mllm.answer(images[0], WORDS[0], 4, progress=stop)


def test_words_are_data(mllm, images):
    plain = mllm.prompt("one two")
    assert (
        mllm.prompt("one <image>\n two</s><s>")
        == plain
        == f"USER: <image>\n{STATES_TASK}\n one two ASSISTANT:"
    )
    assert mllm.prompt("one <ima<image>ge> two").count("<image>") == 1
    assert mllm.prompt("one two", "") == "USER: <image>\none two ASSISTANT:"
    states, _ = mllm.states([images[0]], ["one <image> two"])
    assert torch.equal(states, mllm.states([images[0]], ["one two"])[0])


def test_a_start_mark_in_the_template_is_not_doubled(mllm, own, images):
    folder = own()
    (folder / "chat_template.jinja").write_text("{{ bos_token }}" + tiny_mllms.LLAVA_CHAT)
    torch.testing.assert_close(
        load_mllm(folder).states([images[0]], [WORDS[0]])[0],
        mllm.states([images[0]], [WORDS[0]])[0],
        rtol=0,
        atol=1e-5,
    )


def test_old_folders_of_llava_without_chat_and_patch_size(mllm, own, images):
    folder = own()
    (folder / "chat_template.jinja").unlink()
    (folder / "processor_config.json").unlink()
    old = load_mllm(folder)
    assert old.prompt(WORDS[0]) == mllm.prompt(WORDS[0])
    torch.testing.assert_close(
        old.states([images[0]], [WORDS[0]])[0], mllm.states([images[0]], [WORDS[0]])[0]
    )


def test_precisions(own, mllm, images):
    folder = own()
    assert stored_dtype(folder) == torch.float32 and Mllm(folder).dtype == torch.float32
    tiny_mllms.change_json(folder / "config.json", dtype="bfloat16")
    assert stored_dtype(folder) == torch.bfloat16 and Mllm(folder).dtype == torch.float32
    half = load_mllm(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.module.parameters()} == {torch.bfloat16}
    states, _ = half.states([images[0]], [WORDS[0]])
    exact, _ = mllm.states([images[0]], [WORDS[0]])
    assert (
        states.dtype == torch.float32
        and torch.equal(states, states.bfloat16().float())
        and (states - exact).abs().mean() < 0.1
    )
    assert half.fingerprint != mllm.fingerprint  # another config.json
    assert Mllm(folder, dtype=torch.float32).fingerprint == half.fingerprint


def test_a_head_that_shares_the_embedding_is_not_missed(tmp_path, images):
    folder = tiny_mllms.llava(tmp_path, tie_word_embeddings=True)
    assert "language_model.lm_head.weight" not in load_file(folder / "model.safetensors")
    network = load_mllm(folder).module["mllm"]
    assert network.lm_head.weight is network.model.language_model.embed_tokens.weight


def test_weights_are_read_when_needed_and_freed(folders, images):
    model = load_mllm(folders["left"], lazily=True)
    assert (
        not model.loaded
        and (model.width, model.room, model.name) == (tiny_mllms.WIDTH, 2048, "left")
        and model.prompt("x")
    )
    first, _ = model.states([images[0]], [WORDS[0]])
    assert model.loaded and model.device == torch.device("cpu")
    parameters = [weakref.ref(parameter) for parameter in model.module.parameters()]
    assert parameters and not any(each().requires_grad for each in parameters)
    model.free()
    gc.collect()
    assert not model.loaded and all(each() is None for each in parameters)
    torch.testing.assert_close(model.states([images[0]], [WORDS[0]])[0], first, rtol=0, atol=1e-5)


def test_code_in_the_folder_is_not_run(own):
    folder = own()
    tiny_mllms.change_json(
        folder / "config.json",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"},
    )
    tiny_mllms.change_json(folder / "processor_config.json", auto_map={"AutoProcessor": "evil.Processor"})
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    assert type(load_mllm(folder).module["mllm"]).__name__ == "LlavaForConditionalGeneration"


ADVICE = "Put llava-hf/llava-1.5-7b-hf, or another vision-language model, into {folder}: config.json, model.safetensors (or its numbered parts), "


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.json"], "config.json is missing."),
        (
            ["preprocessor_config.json", "processor_config.json"],
            "preprocessor_config.json or processor_config.json is missing.",
        ),
        (["tokenizer.json"], "tokenizer.json or tokenizer.model or vocab.json and merges.txt is missing."),
    ],
)
def test_a_missing_file_is_named(own, files, said):
    folder = own()
    for file in files:
        (folder / file).unlink()
    with pytest.raises(ModelError) as caught:
        load_mllm(folder)
    assert str(caught.value).startswith(f"MLLM 'left': {said} {ADVICE.format(folder=folder)}")
    assert str(caught.value).endswith("chat_template.json. Nothing is downloaded by itself.")


def test_a_missing_folder_says_what_belongs_there(tmp_path):
    folder = tmp_path / "llava-1.5-7b-hf"
    with pytest.raises(ModelError) as caught:
        load_mllm(folder)
    assert str(caught.value).startswith(
        f"MLLM 'llava-1.5-7b-hf': there is no folder {folder}. {ADVICE.format(folder=folder)}"
    )


def test_a_model_without_eyes_is_refused(own):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", model_type="llama")
    with pytest.raises(
        ModelError,
        match="its config.json says 'llama', which transformers does not know as a model that reads images and words",
    ):
        check_folder(folder)


def test_pickled_and_missing_weights_are_refused(own):
    folder = own()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model.bin: .bin files are not read, only .safetensors"):
        load_mllm(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="there is no model.safetensors in"):
        load_mllm(folder)


def test_damaged_weights_are_refused(own):
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
        match=r"MLLM 'left': 1 weights such as model.multi_modal_projector.linear_1.weight are missing in .* incomplete",
    ):
        load_mllm(folder)


def test_weights_without_metadata_load(own):
    file = own() / "model.safetensors"
    save_file(load_file(file), file)
    assert load_mllm(file.parent).loaded


def test_a_folder_of_the_hugging_face_cache_loads(own, tmp_path):
    home = tmp_path / "models--owner--some-model"
    (home / "blobs").mkdir(parents=True)
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in own().iterdir():
        file.rename(home / "blobs" / file.name)
        (snapshot / file.name).symlink_to(home / "blobs" / file.name)
    assert check_folder(home) == "llava" and stored_dtype(home) is torch.float32
    assert load_mllm(home).name == "some-model"


def test_parts_that_an_index_names_are_needed(own):
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
        match=r"left: part-1.safetensors is missing, which its index names as a part of model. Download the missing parts.",
    ):
        check_folder(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["part-0.safetensors"]}))
    with pytest.raises(
        ModelError,
        match="left/model.safetensors.index.json: it does not say which file holds which weight. Download it again.",
    ):
        check_folder(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../other.safetensors"}})
    )
    with pytest.raises(ModelError, match="Name '../other.safetensors' cannot be used"):
        check_folder(folder)


def test_gguf_weights_are_named(own):
    folder = own()
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(
        ModelError,
        match="model.gguf: GGUF files are not read, only .safetensors. Take the model in fp16, bf16 or fp32.",
    ):
        check_folder(folder)


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="optimum is installed")
def test_quantised_weights_without_the_package_that_reads_them(own):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': a package that its weights or files need is missing \(.*\)\. Install it, or get the model in fp16",
    ):
        load_mllm(folder)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantised_weights_without_bitsandbytes(own):
    folder = own()
    tiny_mllms.change_json(
        folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    )
    assert stored_bits(folder) == 4
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': its weights are quantised with bitsandbytes, which is not installed. Run: pip install bitsandbytes. Or get the model",
    ):
        load_mllm(folder)


@pytest.mark.parametrize(
    ("told", "bits"),
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
def test_bits_of_stored_weights(own, told, bits):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", quantization_config=told)
    assert stored_bits(folder) == bits


def test_a_network_that_cannot_be_moved_stays(folders, caplog):
    mllm = load_mllm(folders["left"], lazily=True)
    network = torch.nn.Linear(1, 1)
    network.device = "cpu"

    def refuse(*_):
        raise ValueError("`.to` is not supported for `4-bit` or `8-bit` bitsandbytes models.")

    network.to = refuse
    assert mllm._placed(network) is network
    assert "MLLM 'left' stays on cpu: `.to` is not supported for `4-bit`" in caplog.text


def test_more_layers_than_any_network_has_are_refused(own):
    folder = own()
    tiny_mllms.change_json(folder / "config.json", text_config={"num_hidden_layers": 10**9})
    with pytest.raises(
        ModelError,
        match=r"left/config.json: num_hidden_layers is above 10000. The file is damaged; download it again.",
    ):
        check_folder(folder)


def test_settings_that_make_no_model_are_refused(own):
    folder = own()
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="left/config.json: not a table of settings"):
        load_mllm(folder)
    (folder / "config.json").write_text(whole)
    tiny_mllms.change_json(folder / "config.json", vision_feature_layer="last")
    with pytest.raises(ModelError, match="MLLM 'left': transformers cannot load "):
        load_mllm(folder)


def test_a_chat_template_that_fails_or_is_missing_is_named(own):
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
            f"MLLM 'qwen': it has no chat template. Put chat_template.jinja or chat_template.json of the model into {folder}"
        ),
    ):
        load_mllm(folder)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_bits_without_bitsandbytes(folders):
    with pytest.raises(
        ModelError,
        match=r"MLLM 'left': 4 bits need the package bitsandbytes, which is not installed. Run: pip install bitsandbytes. Or choose fp16.",
    ):
        load_mllm(folders["left"], bits=4)


def test_other_bits(folders):
    with pytest.raises(
        ModelError, match="MLLM 'left': weights of 3 bits are not known. Choose 8 or 4, or none."
    ):
        load_mllm(folders["left"], bits=3)


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (
            [torch.rand(32, 32, 3)],
            ["a", "b"],
            "MLLM 'left': 1 images and 2 texts do not make pairs. Give one text for each image.",
        ),
        ([], [], "MLLM 'left': 0 images and 0 texts do not make pairs."),
        (
            [torch.rand(32, 32, 4)],
            ["a"],
            "MLLM 'left': an image of shape [32, 32, 4] does not fit; [height, width, 3] with sides from 8 is needed.",
        ),
        ([torch.rand(4, 32, 3)], ["a"], "MLLM 'left': an image of shape [4, 32, 3] does not fit;"),
        (
            [torch.full((32, 32, 3), float("nan"))],
            ["a"],
            "MLLM 'left': the image holds values that are not finite.",
        ),
        ([torch.rand(32, 32, 3)], ["word " * 500], "tokens long, it reads 2048. Use fewer words."),
    ],
)
def test_bad_input_is_refused_by_name(mllm, images, texts, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        mllm.states(images, texts)


def test_answers_that_cannot_be(mllm, images):
    with pytest.raises(ModelError, match="an answer of 0 tokens is none. Allow at least 1."):
        mllm.answer(images[0], "a", 0)
    words = "a" * (2048 - len("USER: \n ASSISTANT:") - 17)
    with pytest.raises(
        ModelError,
        match="image and words fill all 2048 tokens it reads, so it cannot answer. Use fewer words.",
    ):
        mllm.answer(images[0], words, 1)


def test_states_that_overflow_are_refused(own, images):
    folder = own()
    states = load_file(folder / "model.safetensors")
    states["language_model.model.norm.weight"] *= 1e38
    save_file(states, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match="MLLM 'left': its states are not finite in float32. Load it in bf16 or fp32."
    ):
        load_mllm(folder).states([images[0] * 0 + 1], ["a" * 99])


class Counting(Mllm):
    """Counts the chats that are computed."""

    computed = 0

    def states(self, images, texts, task=STATES_TASK):
        self.computed += len(texts)
        return super().states(images, texts, task)


def test_what_was_computed_once_costs_nothing(folders, images, tmp_path):
    model = Counting(folders["left"])
    expected, mask = load_mllm(folders["left"]).states(images, WORDS)
    readied, seen = [], []
    store = StateStore(tmp_path)
    chats = list(zip(images, WORDS, strict=True))
    first = cached_states(
        model,
        [*chats, chats[0]],
        store,
        at_once=2,
        ready=lambda: readied.append(1),
        progress=lambda *at: seen.append(at),
    )
    assert model.computed == 3 and readied == [1] and seen[-1] == (4, 4)
    torch.testing.assert_close(first[0][:3], expected, rtol=0, atol=1e-5)
    assert torch.equal(first[1][:3], mask) and torch.equal(first[0][3], first[0][0])
    # In this process, and in the next one, which does not even read the weights.
    fresh = Counting(folders["left"])
    for model, kept in ((fresh, store), (fresh, StateStore(tmp_path))):
        again = cached_states(model, chats, kept, ready=lambda: pytest.fail("the model is not needed"))
        assert torch.equal(again[0], first[0][:3]) and torch.equal(again[1], mask)
    assert not fresh.loaded and not fresh.computed


def test_a_key_tells_all_that_decides(folders, images):
    model = load_mllm(folders["left"], lazily=True)
    keys = [
        state_key(model, images[0], WORDS[0]),
        state_key(model, images[1], WORDS[0]),
        state_key(model, images[0], WORDS[1]),
        state_key(model, images[0], WORDS[0], "another task"),
        state_key(load_mllm(folders["left"], dtype=torch.bfloat16, lazily=True), images[0], WORDS[0]),
        state_key(load_mllm(folders["qwen"], lazily=True), images[0], WORDS[0]),
        state_key(model, images[0].transpose(0, 1), WORDS[0]),
    ]
    assert len(set(keys)) == len(keys)
    assert state_key(model, images[0].clone(), f" {WORDS[0]}\n") == keys[0]


def test_a_folder_of_states_is_bounded_and_survives_damage(tmp_path, caplog):
    entry = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    keys = [f"{number:064d}"[::-1] for number in range(8)]
    store = StateStore(tmp_path, most_bytes=1000, most_memory=300)
    for number, key in enumerate(keys):
        store.put(key, entry + number)
        os.utime(tmp_path / f"{key[:40]}.safetensors", (number, number))
    assert (
        2 <= len(list(tmp_path.glob("*.safetensors"))) < 8 and len(store._recent) == 2 and store._memory_used == 256
    )
    assert all(torch.equal(store.get(keys[number]), entry + number) for number in (6, 7))
    fresh = StateStore(tmp_path)
    assert torch.equal(fresh.get(keys[7]), entry + 7) and fresh.get(keys[0]) is None
    last = tmp_path / f"{keys[7][:40]}.safetensors"
    assert last.stat().st_mtime > 1e9, "using an entry makes it the newest"
    whole = last.read_bytes()
    for damage in (whole[:-3], b"", b"nonsense", whole.replace(keys[7].encode(), keys[6].encode())):
        last.write_bytes(damage)
        assert StateStore(tmp_path).get(keys[7]) is None
    StateStore(tmp_path, most_bytes=10).put(keys[1], entry)
    assert StateStore(tmp_path).get(keys[1]) is None
    (tmp_path / "file").write_text("")
    blocked = StateStore(tmp_path / "file" / "in it")
    blocked.put(keys[2], entry)
    assert torch.equal(blocked.get(keys[2]), entry) and "States of an MLLM could not be kept" in caplog.text


def test_padding_of_kept_states():
    states, mask = padded([torch.ones(2, 3).half(), torch.ones(4, 3).half()])
    assert (
        states.dtype == torch.float32
        and mask.tolist() == [[True, True, False, False], [True] * 4]
        and states.sum() == 18
    )


PUBLISHED = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
"""config.json of llava-hf/llava-1.5-7b-hf."""


def published_weights(text_layers, vision_layers):
    """Names and shapes of its weights, at a reduced depth."""
    shapes = {
        "language_model.lm_head.weight": (32064, 4096),
        "language_model.model.embed_tokens.weight": (32064, 4096),
        "language_model.model.norm.weight": (4096,),
    }
    for layer in (f"language_model.model.layers.{number}." for number in range(text_layers)):
        shapes |= {f"{layer}self_attn.{part}_proj.weight": (4096, 4096) for part in "qkvo"}
        shapes |= {f"{layer}mlp.{part}_proj.weight": (11008, 4096) for part in ("gate", "up")} | {
            f"{layer}mlp.down_proj.weight": (4096, 11008)
        }
        shapes |= {f"{layer}{part}_layernorm.weight": (4096,) for part in ("input", "post_attention")}
    tower = "vision_tower.vision_model."
    shapes |= {
        f"{tower}embeddings.class_embedding": (1024,),
        f"{tower}embeddings.patch_embedding.weight": (1024, 3, 14, 14),
    }
    shapes |= {f"{tower}embeddings.position_embedding.weight": (577, 1024)}
    shapes |= {
        f"{tower}{name}.{kind}": (1024,)
        for name in ("pre_layrnorm", "post_layernorm")
        for kind in ("weight", "bias")
    }
    for layer in (f"{tower}encoder.layers.{number}." for number in range(vision_layers)):
        for name in ("q", "k", "v", "out"):
            shapes |= {
                f"{layer}self_attn.{name}_proj.weight": (1024, 1024),
                f"{layer}self_attn.{name}_proj.bias": (1024,),
            }
        shapes |= {
            f"{layer}layer_norm{number}.{kind}": (1024,) for number in (1, 2) for kind in ("weight", "bias")
        }
        shapes |= {
            f"{layer}mlp.fc1.weight": (4096, 1024),
            f"{layer}mlp.fc1.bias": (4096,),
            f"{layer}mlp.fc2.weight": (1024, 4096),
            f"{layer}mlp.fc2.bias": (1024,),
        }
    shapes |= {
        "multi_modal_projector.linear_1.weight": (4096, 1024),
        "multi_modal_projector.linear_2.weight": (4096, 4096),
    }
    return shapes | {f"multi_modal_projector.linear_{number}.bias": (4096,) for number in (1, 2)}


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_llava_1_5_of_full_width_is_loaded_encodes_and_frees_its_memory(own, images):
    """One layer of 32 of its language model and two of 24 of its eyes; all names, shapes and widths are the published ones."""
    folder = own()
    (folder / "model.safetensors").unlink()
    config = json.loads(json.dumps(PUBLISHED))
    config["text_config"]["num_hidden_layers"], config["vision_config"]["num_hidden_layers"] = 1, 2
    (folder / "config.json").write_text(json.dumps(config))
    tiny_mllms.change_json(folder / "processor_config.json", patch_size=14, image_processor=None)
    sizes = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    tiny_mllms.change_json(folder / "preprocessor_config.json", **sizes)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    named = {"<image>": 32000, "<pad>": 32001}
    tokens["model"]["vocab"] = {
        token: named.get(token, number) for token, number in tokens["model"]["vocab"].items()
    }
    tokens["added_tokens"] = [
        {**each, "id": named.get(each["content"], each["id"])} for each in tokens["added_tokens"]
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    (folder / "generation_config.json").unlink()
    draw = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in published_weights(1, 2).items():
        numbers = torch.empty(shape, dtype=torch.float16)
        weights[name] = (
            numbers.normal_(0, 0.02, generator=draw)
            if len(shape) > 1
            else numbers.fill_(0.0 if name.endswith("bias") else 1.0)
        )
    size = sum(each.numel() * 2 for each in weights.values())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    del weights, numbers
    gc.collect()
    before = resident()
    model = load_mllm(folder, dtype=torch.bfloat16)
    states, mask = model.states([images[0]], [WORDS[1]])
    assert (model.width, states.shape[2], int(mask.sum()), stored_dtype(folder)) == (
        4096,
        4096,
        states.shape[1],
        torch.float16,
    )
    assert states.shape[1] == 576 + len(
        tiny_mllms.tokenizer()(model.prompt(WORDS[1]).replace("<image>", "")).input_ids
    )
    held = resident() - before
    assert held > 0.9 * size > 8e8
    model.free()
    gc.collect()
    assert resident() - before < 0.25 * size
