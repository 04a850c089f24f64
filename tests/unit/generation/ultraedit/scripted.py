"""A language model that answers from a script, and a source of pocket scenes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.language.models import Answer, LanguageModel, Question
from instructbrush.tools.build_demo.pocket_rows import pairs
from instructbrush.tools.build_demo.ultraedit_answers import answer


@dataclass(frozen=True)
class Scripted:
    """Answers as the scripted writer of the pocket world; the first ``bad`` attempts get ``text`` instead."""

    bad: int = 0
    text: str = ""
    sees_images: bool = False
    name: str = "scripted"
    fingerprint: str = "scripted"
    asked: list[Question] = field(default_factory=list, repr=False, compare=False)

    def __call__(self) -> LanguageModel:
        return self

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        if question.attempt < self.bad:
            return Answer(self.text)
        return Answer(answer(question.text, question.attempt))


@dataclass(frozen=True)
class Scenes:
    """Pocket scenes with captions."""

    count: int
    seed: int = 17
    columns: Mapping[str, str] = field(default_factory=lambda: {"image": "image", "caption": "text"})
    fingerprint: str = "scenes"

    def rows(self, start: int, count: int) -> Iterator[Row]:
        for number, row in enumerate(pairs(self.count, self.seed, damaged=0)):
            if start <= number < start + count:
                yield {"id": row["id"], "image": row["source_image"], "caption": row["source_caption"]}


def cell(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row's image under the name of an anchor."""
    return {**row, "anchor": row["image"]}
