"""Vision-language models: states, prompts, answers, dtypes and memory."""

import gc
import re
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from instructbrush.core.encoders.mllm import Mllm, load_mllm
from instructbrush.core.encoders.mllm_chat import STATES_TASK
from instructbrush.core.encoders.mllm_folders import stored_dtype
from instructbrush.core.errors import ModelError
from instructbrush.tests.support import tiny_mllms
from instructbrush.tests.support.llava_reference import embedded_by_hand, language_by_hand

WORDS = ["make it night", "she prefers a face mask to sunglasses", "hm"]


def test_states_match_a_prefill_computed_by_hand(mllm, folders, images):
    weights = load_file(folders["left"] / "model.safetensors")
    expected = language_by_hand(weights, embedded_by_hand(weights, images[2], WORDS[1]))
    states, mask = mllm.states([images[2]], [WORDS[1]])
    assert states.dtype == torch.float32 and mask.all() and states.shape == (1, *expected.shape)
    torch.testing.assert_close(states[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["left", "right", "qwen"])
def test_states_do_not_depend_on_padding_or_order(folders, images, name):
    model = load_mllm(folders[name])
    together, mask = model.states(images, WORDS)
    assert together.shape[:2] == mask.shape and not together[~mask].any() and mask.sum(1).unique().numel() > 1
    for place in range(3):
        alone, whole = model.states([images[place]], [WORDS[place]])
        assert whole.all() and mask[place].sum() == alone.shape[1]
        torch.testing.assert_close(together[place][mask[place]], alone[0], rtol=0, atol=1e-5)
    order = [2, 0, 1]
    shuffled, shuffled_mask = model.states(
        [images[place] for place in order], [WORDS[place] for place in order]
    )
    assert torch.equal(shuffled_mask, mask[order])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)


def test_states_do_not_depend_on_the_tokenizers_padding_side(folders, images):
    left = load_mllm(folders["left"]).states(images, WORDS)
    right = load_mllm(folders["right"]).states(images, WORDS)
    assert torch.equal(left[1], right[1])
    torch.testing.assert_close(left[0], right[0], rtol=0, atol=1e-5)


def test_states_depend_on_image_and_words(mllm, images):
    states, _ = mllm.states([images[0], images[1], images[0]], [WORDS[0], WORDS[0], "make it noon!"])
    assert (states[0] - states[1]).abs().max() > 0.1 and (states[0] - states[2]).abs().max() > 0.1
    # States before the image do not depend on it.
    torch.testing.assert_close(states[0, :6], states[1, :6])


def test_answer_takes_the_most_probable_tokens(mllm, folders, images):
    weights = load_file(folders["left"] / "model.safetensors")
    embedded = embedded_by_hand(weights, images[2], WORDS[0])
    ids = []
    for _ in range(6):
        logits = language_by_hand(weights, embedded)[-1] @ weights["language_model.lm_head.weight"].T
        ids.append(int(logits.argmax()))
        embedded = torch.cat([embedded, weights["language_model.model.embed_tokens.weight"][ids[-1:]]])
    expected = tiny_mllms.tokenizer().decode(ids, skip_special_tokens=True).strip()
    assert mllm.answer(images[2], WORDS[0], 6, STATES_TASK) == expected
    assert mllm.answer(images[2], WORDS[0], 6, STATES_TASK) == expected


def test_answer_ignores_the_folders_sampling_settings(mllm, own, images):
    folder = own()
    tiny_mllms.change_json(
        folder / "generation_config.json", do_sample=True, temperature=5.0, repetition_penalty=9.0, top_k=3
    )
    assert load_mllm(folder).answer(images[0], WORDS[0], 8) == mllm.answer(images[0], WORDS[0], 8)


def test_answer_reports_progress_and_can_be_cancelled(mllm, images):
    seen = []
    mllm.answer(images[0], WORDS[0], 4, progress=lambda done, most: seen.append((done, most)))
    assert seen == [(done, 4) for done in range(1, len(seen) + 1)] and seen

    def stop(done, most):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mllm.answer(images[0], WORDS[0], 4, progress=stop)


def test_prompt_removes_marks_from_words(mllm, images):
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


def test_start_token_of_the_template_is_not_doubled(mllm, own, images):
    folder = own()
    (folder / "chat_template.jinja").write_text("{{ bos_token }}" + tiny_mllms.LLAVA_CHAT)
    torch.testing.assert_close(
        load_mllm(folder).states([images[0]], [WORDS[0]])[0],
        mllm.states([images[0]], [WORDS[0]])[0],
        rtol=0,
        atol=1e-5,
    )


def test_completes_old_folders_of_llava(mllm, own, images):
    folder = own()
    (folder / "chat_template.jinja").unlink()
    (folder / "processor_config.json").unlink()
    old = load_mllm(folder)
    assert old.prompt(WORDS[0]) == mllm.prompt(WORDS[0])
    torch.testing.assert_close(
        old.states([images[0]], [WORDS[0]])[0], mllm.states([images[0]], [WORDS[0]])[0]
    )


def test_loads_weights_in_several_dtypes(own, mllm, images):
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


def test_loads_a_head_tied_to_the_embedding(tmp_path, images):
    folder = tiny_mllms.llava(tmp_path, tie_word_embeddings=True)
    assert "language_model.lm_head.weight" not in load_file(folder / "model.safetensors")
    network = load_mllm(folder).module["mllm"]
    assert network.lm_head.weight is network.model.language_model.embed_tokens.weight


def test_loads_weights_on_first_use_and_frees_them(folders, images):
    model = load_mllm(folders["left"], lazily=True)
    assert (
        not model.loaded
        and (model.width, model.max_tokens, model.name) == (tiny_mllms.WIDTH, 2048, "left")
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
            "MLLM 'left': an image of shape [32, 32, 4] does not fit; [height, width, 3] with sides from 8 "
            "is needed.",
        ),
        ([torch.rand(4, 32, 3)], ["a"], "MLLM 'left': an image of shape [4, 32, 3] does not fit;"),
        (
            [torch.full((32, 32, 3), float("nan"))],
            ["a"],
            "MLLM 'left': the image holds values that are not finite.",
        ),
        ([torch.rand(32, 32, 3)], ["word " * 500], "tokens long; it reads 2048. Use fewer words."),
    ],
)
def test_rejects_invalid_input(mllm, images, texts, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        mllm.states(images, texts)


def test_rejects_empty_answers_and_full_chats(mllm, images):
    with pytest.raises(ModelError, match="an answer of 0 tokens is empty. Allow at least 1."):
        mllm.answer(images[0], "a", 0)
    words = "a" * (2048 - len("USER: \n ASSISTANT:") - 17)
    with pytest.raises(
        ModelError,
        match="image and words fill all 2048 tokens it reads, so it cannot answer. Use fewer words.",
    ):
        mllm.answer(images[0], words, 1)


def test_rejects_states_that_overflow(own, images):
    folder = own()
    states = load_file(folder / "model.safetensors")
    states["language_model.model.norm.weight"] *= 1e38
    save_file(states, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match="MLLM 'left': its states are not finite in float32. Load it in bf16 or fp32."
    ):
        load_mllm(folder).states([images[0] * 0 + 1], ["a" * 99])
