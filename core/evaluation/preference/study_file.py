"""The file of a preference study: a line that describes the study, then a line for every event."""

import hashlib
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import EvaluationError
from ...storage.image_tensors import to_image
from ...storage.json_text import parse_json
from .voting import PAIR_CHOICES, PLAIN_PAIRS, Voting, read_voting

FILE = "study.jsonl"
# Plain pairs have the first format, which every version reads; votes of other kinds have the second.
_FORMATS = (1, 2)

# Maximum length of a method's name and of an event's id.
_MAX_CHARACTERS = 200

# The panel names a file after the key, so nothing else may pass.
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StudyItem:
    """The results of all methods for one image."""

    id: str
    results: Mapping[str, Tensor]
    """Method -> [H, W, 3] in 0..1, all of one size."""
    instruction: str = ""
    """Shown above the images."""
    source: Tensor | None = None
    """The image before the edit, [H, W, 3] in 0..1."""


@dataclass(frozen=True)
class Judgement:
    """A judgement that was not undone."""

    id: str
    number: int
    """Number of the comparison, from 0."""
    choice: str
    """See ``Voting.choices``."""


@dataclass
class EventLog:
    """The events of a study: judgements and undos."""

    choices: tuple[str, ...] = PAIR_CHOICES
    """What a judge may answer."""
    standing: dict[str, Judgement] = field(default_factory=dict)
    """Judgements that were not undone, by id, in the order they were made."""
    ids: set[str] = field(default_factory=set)
    """Ids of all events."""
    _judged: set[int] = field(default_factory=set, init=False)
    """Numbers of the standing judgements."""

    def fault(self, event: Mapping[str, Any], total: int) -> str | None:
        """Returns why an event is not valid; None if it is.

        Args:
            event: the event.
            total: number of comparisons in the study.
        """
        name = event.get("id")
        number = event.get("number")
        undone = event.get("undo")
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_CHARACTERS:
            return "its id is not a short text"
        if undone is not None:
            if isinstance(undone, str) and undone in self.standing:
                return None
            return f"it undoes {undone!r}, which is not a judgement that counts"
        if type(number) is not int or not 0 <= number < total:
            return f"comparison {number!r} is not one of {total}"
        if event.get("choice") not in self.choices:
            return f"choice {event.get('choice')!r} is not one of {', '.join(self.choices)}"
        if number in self._judged:
            return f"comparison {number} is judged already"
        return None

    def add(self, event: Mapping[str, Any]) -> None:
        """Adds a valid event."""
        self.ids.add(event["id"])
        if event.get("undo") is not None:
            self._judged.remove(self.standing.pop(event["undo"]).number)
        else:
            self.standing[event["id"]] = Judgement(event["id"], event["number"], event["choice"])
            self._judged.add(event["number"])


def describe_items(items: Sequence[StudyItem]) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the names of the methods, and the items with hashes in place of images.

    Raises:
        EvaluationError: there are fewer than two methods, a name or id is not valid, or the items do not
            match each other.
    """
    if not items:
        raise EvaluationError(
            "A study needs at least one item. Finish a benchmark first, or choose fewer filters."
        )
    methods = list(items[0].results)
    if len(methods) < 2:
        raise EvaluationError("A study compares two methods or more.")
    for method in methods:
        if not method.strip() or "\n" in method or len(method) > _MAX_CHARACTERS:
            raise EvaluationError(
                f"Study: {method!r} is not a valid name for a method. Use a short text of one line."
            )
    (often, times), *_ = Counter(item.id for item in items).most_common(1)
    if times > 1:
        raise EvaluationError(f"Study: two items have the same id '{often[:80]}'. Give each its own.")
    entries = []
    for item in items:
        if list(item.results) != methods:
            raise EvaluationError(
                f"Study: item '{item.id}' has results of {quoted_names(item.results)}, "
                f"the first one of {quoted_names(methods)}."
            )
        sizes = {method: f"{image.shape[1]} x {image.shape[0]}" for method, image in item.results.items()}
        if len(set(sizes.values())) > 1:
            size_list = ", ".join(f"{size} of '{method}'" for method, size in sizes.items())
            raise EvaluationError(
                f"Study: the results of item '{item.id}' differ in size ({size_list}), which would reveal "
                "the method. Scale them to one size."
            )
        source = None if item.source is None else _image_hash(item.source, item.id, "source")
        results = {method: _image_hash(image, item.id, method) for method, image in item.results.items()}
        entries.append({"id": item.id, "instruction": item.instruction, "source": source, "results": results})
    return methods, entries


def _image_hash(image: Tensor, item: str, name: str) -> str:
    """Hashes the image as it is saved, with 8 bits per channel."""
    if not torch.isfinite(image).all():
        raise EvaluationError(f"Study: the image '{name}' of item '{item}' holds values that are not finite.")
    saved = to_image(image)
    head = f"{saved.mode} {saved.width} x {saved.height} ".encode()
    return hashlib.sha256(head + saved.tobytes()).hexdigest()


def new_header(
    methods: Sequence[str],
    items: Sequence[Mapping[str, Any]],
    seed: int,
    comparisons: Sequence[Sequence[Any]],
    voting: Voting,
) -> dict[str, Any]:
    """Returns the first line of a new study's file."""
    return {
        "format": _FORMATS[voting != PLAIN_PAIRS],
        # Keeps apart the judgements of two studies with the same name.
        "key": uuid.uuid4().hex,
        "seed": seed,
        "methods": list(methods),
        "items": list(items),
        "comparisons": list(comparisons),
        **voting.describe(),
    }


def read_header(file: Path, line: bytes) -> dict[str, Any]:
    """Parses and checks the first line of a study's file.

    Raises:
        EvaluationError: the line is damaged, or its format is another.
    """
    header = parse_line(file, 1, line)
    if header.get("format") not in _FORMATS:
        readable = " and ".join(map(str, _FORMATS))
        raise damage_error(file, 1, f"its format is {header.get('format')!r}; this version reads {readable}")
    fault = _header_fault(header)
    if fault:
        raise damage_error(file, 1, f"it does not say what is compared ({fault})")
    return header


def _header_fault(header: Mapping[str, Any]) -> str | None:
    """Why a header is not valid; None if it is."""
    methods = header.get("methods")
    items = header.get("items")
    comparisons = header.get("comparisons")
    if (
        not isinstance(methods, list)
        or len(methods) < 2
        or not _are_texts(methods)
        or len(set(methods)) < len(methods)
    ):
        return "its methods are not a list of names"
    key = header.get("key")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        return "its key is not 32 hexadecimal digits"
    if type(header.get("seed")) is not int:
        return "its seed is missing"
    if not isinstance(items, list) or not all(_is_item(item, methods) for item in items):
        return "its items are not a list of images"
    if not isinstance(comparisons, list) or not comparisons:
        return "it has no comparisons"
    try:
        voting = read_voting(header, len(methods))
    except ValueError as error:
        return str(error)
    shown_count = 2 if voting.vote == "pairs" else len(methods)
    for comparison in comparisons:
        if not isinstance(comparison, list) or not _are_texts(comparison[1:]):
            return "a comparison is not of methods"
        if len(comparison) != 1 + shown_count or len(set(comparison[1:])) != shown_count:
            return f"a comparison is not of {shown_count} methods"
        item, *shown = comparison
        if type(item) is not int or not 0 <= item < len(items) or not set(shown) <= set(methods):
            return "a comparison refers to an item or method that does not exist"
    return None


def _is_item(item: Any, methods: Sequence[str]) -> bool:
    if not isinstance(item, dict) or "source" not in item:
        return False
    if not _are_texts([item.get("id"), item.get("instruction"), item.get("source") or ""]):
        return False
    results = item.get("results")
    return isinstance(results, dict) and set(results) == set(methods) and _are_texts(results.values())


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def parse_line(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parses a line of a study's file; ``number`` counts from 1.

    Raises:
        EvaluationError: the line is not a JSON object.
    """
    try:
        content = parse_json(line)
    except ValueError as error:
        raise damage_error(file, number, f"it cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise damage_error(file, number, "it holds no entry")
    return content


def damage_error(file: Path, number: int, reason: str) -> EvaluationError:
    """Returns the error for a damaged line of a study's file; ``number`` counts from 1."""
    remedy = (
        "Give the study another name to start again"
        if number == 1
        else "Delete that line to go on without it, or give the study another name"
    )
    return EvaluationError(
        f"Study '{file.parent.name}' is damaged: line {number} of '{file}': {reason}. "
        f"The file was left as it is. {remedy}."
    )


def quoted_names(names: Iterable[str]) -> str:
    """Formats names for a message: 'one', 'other'."""
    return ", ".join(f"'{name}'" for name in names)
