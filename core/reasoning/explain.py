"""Turns a wish into an instruction: a vision-language model looks at the image and names the edit."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..errors import InstructionError
from ..progress import Progress
from .answers import json_objects, one_line, printable, without_thoughts

# Length limit of an answer, in tokens.
MOST_TOKENS = 200
# Length limit of an instruction, in characters. Text encoders read about 75 tokens.
MOST_LETTERS = 200

# The prompts. Models may have been trained with these words: do not change them.
TASK = (
    "Look at this picture and read the wish below it. The wish may not say what to change. "
    "Decide which one edit of this very picture fulfils the wish. "
    "Answer only with JSON of this form: "
    '{"instruction": "a short command for an image editor, such as: turn the sunglasses into a face mask", '
    '"reason": "one sentence that says why"} '
    "The wish:"
)
STRICT_TASK = (
    "Answer with a single line of JSON and nothing else: no explanation before or after it, no code block. "
    "It has exactly two keys. "
    '"instruction" is a command of at most fifteen words that tells an image editor what to change in this '
    "picture so that the wish below is fulfilled. "
    '"reason" is one short sentence. For example: '
    '{"instruction": "turn the sunglasses into a face mask", '
    '"reason": "a face mask is wished for instead of sunglasses"} '
    "The wish:"
)

# Length limit in characters.
MOST_REASON = 1000


class AnsweringModel(Protocol):
    """The part of ``Mllm`` that ``explain`` uses."""

    @property
    def name(self) -> str:
        """Shown in messages."""
        ...

    def answer(
        self,
        image: Tensor,
        words: str,
        max_new_tokens: int = ...,
        task: str = ...,
        progress: Progress | None = ...,
    ) -> str:
        """See ``Mllm.answer``."""
        ...


@dataclass(frozen=True)
class Explanation:
    """The edit that a wish means for an image."""

    instruction: str
    """An explicit edit on one line; the user's own words if ``fallback``."""
    reason: str
    """The model's reason; empty if ``fallback``."""
    fallback: bool = False
    """Whether the model gave no usable answer."""
    warning: str = ""
    """Message for the user if ``fallback``, else empty."""


def explain(
    mllm: AnsweringModel,
    image: Tensor,
    wish: str,
    max_new_tokens: int = MOST_TOKENS,
    progress: Progress | None = None,
) -> Explanation:
    """Asks a model which edit of an image fulfils a wish.

    If the answer cannot be used, asks once more with a stricter prompt. If that fails too, returns the wish.

    Args:
        mllm: the model.
        image: [H, W, 3] in 0..1.
        wish: what the user wants. It may name no edit: "she prefers a face mask to sunglasses".
        max_new_tokens: length limit of an answer.
        progress: called after every token.

    Raises:
        InstructionError: the wish is empty.
        ModelError: the image does not fit, or the wish is too long for the model.
    """
    wish = checked_wish(wish)
    problem = answer = ""
    for task in (TASK, STRICT_TASK):
        answer = mllm.answer(image, wish, max_new_tokens, task, progress)
        try:
            return parse_answer(answer)
        except InstructionError as error:
            problem = str(error)
    return Explanation(wish, "", True, unusable(mllm.name, problem, answer))


def checked_wish(wish: str) -> str:
    """Returns a wish on one line.

    Raises:
        InstructionError: it is empty.
    """
    wish = " ".join(wish.split())
    if not wish:
        raise InstructionError(
            "Explain Instruction: the wish is empty. Write a wish, such as: it should look as "
            "if hours had passed."
        )
    return wish


def unusable(name: str, problem: str, answer: str) -> str:
    """Returns the warning that a model gave no usable answer."""
    return (
        f"{name} gave no usable answer, so your own words are used. {problem} "
        f"Its last answer began: {' '.join(answer.split())[:80]!r}. "
        "Rephrase the wish, or load a larger model."
    )


def parse_answer(answer: str) -> Explanation:
    """Reads the last usable JSON object in an answer. Ignores text around it, and spaces around values.

    Text between ``<think>`` and ``</think>``, or similar tags, is ignored too, as is everything after a
    ``<think>`` that never ends.

    Raises:
        InstructionError: no object has a reason and an instruction of one line with at most ``MOST_LETTERS``
            characters. The message says what is wrong.
    """
    text, ends_in_thought = without_thoughts(answer)
    problems: list[InstructionError] = []
    for found in json_objects(text):
        fields = {str(key).strip().lower(): value for key, value in found.items()}
        try:
            return _explanation(fields)
        except InstructionError as error:
            # Problems of objects with an instruction are the most helpful ones.
            problems.insert(0 if "instruction" in fields else len(problems), error)
    if problems:
        raise problems[0]
    raise InstructionError(
        "It reached the token limit before it answered: allow more tokens."
        if ends_in_thought
        else "There was no JSON in it."
    )


def _explanation(fields: dict[str, Any]) -> Explanation:
    for key in ("instruction", "reason"):
        if not isinstance(fields.get(key), str):
            raise InstructionError(f"Its JSON had no text named {key}.")
    instruction = printable(fields["instruction"]).strip()
    if not any(letter.isalnum() for letter in instruction):
        raise InstructionError("Its instruction was empty.")
    if len(instruction.splitlines()) > 1 or len(instruction) > MOST_LETTERS:
        raise InstructionError(f"Its instruction was not one line of at most {MOST_LETTERS} letters.")
    return Explanation(one_line(instruction), one_line(fields["reason"])[:MOST_REASON])
