"""Writes the training set and the held-out test set, and counts both as Table 2 does."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import BuildError
from ...evaluation.reports.text_table import aligned_table
from ...storage.files import remove, write_text
from ...storage.json_text import parse_json
from ..engine.build import Build
from ..engine.export import export_table
from ..engine.stage import ID
from ..sources.rows import CAPTION, EDITED_CAPTION, EDITED_IMAGE, IMAGE, INSTRUCTION
from .filtering import PAIRS, PARTS
from .settings import REASON_COLUMNS

TEST_IMAGES = 1000
"""Images of the paper's test set."""

TEST_COLUMNS: Mapping[str, str] = {
    ID: ID,
    "before": IMAGE,
    "after": EDITED_IMAGE,
    "words": INSTRUCTION,
    "reasoning": "reasoning",
    "caption": EDITED_CAPTION,
    "source_caption": CAPTION,
    **{name: name for name in ("selected_object", "target_object", "part", "image_key")},
}
"""What core/evaluation/by_instruction/datasets/reasoning.py reads, then our own."""

PUBLISHED: Mapping[int, tuple[str, str, int]] = {
    1: ("InstructPix2Pix", "InstructPix2Pix", 8013),
    2: ("InstructPix2Pix", "Generated", 4141),
    3: ("V3Det", "Generated", 28058),
}
"""Table 2: part -> source of the input image, source of the edited image, number."""

_ROMAN = {1: "I", 2: "II", 3: "III"}
_COUNTS_FILE = "table2.json"


@dataclass(frozen=True)
class Split:
    """Ids of rows."""

    train: frozenset[str]
    test: frozenset[str]
    left_out: int
    """Rows whose source image is in the test set, which are in neither."""


@dataclass(frozen=True)
class PartCount:
    """A part of a built data set."""

    part: int
    source: str
    """Where its images come from."""
    train: int
    test: int


def split_rows(build: Build, test_images: int | None = None) -> Split:
    """Chooses the test set: one row for each held-out source image.

    Images of Parts II and III are held out in the order of a hash of their files. All other rows of these
    images, also of Part I, are in no split, so that no test image is trained on. The choice depends on the
    rows alone.

    Args:
        build: a finished build.
        test_images: number of images; None holds out a tenth, at most ``TEST_IMAGES``.

    Raises:
        BuildError: it is not finished, or there are not enough images.
    """
    last = len(build.stages)
    if build.unfinished_parts(last):
        raise BuildError("ReasonPix2Pix: the build is not finished. Run the same command again, then export.")
    rows = [row for part in range(build.parts) for row in build.rows(last, part, ("part", "image_key"))]
    keys = {row["image_key"] for row in rows if row["part"] != PAIRS}
    wanted = min(len(keys) // 10, TEST_IMAGES) if test_images is None else test_images
    if not 0 <= wanted <= len(keys) or (wanted and wanted == len({row["image_key"] for row in rows})):
        raise BuildError(
            f"ReasonPix2Pix: {wanted} test images cannot be held out of {len(keys)} with a replaced object, "
            "because none would be left to train on. Hold out fewer."
        )
    held = set(sorted(keys, key=_rank)[:wanted])
    test: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["part"]):
        if row["part"] != PAIRS and row["image_key"] in held:
            test.setdefault(row["image_key"], row[ID])
    train = frozenset(row[ID] for row in rows if row["image_key"] not in held)
    return Split(train, frozenset(test.values()), len(rows) - len(train) - len(test))


def export_reason(build: Build, split: Split, rows_per_file: int = 5000) -> list[Path]:
    """Writes ``data/train-....parquet`` and ``test/test-....parquet`` into the build's folder.

    They are in two folders, because training reads every table of a folder.

    Raises:
        BuildError: no row is left to train on.
        StorageError: a file cannot be written.
    """
    folder = build.folder
    files = export_table(build, REASON_COLUMNS, folder / "data", "train", rows_per_file, split.train)
    if split.test:
        files += export_table(build, TEST_COLUMNS, folder / "test", "test", rows_per_file, split.test)
    else:
        for file in (folder / "test").glob("test-*.parquet"):
            remove(file)
    return files


def count_parts(build: Build, split: Split, source: str) -> list[PartCount]:
    """Counts the rows of each part. Writes them into the build's folder, for tables of several builds.

    Args:
        build: a finished build.
        split: its split.
        source: name of the images' source.

    Raises:
        BuildError: a part is damaged.
        StorageError: the file cannot be written.
    """
    last = len(build.stages)
    train: Counter[int] = Counter()
    test: Counter[int] = Counter()
    for number in range(build.parts):
        for row in build.rows(last, number, ("part",)):
            train[row["part"]] += row[ID] in split.train
            test[row["part"]] += row[ID] in split.test
    counts = [PartCount(part, source, train[part], test[part]) for part in PARTS if part in train]
    write_text(json.dumps([asdict(count) for count in counts], indent=1), build.folder / _COUNTS_FILE)
    return counts


def read_counts(folder: Path) -> list[PartCount]:
    """Reads what ``count_parts`` wrote for another build.

    Raises:
        BuildError: the folder holds no finished build of ReasonPix2Pix.
    """
    file = folder / _COUNTS_FILE
    try:
        return [
            PartCount(int(each["part"]), str(each["source"]), int(each["train"]), int(each["test"]))
            for each in parse_json(file.read_bytes())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"'{folder}' holds no finished build of ReasonPix2Pix: {file.name} is missing or damaged. Run "
            "its command again."
        ) from error


def table_two(counts: Sequence[PartCount]) -> str:
    """Returns Table 2 with the published numbers and those of builds.

    Args:
        counts: of one or several builds. Parts that they do not have show a dash.
    """
    header = (
        "Part",
        "Input image",
        "Edited image",
        "Instruction",
        "Published",
        "Built",
        "Test",
        "Built from",
    )
    rows = []
    for part in PARTS:
        own = [count for count in counts if count.part == part]
        before, after, published = PUBLISHED[part]
        built = f"{sum(count.train for count in own):,}" if own else "-"
        test = f"{sum(count.test for count in own):,}" if own else "-"
        sources = ", ".join(dict.fromkeys(count.source for count in own)) or "-"
        rows.append((_ROMAN[part], before, after, "Generated", f"{published:,}", built, test, sources))
    total = [sum(count.train for count in counts), sum(count.test for count in counts)]
    published = sum(number for _, _, number in PUBLISHED.values())
    rows.append(("All", "", "", "", f"{published:,}", f"{total[0]:,}", f"{total[1]:,}", ""))
    return aligned_table(header, rows)


def _rank(key: str) -> str:
    return hashlib.sha256(f"test\n{key}".encode()).hexdigest()
