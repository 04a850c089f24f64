"""Stage III: the edited objects, their mask, the filter of masks, and the soft mask (A.3 and D.5)."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InstructionError
from ...reasoning.edited_objects import MOST_EDITED, parse_objects
from ...reasoning.object_grammar import objects_of
from ...regions.boxes import box_mask
from ...regions.cleaning import CleanedMask, CleanSettings, clean_mask
from ...regions.finder import FoundObject, RegionFinder, union_mask
from ...regions.masks import soft_mask
from ..engine.stage import Row, RowFunction, Stage, seed_of
from ..errors import Refused
from ..images import as_png, read_cell
from ..language.models import LanguageModel, LanguageModelSpec, Question, ask_for
from ..language.parsing import body
from .prompts import objects_prompt
from .tags import Tagger

FREE_FORM, REGION = "free-form", "region"

# Limits of a mask: UltraEdit's code for the area; fewer fragments, because 500 is for photographs of 512 px.
MASK_LIMITS = CleanSettings(
    fill_holes=True, drop_fragments=0.05, min_area=0.01, max_area=0.9, max_fragments=20, shape="hull"
)
# By how much the contour is widened, and half the width of the gaps that are closed, as shares of the side.
_WIDENED = 1 / 32
_GAP = 1 / 32
# Least score of an object as a share of the best for its phrase.
_CLEAR = 0.9


@dataclass(frozen=True)
class ObjectStage:
    """Decides which objects an instruction edits: a language model, or without one the grammar."""

    model: LanguageModelSpec | None
    tagger: Callable[[], Tagger]
    free_form_too: bool
    tries: int

    def __call__(self) -> RowFunction:
        """Loads the models and returns the stage's function."""
        model = None if self.model is None else self.model()
        tagger = self.tagger()

        def function(row: Row) -> list[Mapping[str, object]]:
            if row["data_type"] == FREE_FORM:
                return [{"tags": [], "edited_objects": []}]
            image = read_cell(row["anchor"], row["id"])
            tags = tagger.tags(image, row["anchor"]["bytes"], row["source_caption"])
            objects = self._objects(model, row, tags)
            if not objects and self.free_form_too:
                # Its region would be the whole image: the row of its free-form pair again.
                raise Refused("the edit has no object, and its free-form row is kept", row["edit_prompt"])
            return [{"tags": tags, "edited_objects": objects}]

        return function

    def _objects(self, model: LanguageModel | None, row: Row, tags: list[str]) -> list[str]:
        if model is None:
            return objects_of(row["edit_prompt"])[:MOST_EDITED]
        text = objects_prompt(row["edit_prompt"], row["source_caption"], row["target_caption"], tags)
        return ask_for(model, Question(text, most_tokens=64), parse_edited, self.tries)


def parse_edited(answer: str) -> list[str]:
    """Reads the objects of an answer; an empty list for NONE and the whole image.

    Raises:
        ValueError: it holds no names of objects, or more than two.
    """
    try:
        objects = parse_objects(body(answer))
    except InstructionError as error:
        raise ValueError(str(error)) from error
    if len(objects) > MOST_EDITED:
        raise ValueError(f"it names {len(objects)} objects; at most {MOST_EDITED} are wanted")
    return objects


@dataclass(frozen=True)
class MaskStage:
    """Finds the edited objects, filters and widens their mask, and makes the soft mask of Eq. 2."""

    finder: Callable[[], RegionFinder]
    limits: CleanSettings
    soft: tuple[float, float]

    def __call__(self) -> RowFunction:
        """Loads the finder and returns the stage's function."""
        finder = self.finder()

        def function(row: Row) -> list[Mapping[str, object]]:
            if row["data_type"] == FREE_FORM:
                return [_columns(None, None, None)]
            image = read_cell(row["anchor"], row["id"])
            objects = tuple(row["edited_objects"])
            if not objects:
                return [_columns(torch.ones(image.shape[:2]), None, 1.0)]
            s = random.Random(seed_of(row, "masks")).uniform(*self.soft)
            mask, area = region_mask(finder, image, objects, self.limits, s)
            return [_columns(mask, s, area)]

        return function


def region_mask(
    finder: RegionFinder, image: Tensor, objects: tuple[str, ...], limits: CleanSettings, s: float
) -> tuple[Tensor, float]:
    """Returns the soft mask M_s [H, W] of some objects, and the area of their fine mask.

    The objects' masks are joined, gaps are closed, and what passes the limits is widened to contours: M_f.
    The boxes of the objects in it are M_b.

    Raises:
        Refused: nothing is found, or the mask is too large, too small or fragmented.
    """
    found = _clear([each for each in finder.find(image, objects) if each.mask.any()], finder)
    if not found:
        raise Refused("no edited object is found in the image", ", ".join(objects))
    height, width = image.shape[:2]
    cleaned = clean_mask(_without_gaps(union_mask(found, height, width)), limits)
    if not cleaned.accepted:
        raise Refused(_why(cleaned, limits), f"{', '.join(objects)}: {cleaned.reason}")
    # A fragment that was dropped gives no box.
    boxes = [each.box for each in found if (each.mask * cleaned.mask).any()]
    return soft_mask(cleaned.mask, box_mask(boxes, height, width), s), cleaned.area


def _clear(found: list[FoundObject], finder: RegionFinder) -> list[FoundObject]:
    """Leaves out what is less clear than the best for its phrase, if the finder knows few nouns only.

    Such a finder gives the names of some things to others, too. Of others all objects count, as in the paper.
    """
    if not finder.known_nouns:
        return found
    best = {each.phrase: each.score for each in reversed(found)}
    return [each for each in found if each.score >= _CLEAR * best[each.phrase]]


def _without_gaps(mask: Tensor) -> Tensor:
    """Closes the gaps within an object, which a finder may see in parts."""
    from skimage.morphology import closing, disk

    radius = max(round(min(mask.shape) * _GAP), 1)
    return torch.from_numpy(closing(mask.numpy() > 0.5, disk(radius))).float()  # pyright: ignore


def _why(cleaned: CleanedMask, limits: CleanSettings) -> str:
    if not 1 <= cleaned.fragments <= limits.max_fragments:
        return "the mask is fragmented"
    if cleaned.area > limits.max_area:
        return "the mask is too large"
    return "the mask is too small"


def _columns(mask: Tensor | None, s: float | None, area: float | None) -> dict[str, Any]:
    return {
        "mask": None if mask is None else as_png(mask),
        "mask_softness": s,
        "mask_area": area,
    }


def object_stage(
    model: LanguageModelSpec | None,
    tagger: Callable[[], Tagger],
    free_form_too: bool,
    tries: int,
    share: float,
) -> Stage:
    """Returns the stage ``objects``. Adds ``tags`` and ``edited_objects``.

    Args:
        model: the language model; None leaves it to the grammar.
        tagger: names the objects in an image.
        free_form_too: whether each region row also has a free-form row.
        tries: how often a question is asked.
        share: share of region rows, for the plan.
    """
    start = ObjectStage(model, tagger, free_form_too, tries)
    return Stage(
        "objects",
        ("anchor", "source_caption", "target_caption", "edit_prompt", "data_type"),
        {"tags": "texts", "edited_objects": "texts"},
        start,
        keeps=1 - 0.4 * share if free_form_too else 0.98,
        calls=share if model is not None else 0.0,
        call_tokens=(260, 8),
    )


def mask_stage(
    finder: Callable[[], RegionFinder], limits: CleanSettings, soft: tuple[float, float], share: float
) -> Stage:
    """Returns the stage ``masks``. Adds ``mask`` (null if free-form), ``mask_softness`` and ``mask_area``."""
    return Stage(
        "masks",
        ("anchor", "data_type", "edited_objects"),
        {"mask": "image", "mask_softness": "number", "mask_area": "number"},
        MaskStage(finder, limits, soft),
        keeps=1 - 0.3 * share,
    )


def limits_for(side: int, least: float, most: float, fragments: int) -> CleanSettings:
    """Returns the limits and steps of cleaning for images of a size.

    Args:
        side: pixels of the image.
        least, most: accepted area, as a share of the image.
        fragments: largest accepted number of fragments.
    """
    return replace(
        MASK_LIMITS,
        min_area=least,
        max_area=most,
        max_fragments=fragments,
        grow=max(round(side * _WIDENED), 1),
    )
