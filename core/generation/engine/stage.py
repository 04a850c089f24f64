"""A stage of a build: a pure function of one row."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""Column -> value. Images are encoded files: {"bytes": ..., "path": ...}."""

RowFunction = Callable[[Row], Sequence[Row]]
"""Returns the new columns of each row that comes out: one as a rule, several where rows branch, never none.

Raises ``Refused`` to end the row, and ``BuildError`` to stop the build.
"""

ID = "id"
"""Column with the name of a row. Branches of row ``a`` are ``a.0``, ``a.1`` and so on."""


@dataclass(frozen=True)
class Stage:
    """One step of a build."""

    name: str
    """Lower-case letters, digits and hyphens; unique within a build."""
    reads: tuple[str, ...]
    """The columns that the function gets besides ``id``."""
    adds: Mapping[str, str]
    """The columns that it adds or replaces, and their types: a name of ``tables.KINDS``."""
    start: Callable[[], RowFunction]
    """Loads what the function needs, once in each worker. A dataclass with ``__call__``: it is sent to other
    processes, and its ``repr`` with all settings is part of the build's description. What may differ when a
    build goes on, such as the device, is declared with ``repr=False``."""
    branches: float = 1.0
    """Expected number of rows out of one that is not refused."""
    keeps: float = 1.0
    """Expected share of the rows that are not refused."""
    calls: float = 0.0
    """Expected calls of a language model for each row."""
    call_tokens: tuple[int, int] = (0, 0)
    """Expected tokens of each call, in and out."""


def seed_of(row: Row, stage: str, number: int = 0) -> int:
    """Returns a random seed in 0..2^63-1 that depends on the row's id, the stage and a number alone."""
    text = f"{row[ID]}\n{stage}\n{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fingerprint(stage: Stage) -> str:
    """Returns a hash of everything that determines a stage's rows, given its input."""
    text = repr((stage.name, stage.reads, sorted(stage.adds.items()), stage.start))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
