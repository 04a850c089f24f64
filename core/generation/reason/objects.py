"""Parts II and III: where the objects are, and which of them is replaced with what (Eq. 5 and 6)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import BuildError
from ...reasoning.edit_words import is_whole, without_determiner
from ...regions.boxes import Box
from ...regions.finder import FoundObject, RegionFinder, one_phrase
from ..engine.stage import ID, Row, RowFunction, Stage, seed_of
from ..errors import Refused
from ..images import read_cell
from ..language.models import LanguageModel, Question, ask_for
from ..language.parsing import json_object, text_field
from ..sources.rows import CAPTION, EDITED_CAPTION, IMAGE, INSTRUCTION
from .filtering import PAIRS
from .indirect import check_indirect, same_thing
from .instructions import Asking
from .prompts import replacing_prompt

NOT_FOUND = "no object was found in the image"

TEMPLATES = (
    "turn the {selected} into {target}",
    "turn the {selected} to {target}",
    "replace the {selected} with {target}",
    "change the {selected} to {target}",
)
"""Direct instructions, such as the paper's "Turn A to B"."""

# Scores that differ by less than this share are nearly equal.
_EQUAL_SCORES = 0.1
# Boxes with a larger intersection over union hold the same object.
_SAME_OBJECT_IOU = 0.7
_MOST_TARGET_WORDS = 5
_MOST_TOKENS = 256
_TOKENS = (330, 60)
_NO_TARGET = frozenset("none nothing null unknown something anything object thing".split())
_VOWEL_SOUND = re.compile(
    r"hour|honest|hono|heir|(?!eu|uni(?!n|m)|uk|us[aeiu]|ut[ei]|ur[aei]|ufo|one\b|once\b)[aeiou]",
    re.IGNORECASE,
)
_PLURAL = re.compile(r"(?:[^su\W]s|(?:wo)?men|people|children|mice|geese|teeth|feet)$")


@dataclass(frozen=True)
class BoxLimits:
    """Which boxes of Eq. 5 count."""

    box_threshold: float | None = None
    """See ``RegionFinder.find``; None is the finder's own."""
    text_threshold: float | None = None
    least_area: float = 0.01
    """Share of the image's area."""
    most_area: float = 0.9
    margin: float = 0.0
    """How far boxes are widened on each side, as a share of their width and height."""


@dataclass(frozen=True)
class _Boxes:
    finder: Callable[[], RegionFinder]
    limits: BoxLimits

    def __call__(self) -> RowFunction:
        finder = self.finder()
        return lambda row: self._row(finder, row)

    def _row(self, finder: RegionFinder, row: Row) -> Sequence[Row]:
        if row["part"] == PAIRS:
            return [{"found": None, "boxes": None, "scores": None}]
        image = read_cell(row[IMAGE], f"{row[ID]} {IMAGE}")
        wanted = row["nouns"]
        objects = finder.find(image, wanted, self.limits.box_threshold, self.limits.text_threshold)
        height, width = image.shape[:2]
        boxes: dict[str, list[FoundObject]] = {}
        for each in objects:
            box = _widened(each.box, self.limits.margin, height, width)
            if self.limits.least_area <= box.area / (height * width) <= self.limits.most_area:
                boxes.setdefault(each.phrase, []).append(replace(each, box=box))
        if not boxes:
            raise Refused(NOT_FOUND, f"looked for {', '.join(wanted)} with {finder.name}")
        kept = _distinct([_best(boxes[phrase]) for phrase in wanted if phrase in boxes])
        corners = [side for each in kept for side in _corners(each.box)]
        scores = [each.score for each in kept]
        return [{"found": [each.phrase for each in kept], "boxes": corners, "scores": scores}]


def boxes_stage(finder: Callable[[], RegionFinder], limits: BoxLimits | None = None) -> Stage:
    """Finds the best box of each category (Eq. 5). Of categories with the same box the best one stays.

    Adds ``found``, ``scores``, and ``boxes`` with left, top, right and bottom of each box in pixels.

    Args:
        finder: loads the finder.
        limits: which boxes count.

    Raises:
        BuildError: the limits are out of range.
    """
    limits = limits or BoxLimits()
    if not 0 <= limits.least_area < limits.most_area <= 1:
        raise BuildError(
            f"ReasonPix2Pix: boxes of {limits.least_area:g} to {limits.most_area:g} of the image are out of "
            "range; both are shares from 0 to 1."
        )
    if not 0 <= limits.margin <= 1:
        raise BuildError(f"ReasonPix2Pix: a margin of {limits.margin:g} is out of range; it is 0 to 1.")
    adds = {"found": "texts", "boxes": "numbers", "scores": "numbers"}
    return Stage("boxes", ("part", IMAGE, "nouns"), adds, _Boxes(finder, limits))


@dataclass(frozen=True)
class Replacement:
    """The answer to Eq. 6."""

    selected: str
    """One of the objects, as it was offered."""
    target: str
    """Without determiner."""
    reasoning: str


_DECIDED = ("reasoning", INSTRUCTION, EDITED_CAPTION)
_ADDS: Mapping[str, str] = {
    **dict.fromkeys(_DECIDED, "text"),
    "selected_object": "text",
    "target_object": "text",
    "box": "numbers",
}


@dataclass(frozen=True)
class _Decision:
    asking: Asking

    def __call__(self) -> RowFunction:
        model = self.asking.model()
        return lambda row: self._row(model, row)

    def _row(self, model: LanguageModel, row: Row) -> Sequence[Row]:
        if row["part"] == PAIRS:
            kept: dict[str, Any] = {name: row[name] for name in _DECIDED}
            return [{**kept, "selected_object": None, "target_object": None, "box": None}]
        caption, found = row[CAPTION], row["found"]
        question = Question(replacing_prompt(caption, found), most_tokens=_MOST_TOKENS)
        chosen = ask_for(model, question, lambda text: read_replacement(text, found), self.asking.tries)
        place = found.index(chosen.selected)
        template = TEMPLATES[seed_of(row, "decision") % len(TEMPLATES)]
        return [
            {
                "reasoning": chosen.reasoning,
                INSTRUCTION: direct_instruction(template, chosen.selected, chosen.target),
                EDITED_CAPTION: edited_caption(caption, chosen.selected, chosen.target),
                "selected_object": chosen.selected,
                "target_object": chosen.target,
                "box": row["boxes"][4 * place : 4 * place + 4],
            }
        ]


def decision_stage(asking: Asking, share: float = 1.0) -> Stage:
    """Asks which object becomes what, and for the indirect instruction (Eq. 6).

    Adds ``reasoning``, ``selected_object``, ``target_object``, its ``box``, ``instruction`` (a direct
    instruction by a template) and ``edited_caption``.

    Args:
        asking: the language model. It is offered the objects that were found; the paper offers all.
        share: expected share of rows of Parts II and III, for the plan.
    """
    reads = ("part", CAPTION, "found", "boxes", *_DECIDED)
    return Stage("decision", reads, _ADDS, _Decision(asking), calls=share, call_tokens=_TOKENS)


def read_replacement(answer: str, objects: Sequence[str]) -> Replacement:
    """Reads the answer to Eq. 6.

    Raises:
        ValueError: it has no such JSON, or a value does not fit: ``selected`` is no object that was offered,
            ``target`` is no other thing, or ``reasoning`` is not indirect.
    """
    table = json_object(answer, ("selected", "target", "reasoning"))
    named = text_field(table, "selected")
    selected = next((each for each in objects if same_thing(each, named)), None)
    if selected is None:
        raise ValueError(f"\"selected\" is '{named[:60]}', which is none of the objects")
    target = without_determiner(one_phrase(text_field(table, "target"))).lower()
    words = target.split()
    if not words or len(words) > _MOST_TARGET_WORDS or is_whole(target) or _NO_TARGET & set(words):
        raise ValueError(f"\"target\" is '{target[:60]}', which is no name of an object")
    if same_thing(selected, target):
        raise ValueError('"target" is the selected object itself')
    # The tightest direct wording: whatever repeats it is direct.
    direct = direct_instruction(TEMPLATES[0], selected, target)
    try:
        reasoning = check_indirect(text_field(table, "reasoning"), direct, selected)
    except ValueError as error:
        raise ValueError(f'"reasoning" cannot be used: {error}') from error
    return Replacement(selected, target, reasoning)


def direct_instruction(template: str, selected: str, target: str) -> str:
    """Fills a template of ``TEMPLATES``."""
    return template.format(selected=selected, target=with_article(target))


def with_article(phrase: str) -> str:
    """Puts "a" or "an" before a phrase that has no determiner and is no plural."""
    if without_determiner(phrase) != phrase or _PLURAL.search(phrase.lower()):
        return phrase
    return f"{'an' if _VOWEL_SOUND.match(phrase) else 'a'} {phrase}"


def edited_caption(caption: str, selected: str, target: str) -> str:
    """Returns the caption of the edited image: the target takes the first place of the selected object.

    If the caption does not hold the words, the target is described alone.
    """
    # Phrases have lost the punctuation between their words.
    words = r"[\s.,;]+".join(map(re.escape, selected.split()))
    place = re.search(rf"(?:\b(an?)\s+)?(?<!\w){words}(?!\w)", caption, re.IGNORECASE)
    if place is None:
        return with_article(target)
    new = with_article(target) if place[1] else target
    return f"{caption[: place.start()]}{new}{caption[place.end() :]}"


def _best(found: Sequence[FoundObject]) -> FoundObject:
    """Returns the object with the highest score; of nearly equal ones the largest, as parts are found too."""
    least = (1 - _EQUAL_SCORES) * max(each.score for each in found)
    return max((each for each in found if each.score >= least), key=lambda each: each.box.area)


def _distinct(found: Sequence[FoundObject]) -> list[FoundObject]:
    """Leaves out objects whose boxes nearly coincide with that of one with a higher score: it is the same."""
    kept: list[FoundObject] = []
    for each in sorted(found, key=lambda each: -each.score):
        if all(_overlap(each.box, other.box) <= _SAME_OBJECT_IOU for other in kept):
            kept.append(each)
    return [each for each in found if any(each is other for other in kept)]


def _overlap(first: Box, second: Box) -> float:
    """Returns the intersection over union."""
    across = min(first.right, second.right) - max(first.left, second.left)
    down = min(first.bottom, second.bottom) - max(first.top, second.top)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (first.area + second.area - shared)


def _widened(box: Box, margin: float, height: int, width: int) -> Box:
    across, down = margin * (box.right - box.left), margin * (box.bottom - box.top)
    return Box(
        max(box.left - across, 0.0),
        max(box.top - down, 0.0),
        min(box.right + across, float(width)),
        min(box.bottom + down, float(height)),
    )


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom
