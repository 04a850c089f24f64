"""Stage I: captions, and the edits that a language model makes up for them (supplement A.1 and A.2)."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...reasoning.answers import one_line
from ...storage.parquet import image_bytes
from ..engine.stage import Row, RowFunction, Stage, seed_of
from ..errors import Refused
from ..images import as_png, square
from ..language.models import LanguageModelSpec, Question, ask_for
from ..language.parsing import rows_of
from .examples import Draw, Example, draw, same_words, seed_examples, unique
from .prompts import INSTANCES, expanding_prompt, writing_prompt

# Longest instruction, in characters.
_MOST_LETTERS = 300
# Share of the caption's words that an answer has to repeat in its first field.
_SAME_CAPTION = 0.6
# Examples that a question for more examples shows, and how many it asks for.
_SHOWN, _WANTED = 10, 10
_TOKENS = 1024


@dataclass(frozen=True)
class CaptionStage:
    """Keeps images with captions of a usable length, and cuts the anchor out of the image's middle."""

    image: str
    caption: str
    words: tuple[int, int]
    side: int

    def __call__(self) -> RowFunction:
        """Returns the stage's function."""
        return self._row

    def _row(self, row: Row) -> list[Mapping[str, object]]:
        # Semicolons separate the fields of an answer.
        caption = one_line(str(row[self.caption] or "")).replace(";", ",").strip(" ,.")
        count = len(caption.split())
        if not count:
            raise Refused("there is no caption")
        least, most = self.words
        if count < least:
            raise Refused("the caption is too short", f"{count} words; at least {least}: '{caption}'")
        if count > most:
            raise Refused("the caption is too long", f"{count} words; at most {most}: '{caption}'")
        anchor = square(image_bytes(row[self.image], row["id"]), row["id"], self.side)
        return [{"source_caption": caption, "anchor": as_png(anchor)}]


@dataclass(frozen=True)
class InstructionStage:
    """Asks a language model for three edits of each caption; the row branches into them."""

    model: LanguageModelSpec
    pool: tuple[Example, ...]
    words: tuple[int, int]
    edits: int
    tries: int

    def __repr__(self) -> str:
        # The pool may hold 100,000 examples; its hash stands for it.
        settings = (_digest(self.pool), self.words, self.edits, self.tries)
        return f"InstructionStage({self.model!r}, {settings})"

    def __call__(self) -> RowFunction:
        """Loads the language model and returns the stage's function."""
        model = self.model()

        def function(row: Row) -> list[Mapping[str, object]]:
            caption = row["source_caption"]
            drawn = draw(self.pool, seed_of(row, "instructions"))
            text = writing_prompt(caption, drawn.instructions, drawn.examples, self.edits)
            edits = ask_for(
                model,
                Question(text, most_tokens=_TOKENS),
                lambda answer: parse_edits(answer, caption, drawn, self.words),
                self.tries,
            )
            return [
                {"edit_prompt": edit.instruction, "target_caption": edit.edited_caption}
                for edit in edits[: self.edits]
            ]

        return function


@dataclass(frozen=True)
class ExpansionStage:
    """Asks a language model for new examples like some of the hand-written ones."""

    model: LanguageModelSpec
    tries: int

    def __call__(self) -> RowFunction:
        """Loads the language model and returns the stage's function."""
        model = self.model()

        def function(row: Row) -> list[Mapping[str, object]]:
            seeds = random.Random(seed_of(row, "expand")).sample(seed_examples(), _SHOWN)
            examples = ask_for(
                model,
                # Without a sample number, a cached answer would be given to all questions with these seeds.
                Question(expanding_prompt(seeds, _WANTED), sample=row["query"], most_tokens=_TOKENS),
                parse_examples,
                self.tries,
            )
            return [
                {
                    "original_caption": example.caption,
                    "edit_instruction": example.instruction,
                    "edited_caption": example.edited_caption,
                }
                for example in examples
            ]

        return function


def parse_edits(answer: str, caption: str, drawn: Draw, words: tuple[int, int]) -> list[Example]:
    """Reads the edits of an answer: at most ``INSTANCES``, without those that cannot be used.

    An edit is used if its first field is the caption, its instruction differs from the examples and from the
    captions, and its new caption differs from the old one and has a usable length.

    Raises:
        ValueError: no edit can be used; the sentence says why the first cannot.
    """
    known = {same_words(text) for text in drawn.instructions}
    known |= {same_words(example.instruction) for example in drawn.examples}
    edits: dict[str, Example] = {}
    problems: list[str] = []
    for fields in rows_of(answer, 3):
        edit = Example(*fields)
        problem = _problem(edit, caption, known, words)
        if problem is None:
            edits.setdefault(same_words(edit.instruction), edit)
        else:
            problems.append(problem)
    if not edits:
        raise ValueError(problems[0])
    return list(edits.values())[:INSTANCES]


def parse_examples(answer: str) -> list[Example]:
    """Reads new examples of an answer, each instruction once, without the hand-written ones.

    Raises:
        ValueError: there is no usable one.
    """
    known = {same_words(example.instruction) for example in seed_examples()}
    found = [
        example
        for example in unique(Example(*fields) for fields in rows_of(answer, 3))
        if _problem(example, example.caption, known, (2, 80)) is None
    ]
    if not found:
        raise ValueError("none of its examples is new and whole")
    return found


def _problem(edit: Example, caption: str, known: set[str], words: tuple[int, int]) -> str | None:
    """Returns what is wrong with an edit; None if nothing is."""
    instruction = same_words(edit.instruction)
    before, after = same_words(caption), same_words(edit.edited_caption)
    said = set(before.split())
    if len(said & set(same_words(edit.caption).split())) < _SAME_CAPTION * len(said):
        return f"it edits another caption: '{edit.caption[:80]}'"
    if len(edit.instruction) > _MOST_LETTERS:
        return f"an instruction has {len(edit.instruction)} characters; at most {_MOST_LETTERS} are read"
    if len(instruction.split()) < 2:
        return f"'{edit.instruction}' is no instruction"
    if instruction in known:
        return f"the instruction '{edit.instruction[:80]}' is one of the examples"
    if instruction in (before, after):
        return f"the instruction '{edit.instruction[:80]}' is a caption"
    if after == before:
        return "the new caption is the old one"
    if not words[0] <= len(after.split()) <= words[1]:
        return f"the new caption has {len(after.split())} words; {words[0]} to {words[1]} are wanted"
    return None


def caption_stage(image: str, caption: str, words: tuple[int, int], side: int) -> Stage:
    """Returns the stage ``captions``. Adds ``source_caption`` and ``anchor``."""
    adds = {"source_caption": "text", "anchor": "image"}
    return Stage("captions", (image, caption), adds, CaptionStage(image, caption, words, side), keeps=0.95)


def instruction_stage(
    model: LanguageModelSpec, pool: Sequence[Example], words: tuple[int, int], edits: int, tries: int
) -> Stage:
    """Returns the stage ``instructions``. Adds ``edit_prompt`` and ``target_caption``; branches."""
    start = InstructionStage(model, tuple(pool), words, edits, tries)
    shown = draw(pool, 0)
    tokens = len(writing_prompt("", shown.instructions, shown.examples).split()) * 4 // 3
    adds = {"edit_prompt": "text", "target_caption": "text"}
    return Stage(
        "instructions",
        ("source_caption",),
        adds,
        start,
        branches=edits,
        keeps=0.97,
        calls=1.0,
        call_tokens=(tokens, 150),
    )


def expansion_stage(model: LanguageModelSpec, tries: int = 3) -> Stage:
    """Returns the only stage of the build that makes a pool of examples."""
    adds = {"original_caption": "text", "edit_instruction": "text", "edited_caption": "text"}
    return Stage(
        "expand",
        ("query",),
        adds,
        ExpansionStage(model, tries),
        branches=_WANTED,
        calls=1.0,
        call_tokens=(600, 500),
    )


def _digest(pool: Sequence[Example]) -> str:
    return hashlib.sha256("\n".join(map(str, pool)).encode()).hexdigest()[:16]
