"""Part I: candidates of an indirect instruction, and the choice among them (Eq. 2 and 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import BuildError
from ..engine.stage import Row, RowFunction, Stage
from ..errors import Refused
from ..language.models import LanguageModel, LanguageModelSpec, Question, ask_for
from ..language.parsing import choice_of, sentence_of
from .filtering import PAIRS, TEXTS
from .indirect import check_indirect, different
from .prompts import selecting_prompt, writing_prompt

TOO_FEW = "too few candidates can be used"

# Temperature of candidates: at 0 all of them would be alike.
_TEMPERATURE = 1.0
_WRITING_TOKENS = 128
_CHOOSING_TOKENS = 32
# Expected tokens of a question and its answer, for the plan.
_WRITING = (320, 30)
_CHOOSING = (330, 4)


@dataclass(frozen=True)
class Asking:
    """How a stage asks a language model."""

    model: LanguageModelSpec
    tries: int = 3
    """How often a question is asked until its answer can be used."""


@dataclass(frozen=True)
class _Candidates:
    asking: Asking
    number: int
    fewest: int

    def __call__(self) -> RowFunction:
        model = self.asking.model()
        return lambda row: self._row(model, row)

    def _row(self, model: LanguageModel, row: Row) -> Sequence[Row]:
        if row["part"] != PAIRS:
            return [{"candidates": None}]
        before, direct, after = (row[name] for name in TEXTS)
        prompt = writing_prompt(before, after, direct)
        written: list[str] = []
        problems: list[Refused] = []
        for sample in range(self.number):
            question = Question(prompt, sample=sample, most_tokens=_WRITING_TOKENS, temperature=_TEMPERATURE)
            try:
                parse = _indirect_reader(direct, before)
                written.append(ask_for(model, question, parse, self.asking.tries))
            except Refused as problem:
                problems.append(problem)
        if not written:
            raise problems[-1]
        found = different(written)
        if len(found) < self.fewest:
            last = f"; {problems[-1].detail}" if problems else ""
            raise Refused(TOO_FEW, f"{len(found)} of {self.number} are usable and different{last}")
        return [{"candidates": found}]


def candidates_stage(asking: Asking, number: int = 5, fewest: int = 2, share: float = 1.0) -> Stage:
    """Asks ``number`` times for an indirect instruction (Eq. 2). Adds ``candidates``.

    An answer counts if ``check_indirect`` accepts it and no other one says the same. Refuses rows with less
    than ``fewest``.

    Args:
        asking: the language model.
        number: n of the paper; it does not say which number it used.
        fewest: 1 or more.
        share: expected share of rows of Part I, for the plan.

    Raises:
        BuildError: a number is out of range.
    """
    if not 1 <= fewest <= number:
        raise BuildError(
            f"ReasonPix2Pix: {number} candidates of which at least {fewest} must be usable are out of range; "
            "both are at least 1, and the first is not smaller."
        )
    reads = ("part", *TEXTS)
    start = _Candidates(asking, number, fewest)
    return Stage(
        "candidates", reads, {"candidates": "texts"}, start, calls=share * number, call_tokens=_WRITING
    )


@dataclass(frozen=True)
class _Choice:
    asking: Asking

    def __call__(self) -> RowFunction:
        model = self.asking.model()
        return lambda row: self._row(model, row)

    def _row(self, model: LanguageModel, row: Row) -> Sequence[Row]:
        found = row["candidates"]
        if row["part"] != PAIRS or len(found) == 1:
            return [{"reasoning": found[0] if found else None}]
        before, direct, after = (row[name] for name in TEXTS)
        question = Question(selecting_prompt(found, before, after, direct), most_tokens=_CHOOSING_TOKENS)
        chosen = ask_for(model, question, lambda text: choice_of(text, len(found)), self.asking.tries)
        return [{"reasoning": found[chosen - 1]}]


def choice_stage(asking: Asking, share: float = 1.0) -> Stage:
    """Asks which candidate is best (Eq. 3). Adds ``reasoning``. A single candidate is taken without asking.

    Args:
        asking: the language model.
        share: expected share of rows of Part I, for the plan.
    """
    reads = ("part", "candidates", *TEXTS)
    return Stage("choice", reads, {"reasoning": "text"}, _Choice(asking), calls=share, call_tokens=_CHOOSING)


def _indirect_reader(direct: str, seen: str) -> Callable[[str], str]:
    return lambda text: check_indirect(sentence_of(text), direct, seen)
