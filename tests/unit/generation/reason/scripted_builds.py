"""Rows of the pocket world and scripted language models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.language.models import Answer, Question
from instructbrush.core.generation.sources.rows import EDIT_COLUMNS, TYPES
from instructbrush.tools.build_demo.pocket_rows import pairs
from instructbrush.tools.build_demo.reason_answers import answer

_NAMES = {
    "source_image": "image",
    "source_caption": "caption",
    "edit_prompt": "instruction",
    "target_caption": "edited_caption",
}


@dataclass(frozen=True)
class PocketRows:
    """Pairs of the pocket world as a source."""

    count: int
    names: tuple[str, ...] = EDIT_COLUMNS

    @property
    def columns(self) -> Mapping[str, str]:
        return {name: TYPES[name] for name in self.names}

    @property
    def fingerprint(self) -> str:
        return f"pocket {self.names}"

    def rows(self, start: int, count: int) -> Iterator[Row]:
        for row in list(pairs(start + count, damaged=0.0))[start:]:
            renamed = {_NAMES.get(name, name): value for name, value in row.items()}
            yield {name: renamed[name] for name in ("id", *self.names)}


@dataclass(frozen=True)
class Scripted:
    """Answers as the demo's endpoint does. Every ``garbage``-th question gets no usable answer at first."""

    garbage: int = 0
    name = "scripted"
    fingerprint = "scripted"
    sees_images = False

    def __call__(self) -> "Scripted":
        return self

    def ask(self, question: Question) -> Answer:
        if self.garbage and not question.attempt and question.seed % self.garbage == 0:
            return Answer('{"selected": "circle", "target":')
        return Answer(answer(question.text, 100 * question.sample + question.attempt))


class Replies:
    """Gives prepared answers one after the other, and keeps the questions."""

    name = "replies"
    fingerprint = "replies"
    sees_images = True

    def __init__(self, *answers: str | Answer) -> None:
        self.answers = list(answers)
        self.questions: list[Question] = []

    def __call__(self) -> "Replies":
        return self

    def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        given = self.answers.pop(0)
        return given if isinstance(given, Answer) else Answer(given)
