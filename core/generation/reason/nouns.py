"""The candidate categories of a caption: its noun chunks (Eq. 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..engine.stage import Row, RowFunction, Stage
from ..errors import Refused
from ..sources.rows import CAPTION
from .filtering import PAIRS
from .models.parsers import Parser

NO_NOUNS = "the caption names no object"

# Categories of a caption that are looked for at most.
_MOST = 10


@dataclass(frozen=True)
class _Nouns:
    parser: Callable[[], Parser]

    def __call__(self) -> RowFunction:
        parser = self.parser()
        return lambda row: self._row(parser, row)

    @staticmethod
    def _row(parser: Parser, row: Row) -> Sequence[Row]:
        if row["part"] == PAIRS:
            return [{"nouns": None, "parser": None}]
        found = parser.categories(row[CAPTION])[:_MOST]
        if not found:
            raise Refused(NO_NOUNS, row[CAPTION])
        return [{"nouns": found, "parser": parser.name}]


def nouns_stage(parser: Callable[[], Parser]) -> Stage:
    """Finds the categories that a caption names. Adds ``nouns`` and ``parser``, the parser's name."""
    reads = ("part", CAPTION)
    return Stage("nouns", reads, {"nouns": "texts", "parser": "text"}, _Nouns(parser))
