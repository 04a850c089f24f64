"""Turns a wish into several edits: "make the room tidy" needs more than one."""

import re
from typing import Protocol

from torch import Tensor

from ..errors import InstructionError
from ..progress import Progress
from .answers import one_line, single_spaced
from .edit_lists import Edit, EditList, checked_edits, read_edits
from .explain import MOST_TOKENS, AnsweringModel, Explanation, checked_wish, explain, unusable

# Largest number of edits that may be asked for.
MOST_EDITS = 12

_LIST_TASK = (
    "Look at this picture and read the wish below it. The wish may not say what to change, and it may need "
    "several edits of this very picture. List the edits that fulfil the wish in the order in which an image "
    "editor makes them: as few as possible, at most {most}, one change in each, none of them twice. "
    "Answer only with JSON of this form: "
    '{{"edits": [{{"instruction": "a short command for an image editor, such as: turn the sunglasses into a '
    'face mask", "region": "the object that changes, such as: sunglasses; empty for the whole picture"}}], '
    '"reason": "one sentence that says why"}} '
    "The wish:"
)
_STRICT_LIST_TASK = (
    "Answer with a single line of JSON and nothing else: no explanation before or after it, no code block. "
    'Its key "edits" holds a list of at most {most} edits of this picture that fulfil the wish below. Each '
    'has two keys: "instruction" is a command of at most fifteen words that tells an image editor what to '
    'change, "region" names the object that changes, or is empty. The key "reason" is one short sentence. '
    "For example: "
    '{{"edits": [{{"instruction": "turn the sunglasses into a face mask", "region": "sunglasses"}}, '
    '{{"instruction": "make it night", "region": ""}}], "reason": "a masked person walks at night"}} '
    "The wish:"
)

# Where one wish ends and the next begins. A plain "and" does not separate: "it is winter and all is cold".
_CLAUSE_ENDS = re.compile(
    r"(?<=[.!?])\s+|\s*;\s*|\n+|\s*,\s*(?:and|then|also|besides|plus)\s+(?:(?:then|also)\s+)?"
    r"|\s+and\s+(?:then|also)\s+,?|\s*,?\s+then\s+(?=\w+\s+\w)",
    re.IGNORECASE,
)


class ListingModel(AnsweringModel, Protocol):
    """The part of ``Mllm`` that ``explain_edits`` uses."""

    @property
    def reads_task(self) -> bool:
        """See ``Mllm.reads_task``."""
        ...


def clauses(wish: str) -> list[str]:
    """Splits a text into wishes: at line ends, semicolons, ends of sentences, ", and", "and then".

    A plain "and" does not separate wishes.
    """
    parts = [one_line(part).strip(" ,.") for part in _CLAUSE_ENDS.split("\n".join(single_spaced(wish)))]
    return [part for part in parts if any(letter.isalnum() for letter in part)]


def explain_edits(
    mllm: ListingModel,
    image: Tensor,
    wish: str,
    most: int,
    max_new_tokens: int = MOST_TOKENS,
    progress: Progress | None = None,
) -> tuple[EditList, bool]:
    """Asks a model which edits of an image fulfill a wish, in the order in which they are made.

    A model that reads tasks answers with a list. A model that was trained for one task, such as the pocket
    reader, names one edit for a wish, so each clause of the wish is explained by itself (see ``clauses``). If
    an answer cannot be used, the model is asked again with a stricter prompt; if that fails too, the user's
    words become the edits.

    Args:
        mllm: the model.
        image: [H, W, 3] in 0..1.
        wish: what the user wants.
        most: largest number of edits. 1 asks for one edit, as ``explain`` does.
        max_new_tokens: length limit of an answer.
        progress: called after every token.

    Returns:
        The edits, one or more, and whether the user's own words are among them. Then a remark says why.

    Raises:
        InstructionError: the wish is empty, or ``most`` is below 1.
        ModelError: the image does not fit, or the wish is too long for the model.
    """
    checked_wish(wish)
    if most < 1:
        raise InstructionError(f"Explain Instruction: at most {most} edits were asked for. Allow at least 1.")

    def ask(words: str) -> Explanation:
        return explain(mllm, image, words, max_new_tokens, progress)

    if most == 1:
        found = ask(wish)
        remarks = (found.warning,) if found.fallback else ()
        return EditList((Edit(found.instruction),), found.reason, remarks), found.fallback
    if not mllm.reads_task:
        named = clauses(wish) or [one_line(wish)]
        return _joined([ask(clause) for clause in named[:MOST_EDITS]], most, len(named))
    problem = answer = ""
    for task in (_LIST_TASK, _STRICT_LIST_TASK):
        answer = mllm.answer(image, one_line(wish), max_new_tokens, task.format(most=most), progress)
        try:
            return read_edits(answer, most, from_model=True), False
        except InstructionError as error:
            problem = str(error)
    own = checked_edits([Edit(clause) for clause in clauses(wish)], most)
    remarks = (unusable(mllm.name, problem, answer), *own.remarks)
    return EditList(own.edits or (Edit(one_line(wish)),), "", remarks), True


def _joined(found: list[Explanation], most: int, named: int) -> tuple[EditList, bool]:
    """Joins the explanations of the first clauses of ``named``."""
    edits = checked_edits([Edit(each.instruction) for each in found], most)
    reason = "; ".join(dict.fromkeys(each.reason for each in found if each.reason))
    warnings = tuple(each.warning for each in found if each.fallback)
    kept = edits.edits or (Edit(found[0].instruction),)
    cut = (f"Only the first {len(found)} of {named} wishes are read.",) if named > len(found) else ()
    return EditList(kept, reason, (*warnings, *cut, *edits.remarks)), bool(warnings)
