"""Which objects an instruction edits: UltraEdit asks this before it makes a region (stage III)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import InstructionError
from ..progress import Progress
from .answers import json_values, one_line, single_spaced, without_thoughts
from .edit_words import is_whole, without_determiner
from .explain import MOST_TOKENS, explain
from .explain_edits import ListingModel
from .object_grammar import objects_of

# Largest number of edited objects, as in UltraEdit's prompt. More would be a change of the whole image.
MOST_EDITED = 2

# UltraEdit's prompt "for capturing editing object". The paper gives captions and a list of detected objects
# where this gives the image.
_OBJECT_TASK = (
    "Below is an instruction for editing this picture. Your task is to identify the objects most "
    "likely to be modified. Consider this from a comprehensive perspective; note that some objects "
    "might not be explicitly mentioned in the instruction, but their appearance could still be "
    "affected. Please use precise words or phrases in your response. Note: 1. If you can't identify "
    "any specific edited object (e.g., a style transfer involving the entire image instead of a "
    "single object; add/move an object, which does not fit object-oriented editing instructions), "
    'please respond with "NONE". 2. Your response should exclusively identify the objects requiring '
    "edits, excluding any extra context or details. 3. Please list the objects to be edited, "
    "separating each one with a comma. The number of objects identified in the answer should not "
    "exceed 2. Edit Instruction:"
)

# Length limits of a phrase for an object.
_MOST_WORDS = 6
_MOST_PHRASE = 50

_NONE = re.compile(r"^\W*(?:none|n/?a|no (?:specific )?objects?|nothing)\b", re.IGNORECASE)
_LEAD = re.compile(
    r"^.*?\b(?:responses?|answers?|objects?(?: to be edited)?|edited objects?)\s*(?:is|are)?\s*:\s*"
    r"|^(?:the )?(?:edited )?objects? (?:to be edited )?(?:is|are)\s+",
    re.IGNORECASE,
)
_MARK = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+")
_FRAME = " \t\"'“”‘’`*_.;:[](){}"


@dataclass(frozen=True)
class EditedObjects:
    """The objects that an instruction edits in an image."""

    objects: tuple[str, ...]
    """At most ``MOST_EDITED`` phrases without determiners; empty for the whole image."""
    decision: str
    """A sentence for the user: what was decided, and by what."""
    remarks: tuple[str, ...] = ()
    """What went wrong on the way, as sentences for the user."""


def edited_objects(
    instruction: str,
    image: Tensor,
    mllm: ListingModel | None = None,
    max_new_tokens: int = MOST_TOKENS,
    progress: Progress | None = None,
) -> EditedObjects:
    """Decides which objects an instruction edits.

    A vision-language model gets UltraEdit's prompt. If its answer cannot be used, or without a model, the
    grammar decides (see ``objects_of``). A model that was trained for one task, such as the pocket reader,
    first says the edit that the words mean, and the grammar reads that.

    Args:
        instruction: an explicit edit; with a model that reads no tasks also a wish.
        image: [H, W, 3] in 0..1. Used by the model only.
        mllm: the model; None uses the grammar alone.
        max_new_tokens: length limit of an answer.
        progress: called after every token.

    Raises:
        InstructionError: the instruction is empty.
        ModelError: the image does not fit, or the instruction is too long for the model.
    """
    instruction = one_line(instruction)
    if not instruction:
        raise InstructionError(
            "Find Edited Object: the instruction is empty. Write one, such as: make the hat red."
        )
    if mllm is None:
        return _by_grammar(instruction, "the grammar")
    if not mllm.reads_task:
        meant = explain(mllm, image, instruction, max_new_tokens, progress)
        remarks = (meant.warning,) if meant.fallback else ()
        return _by_grammar(meant.instruction, f"the grammar from '{meant.instruction}'", remarks)
    answer = mllm.answer(image, instruction, max_new_tokens, _OBJECT_TASK, progress)
    try:
        objects = parse_objects(answer)
    except InstructionError as error:
        remark = f"{mllm.name} gave no usable answer ({str(error).rstrip('.')}), so the grammar decides."
        return _by_grammar(instruction, "the grammar", (remark,))
    return _decided(objects, f"{mllm.name}")


def named_objects(words: str) -> EditedObjects:
    """Returns the objects that the user names, separated by commas. All of them count."""
    phrases = [without_determiner(one_line(part)) for part in re.split(r"[,;.\n]", words)]
    objects = tuple(dict.fromkeys(phrase for phrase in phrases if phrase.strip()))
    return EditedObjects(objects, f"Edited: {', '.join(objects)} (named by you).")


def parse_objects(answer: str) -> list[str]:
    """Reads the objects in an answer to UltraEdit's prompt: phrases separated by commas, or NONE.

    Returns:
        Different phrases without determiners; an empty list for NONE and for the whole image.

    Raises:
        InstructionError: the answer holds no phrases. The message says what is wrong.
    """
    text, ends_in_thought = without_thoughts(answer)
    text = text.strip()
    phrases = _in_json(text)
    if phrases is None and not text.strip(_FRAME):
        raise InstructionError(
            "it reached the token limit before it answered: allow more tokens"
            if ends_in_thought
            else "it is empty"
        )
    if phrases is None:
        text = _LEAD.sub("", "\n".join(single_spaced(text)), count=1)
        lines = [_MARK.sub("", line) for line in text.splitlines()]
        phrases = [part for line in lines for part in re.split(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+", line)]
    found = dict.fromkeys(without_determiner(one_line(phrase).strip(_FRAME)) for phrase in phrases)
    objects = [phrase for phrase in found if phrase]
    if not objects or any(_NONE.match(phrase) or is_whole(phrase) for phrase in objects):
        return []
    for phrase in objects:
        if len(phrase) > _MOST_PHRASE or len(phrase.split()) > _MOST_WORDS:
            raise InstructionError(f"'{phrase[:60]}' is no name of an object")
    return objects


def _in_json(text: str) -> list[str] | None:
    """Returns the phrases of the last JSON in an answer; None without JSON."""
    for value, _, _ in reversed(json_values(text)):
        if isinstance(value, dict):
            value = next((each for each in value.values() if isinstance(each, list | str)), None)
        if isinstance(value, str):
            return value.split(",")
        if isinstance(value, list):
            return [each for each in value if isinstance(each, str)]
    return None


def _by_grammar(instruction: str, by: str, remarks: tuple[str, ...] = ()) -> EditedObjects:
    return _decided(objects_of(instruction), by, remarks)


def _decided(objects: Sequence[str], by: str, remarks: tuple[str, ...] = ()) -> EditedObjects:
    if len(objects) > MOST_EDITED:
        left_out = ", ".join(objects[MOST_EDITED:])
        remarks = (*remarks, f"Only the first {MOST_EDITED} objects are used, without {left_out}.")
    kept = tuple(objects[:MOST_EDITED])
    what = f"Edited: {', '.join(kept)}" if kept else "The whole image: no object is named"
    return EditedObjects(kept, f"{what} (decided by {by}).", remarks)
