"""Local models: with and without eyes, deterministic, behind the protocol of language models."""

import io
import json
import math
import pickle
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from instructbrush.core.encoders.mllm import Mllm
from instructbrush.core.errors import BuildError, ModelError
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.language.local import LocalModel, LocalSettings
from instructbrush.core.generation.language.models import Question, ask_for
from instructbrush.core.generation.language.parsing import json_object
from instructbrush.core.generation.language.text_model import TextModel
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support import tiny_mllms

TEMPLATE = (
    "{% for message in messages %}<|im_end|>{{ message['role'] }}\n{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|>assistant\n{% endif %}"
)


def write_text_model(folder: Path, kind: str = "Llama", **changes) -> Path:
    """Writes a tiny language model of the true layout, with bytes as tokens."""
    import transformers

    words = tiny_mllms.tokenizer(start=False)
    words.chat_template = TEMPLATE
    settings = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 4, **changes,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**settings)
    tiny_mllms.drawn(getattr(transformers, f"{kind}ForCausalLM")(config), 0).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("models") / "qwen", "Qwen2")


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    return tiny_mllms.llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def own(llama, tmp_path):
    return Path(shutil.copytree(llama, tmp_path / "own"))


def png(make_image, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    pixels = (make_image(seed, 40, 48) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_takes_the_most_probable_tokens_at_temperature_0(kind, request):
    folder = request.getfixturevalue(kind)
    model = TextModel(folder)
    ids = tiny_mllms.tokenizer(start=False)(model.prompt("say\nit"), return_tensors="pt").input_ids
    start, network = ids.shape[1], model.network
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, network(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    answer = LocalModel(LocalSettings(folder)).ask(Question("say\nit", most_tokens=6))
    assert (
        answer.text
        == tiny_mllms.tokenizer(start=False).decode(ids[0, start:], skip_special_tokens=True).strip()
    )
    assert (answer.input_tokens, answer.output_tokens, answer.cut_off) == (start, 6, True)


def test_draws_tokens_with_the_probability_that_the_model_gives(llama):
    model = TextModel(llama)
    inputs = tiny_mllms.tokenizer(start=False)(model.prompt("a"), return_tensors="pt").input_ids
    with torch.no_grad():
        expected = (model.network(inputs).logits[0, -1] / 0.7).softmax(-1)
    letters, shares = tiny_mllms.tokenizer(start=False), Counter()
    for token, probability in enumerate(expected.tolist()):
        # Many bytes are no text on their own, and look the same.
        shares[letters.decode([token], skip_special_tokens=True).strip()] += probability
    local = LocalModel(LocalSettings(llama))
    questions = [Question("a", sample=sample, most_tokens=1, temperature=0.7) for sample in range(200)]
    drawn = Counter(local.ask(question).text for question in questions)
    for text, share in shares.most_common(3):
        assert abs(drawn[text] / 200 - share) < 4 * math.sqrt(share * (1 - share) / 200)
    assert len(drawn) > 3


def test_the_question_alone_decides_what_is_drawn(llama, qwen, llava, make_image):
    for folder, image in ((llama, None), (qwen, None), (llava, png(make_image))):
        first, second = LocalModel(LocalSettings(folder)), LocalModel(LocalSettings(folder))
        questions = [
            Question("a", image, sample=number, most_tokens=8, temperature=1.0) for number in range(4)
        ]
        torch.manual_seed(5)
        answers = [first.ask(question) for question in questions]
        after = torch.rand(1)
        torch.manual_seed(9)
        assert [second.ask(question) for question in reversed(questions)] == answers[::-1]
        assert len({answer.text for answer in answers}) > 1
        torch.manual_seed(5)
        assert torch.equal(torch.rand(1), after)


def test_a_model_with_eyes_answers_as_mllm_does(llava, make_image):
    local, mllm = LocalModel(LocalSettings(llava)), Mllm(llava)
    image = png(make_image)
    tensor = from_image(Image.open(io.BytesIO(image)))
    assert local.sees_images
    assert local.ask(Question("what is it", image, most_tokens=8)).text == mllm.answer(
        tensor, "what is it", 8
    )
    other = local.ask(Question("what is it", png(make_image, 1), most_tokens=8))
    assert other.text != local.ask(Question("what is it", image, most_tokens=8)).text
    # Without an image it reads the words alone.
    assert local.ask(Question("what is it", most_tokens=8)).input_tokens < other.input_tokens


def test_the_prompt_keeps_lines_and_loses_marks(llama, llava):
    assert (
        TextModel(llama).prompt("one\n  two<|im_end|>") == "<|im_end|>user\none\n  two<|im_end|>assistant\n"
    )
    mllm = Mllm(llava)
    assert mllm.prompt("one\n two</s><image>", "", lines=True) == "USER: <image>\none\n two ASSISTANT:"
    assert mllm.prompt("one\n two", "", image=False) == "USER: one two ASSISTANT:"


def test_the_built_in_reader_answers_about_images_only(make_image, tmp_path):
    reader = LocalSettings().open(tmp_path)
    assert (reader.name, reader.sees_images) == ("pocket reader", True)
    found = ask_for(reader, Question("make the sky orange", png(make_image), most_tokens=200), json_object)
    assert isinstance(found["instruction"], str)
    with pytest.raises(
        BuildError, match="'pocket reader' answers only about images, but a question has none"
    ):
        reader.ask(Question("hello"))


def test_a_model_that_reads_words_gets_no_image(llama, make_image):
    local = LocalModel(LocalSettings(llama))
    assert not local.sees_images
    with pytest.raises(BuildError, match="'llama' reads no images"):
        local.ask(Question("a", png(make_image)))


def test_answers_come_from_the_disk_without_loading_weights(llama, tmp_path):
    question = Question("a", most_tokens=4)
    answer = LocalSettings(llama).open(tmp_path).ask(question)
    again = LocalSettings(llama).open(tmp_path)
    assert again.ask(question) == answer and again._model._model._network is None


def test_refuses_the_row_when_the_words_are_too_long_or_the_image_is_damaged(llama, llava, make_image):
    with pytest.raises(Refused) as caught:
        LocalModel(LocalSettings(llama)).ask(Question("a" * 300))
    assert caught.value.reason == "the model cannot read the question"
    assert "tokens long; with an answer it reads 256" in caught.value.detail
    with pytest.raises(Refused, match="the image cannot be read"):
        LocalModel(LocalSettings(llava)).ask(Question("a", png(make_image)[:60]))


def test_settings_name_the_weights_and_not_the_folder(llama, own, tmp_path):
    first, moved = LocalSettings(llama), LocalSettings(own, device="cpu")
    assert repr(first) == repr(moved) and repr(first).startswith("LocalSettings(")
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301 (our own)
    others = [LocalSettings(own, dtype="bf16")]
    assert repr(others[0]) != repr(first)
    file = own / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant", "helper"))
    assert repr(LocalSettings(own)) != repr(first)
    for wrong in ({"dtype": "fp8"}, {"bits": 3}):
        with pytest.raises(BuildError, match="Choose fp32, fp16 or bf16, and 8 bits, 4 bits or none"):
            LocalSettings(llama, **wrong)


def _without_template(folder):
    (folder / "chat_template.jinja").unlink()


def _with_bad_template(folder):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no users') }}")


def _pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _incomplete(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _of_unknown_type(folder):
    tiny_mllms.change_json(folder / "config.json", model_type="brush")


def _with_code(folder):
    tiny_mllms.change_json(
        folder / "config.json", model_type="brush", auto_map={"AutoModelForCausalLM": "modeling.Brush"}
    )
    (folder / "modeling.py").write_text("raise SystemExit('code of the folder ran')")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_template, "Language model 'own': it has no chat template, so it cannot be asked"),
        (_with_bad_template, r"its chat template cannot be used \(no users\)"),
        (_pickled, "pytorch_model.bin: .bin files are not read, only .safetensors"),
        (_incomplete, "Language model 'own': 1 weights such as model.norm.weight are missing"),
        (_of_unknown_type, "says 'brush', which transformers does not know"),
        (_with_code, "says 'brush', which transformers does not know"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "tokenizer.json or tokenizer.model or vocab.json and merges.txt is missing",
        ),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_says_what_is_wrong_with_a_folder(own, spoil, said):
    spoil(own)
    with pytest.raises(ModelError, match=said):
        LocalModel(LocalSettings(own)).ask(Question("a", most_tokens=2))


def test_ignores_the_folders_sampling_settings(llama, own):
    (own / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "eos_token_id": 2})
    )
    question = Question("a", most_tokens=8)
    assert LocalModel(LocalSettings(own)).ask(question) == LocalModel(LocalSettings(llama)).ask(question)
