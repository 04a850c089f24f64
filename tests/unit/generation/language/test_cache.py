"""Answers on disk."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from instructbrush.core.errors import BuildError, StorageError
from instructbrush.core.generation.language.cache import AnswerCache, CachedModel, Usage
from instructbrush.core.generation.language.models import Answer, Question


@dataclass
class Counting:
    """A model that says how often it was asked."""

    name: str = "counting"
    fingerprint: str = "0"
    sees_images: bool = True
    asked: int = 0

    def ask(self, question):
        self.asked += 1
        return Answer(f"{question.text} {self.asked}", question.most_tokens < 5, 3, 4)


QUESTIONS = (
    Question("a"), Question("b"), Question("a", b"1"), Question("a", b"2"), Question("a", sample=1),
    Question("a", attempt=1), Question("a", most_tokens=3), Question("a", temperature=0.5),
    Question("é\u2028\n\"'\\ 😀"),
)  # fmt: skip


def files(folder):
    return sorted(folder.glob("??/*.json"))


def test_asks_each_question_once(tmp_path):
    counting = Counting()
    first = [CachedModel(counting, AnswerCache(tmp_path)).ask(question) for question in QUESTIONS]
    assert counting.asked == len(QUESTIONS) == len(files(tmp_path))
    again = [CachedModel(counting, AnswerCache(tmp_path)).ask(question) for question in QUESTIONS]
    assert again == first and counting.asked == len(QUESTIONS)
    assert first[6].cut_off and not first[0].cut_off
    assert all(path.parent.name == path.stem[:2] and len(path.stem) == 64 for path in files(tmp_path))


def test_models_do_not_share_answers(tmp_path):
    cache = AnswerCache(tmp_path)
    models = [Counting(), Counting(name="other"), Counting(fingerprint="1")]
    for model in models:
        CachedModel(model, cache).ask(QUESTIONS[0])
    assert [model.asked for model in models] == [1, 1, 1]


def test_stores_the_question_and_no_image(tmp_path):
    CachedModel(Counting(), AnswerCache(tmp_path)).ask(Question("what is it?", b"secret pixels"))
    (path,) = files(tmp_path)
    entry = json.loads(path.read_text(encoding="utf-8"))
    assert entry["question"]["text"] == "what is it?" and len(entry["question"]["image"]) == 64
    assert entry["model"] == "counting" and b"secret pixels" not in path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"a 1"', b'"a 1'),
        lambda content: content.replace(b'"text": "a"', b'"text": "b"'),  # another question's answer
        lambda content: content.replace(b'"input_tokens": 3', b'"input_tokens": -3'),
        lambda content: content.replace(b'"input_tokens": 3', b'"input_tokens": "3"'),
        lambda content: content.replace(b'"answer"', b'"answers"'),
        lambda content: b"[]",
        lambda content: b"\xff\xfe",
        lambda content: content + b" " * 8_000_000,
    ],
)
def test_asks_anew_where_a_file_is_damaged(tmp_path, damage, caplog):
    counting = Counting()
    model = CachedModel(counting, AnswerCache(tmp_path))
    model.ask(Question("a"))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert AnswerCache(tmp_path).usage() == {}
    assert model.ask(Question("a")).text == "a 2" and counting.asked == 2
    assert "is damaged; the question is asked again" in caplog.text
    assert model.ask(Question("a")).text == "a 2" and counting.asked == 2


def test_the_first_answer_wins(tmp_path):
    cache, model, question = AnswerCache(tmp_path), Counting(), Question("a")
    assert cache.put(model, question, Answer("first")) == Answer("first")
    assert cache.put(model, question, Answer("second")) == Answer("first")
    assert cache.get(model, question) == Answer("first")


def test_threads_that_ask_at_once_get_the_same_answer(tmp_path):
    together = threading.Barrier(8)

    @dataclass
    class Slow(Counting):
        def ask(self, question):
            together.wait()
            return Answer(str(threading.get_ident()))

    def ask(_):
        return CachedModel(Slow(), AnswerCache(tmp_path)).ask(Question("a")).text

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1


def test_usage_counts_each_answer_once(tmp_path):
    cache = AnswerCache(tmp_path)
    assert cache.usage() == {}
    for _ in range(3):
        for question in QUESTIONS[:4]:
            CachedModel(Counting(), cache).ask(question)
    cache.put(Counting(name="silent"), Question("a"), Answer("hm"))
    assert cache.usage() == {"counting": Usage(4, 12, 16, 0), "silent": Usage(1, 0, 0, 1)}
    assert cache.usage()["counting"].cost((1000.0, 2000.0)) == pytest.approx(0.044)


def test_says_where_answers_cannot_be_kept(tmp_path):
    (tmp_path / "answers").write_text("a file")
    with pytest.raises(StorageError, match=r"An answer cannot be kept in .*answers.* nothing is lost"):
        CachedModel(Counting(), AnswerCache(tmp_path / "answers")).ask(Question("a"))


def test_a_model_without_eyes_gets_no_image(tmp_path):
    model = CachedModel(Counting(sees_images=False), AnswerCache(tmp_path))
    with pytest.raises(BuildError, match="'counting' reads no images, but a question has one"):
        model.ask(Question("a", b"1"))
