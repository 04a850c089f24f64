"""What a study of preference consists of, and how its file is read and checked: a line that says what is compared, then a line for every event."""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import EvaluationError
from ...storage.image_tensors import to_image
from ...storage.json_text import parse_json

FORMAT = 1
FILE = "study.jsonl"
CHOICES = ("left", "tie", "right")
"""The image on the left is better, none is, the one on the right is."""

_MOST_CHARACTERS = 200
"""Of a method's name or of the id of a judgement."""


@dataclass(frozen=True)
class StudyItem:
    """What is compared at once: one result of each method."""

    id: str
    results: Mapping[str, Tensor]
    """Method -> [H, W, 3] in 0..1, all of one size."""
    instruction: str = ""
    """What the edit was to do; shown above the images."""
    source: Tensor | None = None
    """[H, W, 3] in 0..1: the image before the edit."""


@dataclass(frozen=True)
class Judgement:
    """An answer that stands."""

    id: str
    number: int
    """Of the comparison, from 0."""
    choice: str
    """One of ``CHOICES``."""


@dataclass
class Progress:
    """What the lines after the first say."""

    standing: dict[str, Judgement] = field(default_factory=dict)
    """Judgements that were not undone, by id, in the order they were made."""
    known: set[str] = field(default_factory=set)
    """Ids of all events."""

    def fault(self, event: Mapping[str, Any], total: int) -> str | None:
        """Why an event cannot be taken in; None when it can."""
        name, number, undo = event.get("id"), event.get("number"), event.get("undo")
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_CHARACTERS:
            return "its id is no short text"
        if undo is not None:
            return (
                None
                if isinstance(undo, str) and undo in self.standing
                else f"it undoes {undo!r}, which does not stand"
            )
        if type(number) is not int or not 0 <= number < total:
            return f"comparison {number!r} is not one of {total}"
        if event.get("choice") not in CHOICES:
            return f"choice {event.get('choice')!r} is none of {', '.join(CHOICES)}"
        return (
            f"comparison {number} is judged already"
            if number in {each.number for each in self.standing.values()}
            else None
        )

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in an event without a fault."""
        self.known.add(event["id"])
        if event.get("undo") is not None:
            del self.standing[event["undo"]]
        else:
            self.standing[event["id"]] = Judgement(event["id"], event["number"], event["choice"])


def describe(items: Sequence[StudyItem]) -> tuple[list[str], list[dict[str, Any]]]:
    """The methods, and every item with digests in place of its images.

    Raises:
        EvaluationError: fewer than two methods, names or ids that are none, or items that do not fit each other.
    """
    if not items:
        raise EvaluationError("A study needs at least one item.")
    methods = list(items[0].results)
    if len(methods) < 2:
        raise EvaluationError("A study compares two methods or more.")
    for method in methods:
        if not method.strip() or "\n" in method or len(method) > _MOST_CHARACTERS:
            raise EvaluationError(f"Study: {method!r} is no name for a method. Use a short text of one line.")
    if len({item.id for item in items}) < len(items):
        raise EvaluationError("Study: two items have the same id.")
    entries = []
    for item in items:
        if list(item.results) != methods:
            raise EvaluationError(
                f"Study: item '{item.id}' has results of {listed(item.results)}, the first one of {listed(methods)}."
            )
        sizes = {method: f"{image.shape[1]} x {image.shape[0]}" for method, image in item.results.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{size} of '{method}'" for method, size in sizes.items())
            raise EvaluationError(
                f"Study: the results of item '{item.id}' differ in size ({told}), which would tell them apart. Scale them to one size."
            )
        source = None if item.source is None else _digest(item.source, item.id, "source")
        digests = {method: _digest(image, item.id, method) for method, image in item.results.items()}
        entries.append({"id": item.id, "instruction": item.instruction, "source": source, "results": digests})
    return methods, entries


def _digest(frame: Tensor, item: str, what: str) -> str:
    """Of the image as it is saved, in 8 bits."""
    if not torch.isfinite(frame).all():
        raise EvaluationError(f"Study: the image '{what}' of item '{item}' holds values that are not finite.")
    image = to_image(frame)
    return hashlib.sha256(
        f"{image.mode} {image.width} x {image.height} ".encode() + image.tobytes()
    ).hexdigest()


def shuffled(count: int, methods: Sequence[str], seed: int) -> list[list[Any]]:
    """[item, left, right] of every comparison, in the order they are asked."""
    draw = random.Random(seed)
    found = []
    for one, other in combinations(methods, 2):
        sides = [index % 2 == 0 for index in range(count)]
        draw.shuffle(sides)
        if count % 2 and draw.random() < 0.5:
            sides = [not side for side in sides]
        found += [[item, one, other] if side else [item, other, one] for item, side in enumerate(sides)]
    draw.shuffle(found)
    return found


def read_header(file: Path, line: bytes) -> dict[str, Any]:
    """The first line of a study's file, checked.

    Raises:
        EvaluationError: it is damaged, or of another format.
    """
    header = parse(file, 1, line)
    if header.get("format") != FORMAT:
        raise damaged(file, 1, f"its format is {header.get('format')!r}, this version reads {FORMAT}")
    fault = _fault_of(header)
    if fault:
        raise damaged(file, 1, f"it does not say what is compared ({fault})")
    return header


def _fault_of(header: Mapping[str, Any]) -> str | None:
    """Why a header cannot be used; None when it can."""
    methods, items, comparisons = (header.get(key) for key in ("methods", "items", "comparisons"))
    if (
        not isinstance(methods, list)
        or len(methods) < 2
        or not _are_texts(methods)
        or len(set(methods)) < len(methods)
    ):
        return "its methods are no list of names"
    if not _are_texts([header.get("key")]) or type(header.get("seed")) is not int:
        return "its key or seed is missing"
    if not isinstance(items, list) or not all(_is_item(item, methods) for item in items):
        return "its items are no list of images"
    if not isinstance(comparisons, list) or not comparisons:
        return "it has no comparisons"
    for comparison in comparisons:
        if not isinstance(comparison, list) or len(comparison) != 3 or not _are_texts(comparison[1:]):
            return "a comparison is not of two methods"
        item, left, right = comparison
        if (
            type(item) is not int
            or not 0 <= item < len(items)
            or left == right
            or not {left, right} <= set(methods)
        ):
            return "a comparison is of what is not there"
    return None


def _is_item(item: Any, methods: Sequence[str]) -> bool:
    whole = (
        isinstance(item, dict)
        and "source" in item
        and _are_texts([item.get("id"), item.get("instruction"), item.get("source") or ""])
    )
    results = item.get("results") if whole else None
    return isinstance(results, dict) and set(results) == set(methods) and _are_texts(results.values())


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def parse(file: Path, index: int, line: bytes) -> dict[str, Any]:
    """A line of a study's file; ``index`` counts from 1.

    Raises:
        EvaluationError: it is no JSON object.
    """
    try:
        content = parse_json(line)
    except ValueError as error:
        raise damaged(file, index, f"it cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise damaged(file, index, "it holds no entry")
    return content


def damaged(file: Path, index: int, why: str) -> EvaluationError:
    """The error that says which line of a study's file is wrong, and how to go on."""
    mend = (
        "Give the study another name to begin anew"
        if index == 1
        else "Delete that line to go on without it, or give the study another name"
    )
    return EvaluationError(
        f"Study '{file.parent.name}' is damaged: line {index} of '{file}': {why}. The file was left as it is. {mend}."
    )


def listed(names: Iterable[str]) -> str:
    """Names in a message: 'one', 'other'."""
    return ", ".join(f"'{name}'" for name in names)
