"""What language models are asked. The structure is that of the supplement's Tables 2 to 4, the words ours.

A caption, an instruction or a list stands on a line of its own after a label, so that the end of a question
does not depend on what is in it.
"""

from collections.abc import Sequence

from .examples import Example

INSTANCES = 3
"""Edits that are wanted for each caption at most (Table 3)."""

CAPTION_LABEL = "The caption of the image:"
INSTRUCTION_LABEL = "Edit instruction:"
BEFORE_LABEL = "Caption before the edit:"
AFTER_LABEL = "Caption after the edit:"
OBJECTS_LABEL = "Objects that a detector found:"
MORE_LABEL = "Examples to begin with:"

_FORM = '"original caption; edit instruction; new caption"'


def writing_prompt(
    caption: str, instructions: Sequence[str], examples: Sequence[Example], edits: int = INSTANCES
) -> str:
    """Asks for instructions and new captions: intro, instruction examples, task, output format, caption,
    number of instances, whole examples (Table 3).

    Args:
        caption: without semicolons, because they separate the fields of an answer.
        instructions: examples of instructions.
        examples: examples of answers.
        edits: number of edits to ask for.
    """
    return "\n".join(
        (
            "Here are instructions with which people ask for edits of images. Learn from them which kinds "
            "and styles of edits there are:",
            *_listed(instructions),
            "",
            "Now comes the caption of one image. Write instructions for edits that suit this image. Each "
            "must be precise, detailed and possible for what the caption shows, and must differ from the "
            "instructions above. Then write the caption of the edited image: change only what the edit "
            "changes, and keep all other words.",
            f"Write one edit on each line, in the form {_FORM}. Use no other semicolons. Write the lines "
            "alone, without titles, numbers or remarks.",
            f"{CAPTION_LABEL} {caption}",
            f"Number of different edits to write: {edits}.",
            "These are examples of the form, for other images:",
            *map(str, examples),
            "Your answer:",
        )
    )


def expanding_prompt(examples: Sequence[Example], number: int) -> str:
    """Asks for more examples like some that are given (supplement A.2: hand-written edits are expanded)."""
    return "\n".join(
        (
            "Here are examples of image edits: the caption of an image, an instruction for an edit, and the "
            f"caption of the edited image, in the form {_FORM}.",
            MORE_LABEL,
            *map(str, examples),
            "",
            f"Write {number} new examples in the same form, one on each line. Make up captions of everyday "
            "photographs with other subjects. Vary the kind of edit: add, replace, turn, transform, remove, "
            "change of color, of an object, of the background, of the whole image. Repeat no instruction. "
            "Write the lines alone, without titles, numbers or remarks.",
            "Your answer:",
        )
    )


def objects_prompt(instruction: str, before: str, after: str, tags: Sequence[str]) -> str:
    """Asks which objects an instruction edits: intro, instruction, both captions, object list, task, notes
    (Table 4)."""
    return "\n".join(
        (
            "Below are an instruction for editing an image, the image's caption before and after the edit, "
            "and the objects that a detector found in the image.",
            f"{INSTRUCTION_LABEL} {instruction}",
            f"{BEFORE_LABEL} {before}",
            f"{AFTER_LABEL} {after}",
            f"{OBJECTS_LABEL} {', '.join(tags) or 'none'}",
            "Say which objects of the image most probably change. Consider all of the above: an object may "
            "change although neither the instruction nor the list names it. Use exact words.",
            "Note: 1. If no single object changes, answer NONE: edits of the style or of the whole image, "
            "and objects that are added or moved. 2. Answer with the objects alone, without explanations. "
            "3. Separate objects with commas. Name at most 2.",
            "Your answer:",
        )
    )


def tagging_prompt() -> str:
    """Asks a vision-language model for the objects in an image."""
    return (
        "List the objects and materials that are clearly visible in this image, the largest first. Write "
        "names of one to three words, separated by commas, and nothing else. At most 15."
    )


def _listed(lines: Sequence[str]) -> list[str]:
    return [f"- {line}" for line in lines]
