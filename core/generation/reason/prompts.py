"""What language models are asked. The structure is the paper's (Eq. 2, 3 and 6), the words are ours.

What belongs to a row stands at the end, each part on a line of its own after a label.
"""

from collections.abc import Sequence

CAPTION_LABEL = "Caption before the edit:"
EDITED_LABEL = "Caption after the edit:"
INSTRUCTION_LABEL = "Instruction:"
CANDIDATES_LABEL = "Candidates:"
IMAGE_LABEL = "Caption:"
OBJECTS_LABEL = "Objects:"

CAPTION_TASK = (
    "Describe this image in one short sentence that names every clearly visible object. Write nothing else."
)


def writing_prompt(before: str, after: str, instruction: str) -> str:
    """P_gen of Eq. 2: asks for one indirect instruction with the effect of a direct one."""
    return "\n".join(
        (
            "An image was edited. You get its captions before and after the edit, and the instruction that "
            "was followed. Write another instruction with which a person could get the same edited image.",
            "It must be indirect: the person does not say what to change, but gives a wish, a reason, a "
            "situation or a hint, from which somebody who sees the image can conclude the edit. Do not "
            "repeat the instruction, and give no command that names the change.",
            "It must also be accurate: it fits this edit, and no other edit fits it as well.",
            "For example, 'turn the sunglasses into a face mask' could become: a dusty wind is coming up and "
            "she has to breathe. And 'make it winter' could become: the children hope to build a snowman "
            "today.",
            "Answer with one sentence of at most 25 words and nothing else.",
            f"{CAPTION_LABEL} {before}",
            f"{EDITED_LABEL} {after}",
            f"{INSTRUCTION_LABEL} {instruction}",
            "Indirect instruction:",
        )
    )


def selecting_prompt(candidates: Sequence[str], before: str, after: str, instruction: str) -> str:
    """P_select of Eq. 3: asks which candidate is best. Eq. 3 has the candidates alone; without the edit
    nobody could say which of them is accurate."""
    return "\n".join(
        (
            "Below are candidates for an indirect instruction: it does not say what to change in an image, "
            "but lets people who see the image conclude it.",
            "Choose the best one. Most important is that it leads to the edit below and to no other edit. "
            "Then prefer what sounds natural, and what needs some thought.",
            f"{CAPTION_LABEL} {before}",
            f"{EDITED_LABEL} {after}",
            f"{INSTRUCTION_LABEL} {instruction}",
            CANDIDATES_LABEL,
            *(f"{number}. {candidate}" for number, candidate in enumerate(candidates, 1)),
            "Answer with the number of the best candidate and nothing else.",
        )
    )


def replacing_prompt(caption: str, objects: Sequence[str]) -> str:
    """P_replace of Eq. 6: asks which object is replaced with what, and for the indirect instruction."""
    return "\n".join(
        (
            "You get the caption of an image and objects in it. Choose one of the objects, and think of "
            "another object that could take its place in this image: of another kind, but of similar size, "
            "so that the image stays natural.",
            "Then write an indirect instruction for this replacement: a wish, a reason, a situation or a "
            "hint, from which somebody who sees the image can conclude it. It must not be a command such as "
            "'replace A with B', and must leave no doubt about what is replaced and what comes instead.",
            "For example, for a butterfly that becomes a bee: somebody here should make honey from the "
            "flowers.",
            "Answer only with JSON of this form: "
            '{"selected": "one of the objects, as it is written below", "target": "the new object, in one to '
            'four words", "reasoning": "the indirect instruction, at most 25 words"}',
            f"{IMAGE_LABEL} {caption}",
            f"{OBJECTS_LABEL} {', '.join(objects)}",
            "JSON:",
        )
    )
