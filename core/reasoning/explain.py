"""From a wish to an instruction: a vision-language model looks at the picture and says which edit fulfils the wish."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..errors import InstructionError
from .mllm import Progress

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


class Answers(Protocol):
    """What :func:`explain` needs of a :class:`~.mllm.Mllm`."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def answer(self, picture: Tensor, words: str, max_new_tokens: int = ..., task: str = ..., progress: Progress | None = ...) -> str:
        """See :meth:`~.mllm.Mllm.answer`."""
        ...


@dataclass(frozen=True)
class Explanation:
    """What a wish means for a picture.

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


def explain(mllm: Answers, picture: Tensor, wish: str, max_new_tokens: int = MOST_TOKENS, progress: Progress | None = None) -> Explanation:
    """Ask which edit of a picture fulfils a wish. An answer that cannot be used is asked for once more, more strictly; then the wish itself is taken.

    Args:
        mllm: who is asked.
        picture: [H, W, 3] in 0..1.
        wish: what the user wants, which may name no edit: "she prefers a face mask to sunglasses".
        max_new_tokens: of an answer.
        progress: called after every token.

    Raises:
        InstructionError: there are no words.
        ModelError: the picture does not fit, or the words are too many for the model.
    """
    wish = " ".join(wish.split())
    if not wish:
        raise InstructionError("Explain Instruction: there is no wish. Write what you would like, such as: it should look as if hours had passed.")
    problem = answer = ""
    for task in (TASK, STRICT_TASK):
        answer = mllm.answer(picture, wish, max_new_tokens, task, progress)
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
    """Read the JSON in an answer, whatever text is around it; spaces at the ends of keys and values do not count.

    Raises:
        InstructionError: there is none with an instruction on one line, of at most ``MOST_LETTERS`` letters, and a reason. The message says what is wrong.
    """
    tables = [{str(key).strip().lower(): value for key, value in table.items()} for table in _tables(answer)]
    if not tables:
        raise InstructionError("There was no JSON in it.")
    table = next((each for each in tables if "instruction" in each), tables[0])
    for key in ("instruction", "reason"):
        if not isinstance(table.get(key), str):
            raise InstructionError(f"Its JSON had no text named {key}.")
    instruction, reason = table["instruction"].strip(), " ".join(table["reason"].split())[:_MOST_REASON]
    if not any(letter.isalnum() for letter in instruction):
        raise InstructionError("Its instruction was empty.")
    if len(instruction.splitlines()) > 1 or len(instruction) > MOST_LETTERS:
        raise InstructionError(f"Its instruction was not one line of at most {MOST_LETTERS} letters.")
    return Explanation(" ".join(instruction.split()), reason)


def _tables(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON table in a text, the outermost ones."""
    decoder = json.JSONDecoder()
    place = text.find("{")
    while place >= 0:
        try:
            table, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield table
        place = text.find("{", end)
