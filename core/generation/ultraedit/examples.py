"""Examples of edits for a language model: written by hand, a pool made of them, and draws for a question."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...errors import BuildError
from ...storage.parquet import check_columns, open_table, row_batches

# Names of an example's columns in a table, as the build of a pool writes them.
EXAMPLE_COLUMNS = ("original_caption", "edit_instruction", "edited_caption")
# How many examples a question holds (supplement A.2).
INSTRUCTIONS_SHOWN = 50
EXAMPLES_SHOWN = 10

_SEED_FILE = Path(__file__).parent / "seed_examples.txt"


@dataclass(frozen=True)
class Example:
    """An edit in words, as in the supplement's Table 2."""

    caption: str
    instruction: str
    edited_caption: str

    def __str__(self) -> str:
        return f"{self.caption}; {self.instruction}; {self.edited_caption}"


@dataclass(frozen=True)
class Draw:
    """The examples of one question."""

    instructions: tuple[str, ...]
    examples: tuple[Example, ...]


def same_words(text: str) -> str:
    """Returns a text in the form in which instructions are compared: case and punctuation do not count."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


@lru_cache(maxsize=1)
def seed_examples() -> tuple[Example, ...]:
    """Returns the examples that are written by hand."""
    lines = _SEED_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(Example(*(part.strip() for part in line.split(";"))) for line in lines)


def read_pool(places: Sequence[Path]) -> tuple[Example, ...]:
    """Reads the examples of parquet tables and adds those written by hand, each instruction once.

    Args:
        places: tables, or folders of them, with ``EXAMPLE_COLUMNS``.

    Raises:
        BuildError: there is no table in a place.
        DataError: a table is damaged or lacks a column.
    """
    examples = list(seed_examples())
    for place in places:
        files = sorted(place.rglob("*.parquet")) if place.is_dir() else [place] if place.is_file() else []
        # A build keeps its stages in tables, too.
        data = [file for file in files if file == place or "stages" not in file.relative_to(place).parts]
        if not data:
            raise BuildError(
                f"Examples: there is no .parquet file in '{place}'. Give the folder of a finished "
                "'build ultraedit-examples'."
            )
        for file in data:
            examples += _read_table(file)
    return unique(examples)


def unique(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Returns the first example of each instruction."""
    found: dict[str, Example] = {}
    for example in examples:
        found.setdefault(same_words(example.instruction), example)
    return tuple(found.values())


def draw(pool: Sequence[Example], seed: int) -> Draw:
    """Draws the examples of a question: 50 instructions and 10 whole examples, fewer from a small pool.

    The same seed draws the same. No instruction is drawn twice.
    """
    rng = random.Random(seed)
    count = min(EXAMPLES_SHOWN, len(pool))
    chosen = rng.sample(range(len(pool)), min(INSTRUCTIONS_SHOWN + count, len(pool)))
    shown = [pool[number] for number in chosen]
    others = shown[count:] or shown
    return Draw(tuple(example.instruction for example in others), tuple(shown[:count]))


def _read_table(file: Path) -> list[Example]:
    with open_table(file) as table:
        check_columns(table, file, EXAMPLE_COLUMNS)
        rows = [
            row
            for group in range(table.num_row_groups)
            for batch in row_batches(table, file, EXAMPLE_COLUMNS, 1000, group)
            for row in batch
        ]
    texts = [tuple(str(row[name] or "").strip() for name in EXAMPLE_COLUMNS) for row in rows]
    return [Example(*each) for each in texts if all(each)]
