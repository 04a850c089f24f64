"""The protocol of language models, and how a stage asks one until its answer can be used."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ...errors import BuildError
from ...reasoning.answers import one_line, printable
from ..errors import Refused

UNUSABLE = "the answer cannot be used"
UNANSWERED = "the model gave no answer"
TOO_LONG = "the question is too long for the model"
DECLINED = "the model declines the question"
REJECTED = "the endpoint rejects the question"

# Sampling temperature of a second attempt. At temperature 0 a model would repeat its answer.
_LATER_TEMPERATURE = 0.7
# Most characters of a question.
_MOST_TEXT = 1_000_000
# Characters of an unusable answer that a refusal shows.
_SHOWN = 200

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Question:
    """What a language model is asked. Equal questions get equal answers, also in another process.

    Raises:
        BuildError: a number is out of range.
        Refused: the text has more than a million characters.
    """

    text: str
    """Control characters become spaces."""
    image: bytes | None = None
    """An encoded PNG, JPEG, WebP or GIF."""
    sample: int = 0
    """Number of the answer among several to the same words."""
    attempt: int = 0
    """How often the question was asked before because its answer could not be used."""
    most_tokens: int = 512
    """Length limit of the answer."""
    temperature: float = 0.0
    """0 takes the most probable words."""

    def __post_init__(self) -> None:
        # Such characters can be neither sent nor stored.
        object.__setattr__(self, "text", printable(self.text))
        if len(self.text) > _MOST_TEXT:
            raise Refused(TOO_LONG, f"{len(self.text)} characters; at most {_MOST_TEXT} are sent")
        if self.most_tokens < 1 or not 0 <= self.temperature <= 2 or min(self.sample, self.attempt) < 0:
            raise BuildError(
                f"Question: {self.most_tokens} tokens at temperature {self.temperature} (sample "
                f"{self.sample}, attempt {self.attempt}) are out of range. Use 1 token or more, "
                "a temperature in 0..2, and numbers from 0."
            )

    @property
    def facts(self) -> Mapping[str, Any]:
        """Everything that determines the answer, as plain values; the image as its hash."""
        return {
            "text": self.text,
            "image": None if self.image is None else hashlib.sha256(self.image).hexdigest(),
            "sample": self.sample,
            "attempt": self.attempt,
            "most_tokens": self.most_tokens,
            "temperature": float(self.temperature),
        }

    @property
    def seed(self) -> int:
        """A random seed in 0..2^31-1 that depends on ``facts`` alone."""
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Answer:
    """What a language model answers."""

    text: str
    cut_off: bool = False
    """Whether the answer reached its length limit."""
    input_tokens: int = 0
    """0 if the model does not say."""
    output_tokens: int = 0


class LanguageModel(Protocol):
    """A model that answers questions."""

    @property
    def name(self) -> str:
        """Shown in messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of what determines the answers besides the question."""
        ...

    @property
    def sees_images(self) -> bool:
        """Whether questions may have an image."""
        ...

    def ask(self, question: Question) -> Answer:
        """Answers a question.

        Raises:
            NoAnswer: there is no answer after all tries.
            Refused: the model cannot or will not answer this question.
            BuildError: the model cannot be used at all.
        """
        ...


LanguageModelSpec = Callable[[], LanguageModel]
"""Loads a language model. Is sent to other processes, and its ``repr`` names the model."""


class NoAnswer(Refused):
    """A model gave no answer to a question after all tries."""

    def __init__(self, reason: str = UNANSWERED, detail: str = "") -> None:
        super().__init__(reason, detail)


def ask_for(
    model: LanguageModel, question: Question, parse: Callable[[str], Parsed], tries: int = 3
) -> Parsed:
    """Asks a question until the answer can be used.

    Later attempts are sampled, and may be twice as long after an answer that was cut off.

    Args:
        model: the model.
        question: its ``attempt`` is that of the first try.
        parse: makes the result of an answer's text; raises ``ValueError`` with a sentence that says what is
            wrong with it.
        tries: how often to ask.

    Raises:
        Refused: no answer can be used.
    """
    if tries < 1:
        raise BuildError(f"Question: {tries} tries are out of range; at least 1 is needed.")
    problem = ""
    for _ in range(tries):
        answer = model.ask(question)
        problem = f"it was cut off after {question.most_tokens} tokens"
        if not answer.cut_off:
            try:
                return parse(answer.text)
            except ValueError as error:
                problem = str(error)
        problem += f': "{one_line(answer.text)[:_SHOWN]}"'
        question = replace(
            question,
            attempt=question.attempt + 1,
            temperature=max(question.temperature, _LATER_TEMPERATURE),
            most_tokens=question.most_tokens * (2 if answer.cut_off else 1),
        )
    raise Refused(UNUSABLE, f"{model.name}: {problem}")


def check_image(model: LanguageModel, question: Question) -> None:
    """Checks that a model can read a question's image.

    Raises:
        BuildError: the question has an image and the model reads none.
    """
    if question.image is not None and not model.sees_images:
        raise BuildError(
            f"Language model '{model.name}' reads no images, but a question has one. Name a vision-language "
            "model for this stage."
        )
