"""Pairs with words and masks in the layouts that fine-tuning reads, from seeds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from instructbrush.tests.support.tiny_benchmarks import png

SIDE = 64


def images(
    number: int, height: int = SIDE, width: int = SIDE
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """(before, after, mask): a quarter of the blocks is inverted, and the mask is white there."""
    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    changed, mask = blocks.copy(), np.zeros((4, 4), np.uint8)
    row, column = 2 * (number % 2), 2 * (number // 2 % 2)
    changed[row : row + 2, column : column + 2] = 255 - changed[row : row + 2, column : column + 2]
    mask[row : row + 2, column : column + 2] = 255
    before, after, region = (
        Image.fromarray(array).resize((width, height), Image.Resampling.NEAREST)
        for array in (blocks, changed, mask)
    )
    return before, after, region


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """UltraEdit's columns; every third row is free-form."""
    found = []
    for number in range(first, first + count):
        before, after, mask = (png(image) for image in images(number))
        free = number % 3 == 2
        found.append(
            {
                "source_image": before,
                "edited_image": after,
                "mask_image": None if free else mask,
                "edit_prompt": f"invert part {number}",
                "source_caption": "blocks",
                "target_caption": "other blocks",
            }
        )
    return found


INDIRECT = (
    ("one corner looks wrong", "it should be the other way round"),
    ("something is not as it was",),
    (),
)
"""Indirect instructions of rows 0, 1 and 2, and so on in turn."""


def with_reasoning(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the column of indirect instructions."""
    return [{**row, "reasoning": list(INDIRECT[number % 3])} for number, row in enumerate(content)]


def write_table(path: Path, content: list[dict[str, Any]], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=group)
    return path


def write_tables(folder: Path, count: int = 10) -> Path:
    """Two shards of unequal length, as they are downloaded."""
    content = rows(count)
    for number, part in enumerate((content[: count // 2 + 2], content[count // 2 + 2 :])):
        write_table(folder / "data" / f"train-{number:05}-of-00002.parquet", part)
    return folder


def write_folder(folder: Path, count: int = 3) -> Path:
    """A folder with pairs.json; the first pair has no mask."""
    folder.mkdir(parents=True)
    entries = []
    for number in range(count):
        names = [f"{number}_{kind}.png" for kind in ("before", "after", "mask")]
        for image, name in zip(images(number), names, strict=True):
            image.save(folder / name)
        entry = {"before": names[0], "after": names[1], "words": f"invert part {number}"}
        entries.append(entry | ({"mask": names[2]} if number else {}))
    (folder / "pairs.json").write_text(json.dumps(entries))
    return folder
