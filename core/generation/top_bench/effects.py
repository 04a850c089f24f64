"""Lists of effects to make pairs of, and the rows that a build begins with."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...evaluation.by_example.effects import TEST_PAIRS, TRAIN_PAIRS
from ...storage.json_text import parse_json
from ...storage.names import resolve_inside
from ..engine.stage import ID, Row
from ..errors import Refused

_FORM = (
    '[{"name": "midnight", "instruction": "make it nighttime", "scope": "global", "pairs": [{"source": "a '
    'street", "target": "a street at night"}, ...]}, ...]'
)
_SCOPES = ("global", "local")
_MOST_BYTES = 100_000_000
_ANCHOR = "image"


@dataclass(frozen=True)
class CaptionPair:
    """What an image shows before and after the edit."""

    source: str
    target: str
    image: str = ""
    """Path of the real image that the pair starts from, relative to the list; empty for none."""


@dataclass(frozen=True)
class PlannedEffect:
    """An effect, and captions of more pairs than it needs, because some are refused."""

    name: str
    instruction: str
    scope: str
    pairs: tuple[CaptionPair, ...]


def read_effects(file: Path) -> tuple[PlannedEffect, ...]:
    """Reads a JSON list of effects. The pairs of an effect differ in their captions or images.

    Raises:
        DataError: the file is missing, malformed or empty; an effect lacks something, appears twice, has a
            name that no folder can have, or has fewer than 15 pairs; captions are equal or appear twice.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes are too many")
        content = parse_json(file.read_bytes())
        if not isinstance(content, list) or not content:
            raise ValueError("it is no list of effects, or an empty one")
        effects = tuple(_effect(entry, number) for number, entry in enumerate(content, 1))
    except (OSError, ValueError) as error:
        raise DataError(f"Effects '{file}': {error}. The list must be {_FORM}.") from error
    names: dict[str, str] = {}
    for effect in effects:
        # The benchmark's reader ignores case and signs.
        key = "".join(letter for letter in effect.name.lower() if letter.isalnum())
        if not key or key in names:
            other = f"it cannot be told from '{names[key]}'" if key else "it has no letter or number"
            raise DataError(f"Effects '{file}': the name '{effect.name}' cannot be used: {other}. Rename it.")
        names[key] = effect.name
        resolve_inside(file.parent, effect.name, new=True, error=DataError)
        if "/" in effect.name or effect.name.startswith("."):
            raise DataError(
                f"Effects '{file}': the name '{effect.name}' is no name of one folder. Rename it."
            )
        for pair in effect.pairs:
            if pair.image:
                resolve_inside(file.parent, pair.image, error=DataError)
    return effects


@dataclass(frozen=True)
class EffectRows:
    """The rows of all effects: one for each pair of captions. A ``Source`` of a build."""

    effects: tuple[PlannedEffect, ...]
    folder: Path
    """Holds the anchors."""

    @property
    def columns(self) -> Mapping[str, str]:
        """See ``Source``."""
        texts = dict.fromkeys(("effect", "edit_prompt", "scope", "source_caption", "target_caption"), "text")
        return {**texts, "anchor": "image"}

    @property
    def count(self) -> int:
        """See ``Source``."""
        return sum(len(effect.pairs) for effect in self.effects)

    @property
    def fingerprint(self) -> str:
        """See ``Source``. Anchors count by their names."""
        return hashlib.sha256(repr(self.effects).encode()).hexdigest()[:16]

    def rows(self, start: int, count: int) -> Iterator[Row | Refused]:
        """See ``Source``."""
        every = [(effect, number) for effect in self.effects for number in range(len(effect.pairs))]
        for effect, number in every[start : start + count]:
            pair = effect.pairs[number]
            try:
                anchor = self._anchor(pair)
            except OSError as error:
                yield Refused("its image cannot be read", f"{pair.image}: {error.strerror}")
                continue
            yield {
                ID: f"{effect.name}-{number:04d}",
                "effect": effect.name,
                "edit_prompt": effect.instruction,
                "scope": effect.scope,
                "source_caption": pair.source,
                "target_caption": pair.target,
                "anchor": anchor,
            }

    def _anchor(self, pair: CaptionPair) -> Mapping[str, Any] | None:
        if not pair.image:
            return None
        return {"bytes": (self.folder / pair.image).read_bytes(), "path": None}


def _effect(entry: Any, number: int) -> PlannedEffect:
    if not isinstance(entry, dict):
        raise ValueError(f"effect {number} is not a table")
    name, instruction = (
        _text(entry, "name", f"effect {number}"),
        _text(entry, "instruction", f"effect {number}"),
    )
    scope = entry.get("scope", _SCOPES[0])
    if scope not in _SCOPES:
        raise ValueError(f"the scope of '{name}' is {str(scope)[:40]!r}; it is 'global' or 'local'")
    listed = entry.get("pairs")
    if not isinstance(listed, list):
        raise ValueError(f"effect '{name}' has no list of pairs")
    pairs = tuple(_pair(each, f"pair {place} of '{name}'") for place, each in enumerate(listed, 1))
    _check_pairs(name, pairs)
    return PlannedEffect(name, instruction, scope, pairs)


def _check_pairs(name: str, pairs: Sequence[CaptionPair]) -> None:
    needed = TRAIN_PAIRS + TEST_PAIRS
    if len(pairs) < needed:
        raise ValueError(f"effect '{name}' has {len(pairs)} pairs of captions; at least {needed} are needed")
    seen: dict[tuple[str, str], int] = {}
    for place, pair in enumerate(pairs, 1):
        key = pair.source.casefold(), pair.image
        if key in seen:
            raise ValueError(f"pairs {seen[key]} and {place} of '{name}' show the same")
        seen[key] = place


def _pair(entry: Any, what: str) -> CaptionPair:
    if isinstance(entry, list) and len(entry) == 2:
        entry = {"source": entry[0], "target": entry[1]}
    if not isinstance(entry, dict):
        raise ValueError(f'{what} is not {{"source": ..., "target": ...}}')
    pair = CaptionPair(
        _text(entry, "source", what),
        _text(entry, "target", what),
        _text(entry, _ANCHOR, what) if _ANCHOR in entry else "",
    )
    if pair.source.casefold() == pair.target.casefold():
        raise ValueError(f"both captions of {what} are equal")
    return pair


def _text(entry: Mapping[str, Any], key: str, what: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{key}' of {what} is missing or empty")
    return " ".join(value.split())
