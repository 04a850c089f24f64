"""Parts of the data set, and the filter of pairs that hardly differ (Eq. 1)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import BuildError
from ...pairs.difference import difference_of_files
from ...reasoning.answers import one_line
from ...storage.parquet import image_bytes
from ..engine.build import Build
from ..engine.stage import ID, Row, RowFunction, Stage
from ..errors import Refused
from ..sources.rows import CAPTION, EDITED_CAPTION, EDITED_IMAGE, IMAGE, INSTRUCTION

PARTS = (1, 2, 3)
PAIRS, CAPTIONED, BARE = PARTS
"""Part I has pairs with an instruction, Part II images with a caption, Part III images alone."""

TEXTS = (CAPTION, INSTRUCTION, EDITED_CAPTION)
"""Columns of the source with texts."""

# Columns that later stages fill for some parts, and their types.
_LATER: Mapping[str, str] = {
    "reasoning": "text",
    "candidates": "texts",
    "nouns": "texts",
    "parser": "text",
    "selected_object": "text",
    "target_object": "text",
    "box": "numbers",
}
_NEEDED = {
    CAPTION: "caption",
    EDITED_CAPTION: "caption of the edited image",
    INSTRUCTION: "instruction",
}


@dataclass(frozen=True)
class _Parts:
    parts: tuple[int, ...]

    def __call__(self) -> RowFunction:
        return self._row

    def _row(self, row: Row) -> Sequence[Row]:
        key = hashlib.sha256(image_bytes(row[IMAGE], row[ID])).hexdigest()
        texts = {name: one_line(row.get(name) or "") or None for name in TEXTS}
        return [{"part": part, "image_key": key, **texts, **dict.fromkeys(_LATER)} for part in self.parts]


def parts_stage(parts: Sequence[int], source_columns: Mapping[str, str]) -> Stage:
    """Makes a row for each part. A source image takes part in each of them.

    Adds ``part``, ``image_key`` (SHA-256 of the source image's file), and the columns of all later stages.

    Args:
        parts: of ``PARTS``.
        source_columns: columns of the source, and their types.

    Raises:
        BuildError: a part does not exist, or the source lacks a column that it needs.
    """
    chosen = tuple(sorted(set(parts)))
    if not chosen or not set(chosen) <= set(PARTS):
        raise BuildError(
            f"ReasonPix2Pix: parts {', '.join(map(str, parts)) or '(none)'} do not exist; name 1, 2 or 3."
        )
    needed = [IMAGE, *((EDITED_IMAGE, *TEXTS) if PAIRS in chosen else ())]
    missing = next((name for name in needed if name not in source_columns), None)
    if missing is not None:
        raise BuildError(
            f"ReasonPix2Pix: Part {'I' if missing != IMAGE else 'I, II and III'} needs the column "
            f"'{missing}', which the source does not have ({', '.join(source_columns)}). Name parts that "
            "the source is for."
        )
    texts = tuple(name for name in TEXTS if name in source_columns)
    adds = {"part": "integer", "image_key": "text", **dict.fromkeys(TEXTS, "text"), **_LATER}
    return Stage("parts", (IMAGE, *texts), adds, _Parts(chosen), branches=len(chosen))


@dataclass(frozen=True)
class _Difference:
    def __call__(self) -> RowFunction:
        return self._row

    def _row(self, row: Row) -> Sequence[Row]:
        if row["part"] != PAIRS:
            return [{"difference": None}]
        missing = next((title for name, title in _NEEDED.items() if not row[name]), None)
        if missing is not None or row[EDITED_IMAGE] is None:
            raise Refused("the pair is not complete", f"there is no {missing or 'edited image'}")
        contents = (image_bytes(row[name], f"{row[ID]} {name}") for name in (IMAGE, EDITED_IMAGE))
        return [{"difference": difference_of_files(row[ID], *contents)}]


def difference_stage() -> Stage:
    """Measures how much the images of each pair of Part I differ (Eq. 1, core/pairs/difference.py).

    Adds ``difference``. Refuses pairs without a caption, an instruction or an edited image.
    """
    return Stage("difference", ("part", IMAGE, EDITED_IMAGE, *TEXTS), {"difference": "number"}, _Difference())


@dataclass(frozen=True)
class _Filter:
    threshold: float

    def __call__(self) -> RowFunction:
        return self._row

    def _row(self, row: Row) -> Sequence[Row]:
        difference = row["difference"]
        if row["part"] == PAIRS and (difference < self.threshold or difference == 0):
            raise Refused(
                "the edit hardly changes the image", f"{difference:.3g} is below {self.threshold:.3g}"
            )
        return [{}]


def filter_stage(threshold: float, share: float = 0.0) -> Stage:
    """Refuses pairs whose difference is below a threshold (Eq. 1), and pairs of equal images.

    Args:
        threshold: tau, 0..1.
        share: the expected share of refused pairs, for the plan.

    Raises:
        BuildError: the threshold is out of range.
    """
    if not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise BuildError(
            f"ReasonPix2Pix: a threshold of {threshold:g} is out of range; a mean squared difference is 0 "
            "to 1."
        )
    return Stage("filter", ("part", "difference"), {}, _Filter(threshold), keeps=1 - share)


def threshold_of_lowest(build: Build, number: int, share: float) -> float:
    """Returns the threshold of Eq. 1 below which the given share of all pairs lies.

    It depends on the table alone, not on who made it. Of pairs that differ equally, all or none are below.

    Args:
        build: a build that has made the stage.
        number: the stage that keeps ``difference``.
        share: 0..1; the paper names 10 % as an example.

    Raises:
        BuildError: the share is out of range, or the stage is not made.
    """
    if not 0 <= share < 1:
        raise BuildError(
            f"ReasonPix2Pix: a lowest share of {share:g} is out of range; it is from 0 to below 1."
        )
    found: list[float] = []
    for part in range(build.parts):
        values = build.table(number, part, ("difference",))["difference"].to_pylist()
        found += [value for value in values if value is not None]
    # A share such as 0.29 is slightly less than it says.
    return sorted(found)[math.floor(share * len(found) + 1e-9)] if found else 0.0
