"""From a wish to an instruction: a vision-language model looks at the image and says which edit fulfils the wish."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..encoders.mllm import Progress
from ..errors import InstructionError

MOST_TOKENS = 200
"""Of an answer."""
MOST_LETTERS = 200
"""Of an instruction; text encoders read about 75 tokens."""

TASK = (
    "Look at this picture and read the wish below it. The wish may not say what to change. Decide which one edit of this very picture fulfils the wish. "
    "Answer only with JSON of this form: "
    '{"instruction": "a short command for an image editor, such as: turn the sunglasses into a face mask", "reason": "one sentence that says why"} '
    "The wish:"
)
STRICT_TASK = (
    "Answer with a single line of JSON and nothing else: no explanation before or after it, no code block. It has exactly two keys. "
    '"instruction" is a command of at most fifteen words that tells an image editor what to change in this picture so that the wish below is fulfilled. '
    '"reason" is one short sentence. For example: '
    '{"instruction": "turn the sunglasses into a face mask", "reason": "a face mask is wished for instead of sunglasses"} '
    "The wish:"
)

_MOST_REASON = 1000
_MOST_ANSWER = 1_000_000
_MOST_TRIES = 100
_THOUGHT = re.compile(
    r"<(/?)(?:think(?:ing)?|thoughts?|reasoning|analysis|reflection|seed:think)\b[^<>]{0,80}>|[\[◁](/?)think[\]▷]",
    re.IGNORECASE,
)
"""Tags around thoughts, of the models that have them."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]")
"""Control characters other than those that end lines, and halves of characters."""


class Answers(Protocol):
    """What :func:`explain` needs of a :class:`~..encoders.mllm.Mllm`."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def answer(
        self,
        image: Tensor,
        words: str,
        max_new_tokens: int = ...,
        task: str = ...,
        progress: Progress | None = ...,
    ) -> str:
        """See :meth:`~..encoders.mllm.Mllm.answer`."""
        ...


@dataclass(frozen=True)
class Explanation:
    """What a wish means for an image.

    Attributes:
        instruction: an explicit edit, on one line; the user's own words where ``fallback`` is true.
        reason: the model's; empty where ``fallback`` is true.
        fallback: whether the model gave no usable answer.
        warning: what to tell the user then; empty otherwise.
    """

    instruction: str
    reason: str
    fallback: bool = False
    warning: str = ""


def explain(
    mllm: Answers,
    image: Tensor,
    wish: str,
    max_new_tokens: int = MOST_TOKENS,
    progress: Progress | None = None,
) -> Explanation:
    """Ask which edit of an image fulfils a wish. An answer that cannot be used is asked for once more, more strictly; then the wish itself is taken.

    Args:
        mllm: who is asked.
        image: [H, W, 3] in 0..1.
        wish: what the user wants, which may name no edit: "she prefers a face mask to sunglasses".
        max_new_tokens: of an answer.
        progress: called after every token.

    Raises:
        InstructionError: there are no words.
        ModelError: the image does not fit, or the words are too many for the model.
    """
    wish = " ".join(wish.split())
    if not wish:
        raise InstructionError(
            "Explain Instruction: there is no wish. Write what you would like, such as: it should look as if hours had passed."
        )
    problem = answer = ""
    for task in (TASK, STRICT_TASK):
        answer = mllm.answer(image, wish, max_new_tokens, task, progress)
        try:
            return parse_answer(answer)
        except InstructionError as error:
            problem = str(error)
    warning = (
        f"{mllm.name} gave no usable answer, so your own words are used. {problem} Its last answer began: {' '.join(answer.split())[:80]!r}. "
        "Say it in other words, or load a larger model."
    )
    return Explanation(wish, "", True, warning)


def parse_answer(answer: str) -> Explanation:
    """Read the last usable JSON table in an answer, whatever text is around it; spaces at the ends of keys and values do not count.

    What stands between ``<think>`` and ``</think>``, or other tags around thoughts, is no answer, nor is what follows a ``<think>`` that never ends.

    Raises:
        InstructionError: there is none with an instruction on one line, of at most ``MOST_LETTERS`` letters, and a reason. The message says what is wrong.
    """
    spoken, thinking = _spoken(answer[-_MOST_ANSWER:])
    problems: list[InstructionError] = []
    for table in _tables(spoken):
        told = {str(key).strip().lower(): value for key, value in table.items()}
        try:
            return _explanation(told)
        except InstructionError as error:
            problems.insert(0 if "instruction" in told else len(problems), error)
    if problems:
        raise problems[0]
    raise InstructionError(
        "It was still thinking when it ended: allow it more tokens."
        if thinking
        else "There was no JSON in it."
    )


def _explanation(table: dict[str, Any]) -> Explanation:
    for key in ("instruction", "reason"):
        if not isinstance(table.get(key), str):
            raise InstructionError(f"Its JSON had no text named {key}.")
    instruction, reason = (_UNPRINTABLE.sub(" ", table[key]) for key in ("instruction", "reason"))
    instruction = instruction.strip()
    if not any(letter.isalnum() for letter in instruction):
        raise InstructionError("Its instruction was empty.")
    if len(instruction.splitlines()) > 1 or len(instruction) > MOST_LETTERS:
        raise InstructionError(f"Its instruction was not one line of at most {MOST_LETTERS} letters.")
    return Explanation(" ".join(instruction.split()), " ".join(reason.split())[:_MOST_REASON])


def _spoken(answer: str) -> tuple[str, bool]:
    """An answer without its thoughts, and whether the last thought never ended."""
    parts: list[str] = []
    depth = begun = 0
    for mark in _THOUGHT.finditer(answer):
        if not depth:
            parts.append(answer[begun : mark.start()])
        if not (mark[1] or mark[2]):
            depth += 1
        elif depth:
            depth -= 1
        else:
            parts.clear()  # some chat templates open the first thought themselves
        begun = mark.end()
    return " ".join(parts if depth else [*parts, answer[begun:]]), depth > 0


def _tables(text: str) -> Iterator[dict[str, Any]]:
    """JSON tables in a text, those that begin last first. How many places are tried, and how much is read there, is limited: a text may be all braces."""
    decoder = json.JSONDecoder()
    place, room = len(text), 4 * len(text) + 100_000
    for _ in range(_MOST_TRIES):
        place = text.rfind("{", 0, place)
        if place < 0 or room < 0:
            return
        try:
            table, end = decoder.raw_decode(text, place)
        except RecursionError:
            continue
        except json.JSONDecodeError as error:
            room -= error.pos - place
        except ValueError:  # a number of thousands of digits
            room -= len(text) - place
        else:
            room -= end - place
            yield table
