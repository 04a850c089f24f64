"""Finding regions by words: the interface of all finders, phrases, and reports."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import RegionError
from ..storage.json_text import read_choice
from .boxes import Box

# Objects that are kept in an image by default.
MOST_OBJECTS = 20

_MOST_CHARACTERS = 1_000_000
_SEPARATOR = re.compile(r"[.,;\n]")

# Options of transformers' processors for images that are tensors in 0..1, not 0..255.
PROCESSOR_OPTIONS: dict[str, Any] = {
    "do_rescale": False,
    "input_data_format": "channels_first",
    "return_tensors": "pt",
}


@dataclass(frozen=True)
class FoundObject:
    """An object in an image."""

    phrase: str
    """The words that found it."""
    score: float
    """0..1."""
    box: Box
    """In pixels, within the image."""
    mask: Tensor
    """fp32 [H, W] on the CPU, 1 on the object and 0 elsewhere. All zero if SAM finds nothing in the box."""


class RegionFinder(Protocol):
    """A frozen model that finds objects by words."""

    @property
    def name(self) -> str:
        """Name for reports, made of the names of its folders."""
        ...

    @property
    def module(self) -> Module:
        """All networks, for moving them between devices."""
        ...

    @property
    def device(self) -> torch.device:
        """The current device."""
        ...

    @property
    def thresholds(self) -> tuple[float, float]:
        """Default values of ``box_threshold`` and ``text_threshold``."""
        ...

    @property
    def known_nouns(self) -> Sequence[str]:
        """The only nouns that the finder knows; empty if it knows any. A phrase without one of them finds
        nothing, because such a model marks something else instead."""
        ...

    def find(
        self,
        image: Tensor,
        phrases: Sequence[str],
        box_threshold: float | None = None,
        text_threshold: float | None = None,
        most: int = MOST_OBJECTS,
    ) -> list[FoundObject]:
        """Finds the objects that phrases name.

        Args:
            image: [H, W, 3] in 0..1, of any size.
            phrases: one or more, such as ``["red ball", "hat"]``; see ``split_phrases``.
            box_threshold: 0..1; an object's score must exceed it. None uses the finder's default.
            text_threshold: 0..1; how well words must fit. Its exact meaning depends on the model.
            most: largest number of objects to keep.

        Returns:
            The objects with the highest scores first; an empty list if nothing was found.

        Raises:
            RegionError: the image or a threshold is invalid, or there are no words or too many.
        """
        ...


def split_phrases(words: str) -> list[str]:
    """Splits words at ``.``, ``,``, ``;`` and line ends into phrases, without duplicates.

    Raises:
        RegionError: there are no phrases.
    """
    parts = (" ".join(part.split()) for part in _SEPARATOR.split(words))
    phrases: dict[str, str] = {}
    for part in parts:
        if part:
            phrases.setdefault(part.lower(), part)
    if not phrases:
        raise RegionError(
            f"Find Region: there are no words in '{words.strip()[:40]}'. "
            "Name what to look for, such as: red ball, hat."
        )
    return list(phrases.values())


def one_phrase(words: str) -> str:
    """Returns words that ``split_phrases`` does not split: "large, brown dog" becomes "large brown dog"."""
    return " ".join(_SEPARATOR.sub(" ", words).split())


def knows(nouns: Sequence[str], phrase: str) -> bool:
    """Whether a phrase holds one of the nouns, also in the plural. Without nouns all phrases are known."""
    words = re.findall(r"[a-z]+", phrase.lower())
    return not nouns or any(word in nouns or word.removesuffix("s") in nouns for word in words)


def unknown_remark(finder: RegionFinder, phrases: Sequence[str]) -> str:
    """Says which phrases the finder cannot know, and what it knows; empty if it knows all."""
    unknown = [phrase for phrase in phrases if not knows(finder.known_nouns, phrase)]
    if not unknown:
        return ""
    return (
        f"The {finder.name} does not know {', '.join(unknown)}. It knows {', '.join(finder.known_nouns)}. "
        "For other things load Grounding DINO or CLIPSeg with Load Region Finder."
    )


@dataclass(frozen=True)
class ObjectChoice:
    """What a user decides about single objects, by their keys."""

    left_out: frozenset[str] = frozenset()
    included: frozenset[str] = frozenset()
    """Objects that are kept although their scores are too low."""

    @staticmethod
    def parse(text: str) -> "ObjectChoice":
        """Reads ``{"out": [...], "in": [...]}``; an empty text decides nothing.

        Raises:
            RegionError: the text is no such JSON.
        """
        try:
            chosen = read_choice(text, ("out", "in"), _MOST_CHARACTERS)
        except ValueError as error:
            raise RegionError(
                f"Find Region: the chosen boxes cannot be read ({error}). Choose boxes in the node, or empty "
                "the field."
            ) from error
        return ObjectChoice() if chosen is None else ObjectChoice(*map(frozenset, chosen))


def object_key(image: int, found: FoundObject) -> str:
    """The key of an object: the number of its image from 0, its words, and its box in whole pixels."""
    box = found.box
    corners = ",".join(str(round(each)) for each in (box.left, box.top, box.right, box.bottom))
    return f"{image}|{found.phrase}|{corners}"


def chosen_objects(
    objects: Sequence[FoundObject], threshold: float, most: int, choice: ObjectChoice, image: int = 0
) -> list[FoundObject]:
    """Returns the ``most`` best objects whose scores exceed the threshold, without those that are left out
    and with those that are included.

    Args:
        objects: objects in one image, best first.
        threshold: as ``box_threshold`` of ``RegionFinder.find``.
        most: largest number of objects by score.
        choice: a user's decisions.
        image: number of the image, from 0.
    """
    by_score = {id(found) for found in [each for each in objects if each.score > threshold][:most]}
    keys = [object_key(image, found) for found in objects]
    return [
        found
        for found, key in zip(objects, keys, strict=True)
        if key in choice.included or (id(found) in by_score and key not in choice.left_out)
    ]


def union_mask(objects: Sequence[FoundObject], height: int, width: int) -> Tensor:
    """Returns the mask [H, W] of all objects; all zero without objects."""
    masks = [torch.zeros(height, width), *(found.mask for found in objects)]
    return torch.stack(masks).amax(0)


def report_table(objects: Sequence[FoundObject], phrases: Sequence[str]) -> str:
    """Returns a table of the objects in an image, followed by the phrases that found nothing.

    Its columns are phrase, score, box in pixels, and area of the mask.
    """
    lines = []
    if objects:
        rows = [("phrase", "score", "box", "area"), *map(_report_row, objects)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
    names = {found.phrase for found in objects}
    missing = [phrase for phrase in phrases if phrase not in names]
    if missing:
        lines.append(
            f"Nothing was found for {', '.join(missing)}. Lower the least object score, or use other words."
        )
    return "\n".join(lines)


def _report_row(found: FoundObject) -> tuple[str, str, str, str]:
    box = found.box
    corners = f"{round(box.left)}, {round(box.top)} to {round(box.right)}, {round(box.bottom)}"
    return found.phrase, f"{found.score:.2f}", corners, f"{found.mask.mean().item():.1%}"


def channels_first(image: Tensor) -> Tensor:
    """Converts [H, W, 3] to [3, H, W] fp32 on the CPU, where transformers' processors work."""
    return image.detach().float().cpu().movedim(2, 0).contiguous()


def check_request(image: Tensor, phrases: Sequence[str], most: int) -> list[str]:
    """Checks the arguments of ``RegionFinder.find``, and returns the phrases cleaned.

    Raises:
        RegionError: see ``RegionFinder.find``.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not image.numel():
        raise RegionError(
            f"Find Region: an image of shape {list(image.shape)} does not fit; [height, width, 3] is needed."
        )
    if not image.isfinite().all():
        raise RegionError(
            "Find Region: the image holds values that are not finite. Check the node that made it."
        )
    if most < 1:
        raise RegionError(f"Find Region: at most {most} objects were asked for. Allow at least 1.")
    return split_phrases("\n".join(phrases))


def check_threshold(name: str, value: float | None, default: float, finder_name: str) -> float:
    """Returns a threshold, or the finder's default for None.

    Raises:
        RegionError: the threshold is not in 0..1.
    """
    value = default if value is None else value
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise RegionError(
            f"Find Region: {name} {value:g} is not between 0 and 1. {default:g} suits {finder_name}."
        )
    return value
