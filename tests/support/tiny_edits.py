"""Random pairs with words and masks in the layouts that fine-tuning reads."""

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
    """Returns (before, after, mask). The edit inverts a quarter of the blocks; the mask is white there."""
    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    changed = blocks.copy()
    mask = np.zeros((4, 4), np.uint8)
    row = 2 * (number % 2)
    column = 2 * (number // 2 % 2)
    changed[row : row + 2, column : column + 2] = 255 - changed[row : row + 2, column : column + 2]
    mask[row : row + 2, column : column + 2] = 255

    def image(array: np.ndarray) -> Image.Image:
        return Image.fromarray(array).resize((width, height), Image.Resampling.NEAREST)

    return image(blocks), image(changed), image(mask)


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Returns rows with UltraEdit's columns. Every third row has no mask."""
    found = []
    for number in range(first, first + count):
        before, after, mask = images(number)
        found.append(
            {
                "source_image": png(before),
                "edited_image": png(after),
                "mask_image": None if number % 3 == 2 else png(mask),
                "edit_prompt": f"invert part {number}",
                "source_caption": "blocks",
                "target_caption": "other blocks",
            }
        )
    return found


# Indirect instructions of rows 0, 1 and 2, repeated for the other rows.
INDIRECT = (
    ("one corner looks wrong", "it should be the other way round"),
    ("something is not as it was",),
    (),
)


def with_reasoning(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds a column of indirect instructions to the rows."""
    return [{**row, "reasoning": list(INDIRECT[number % 3])} for number, row in enumerate(content)]


def write_table(path: Path, content: list[dict[str, Any]], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=group)
    return path


def write_tables(folder: Path, count: int = 10) -> Path:
    """Writes two shards of unequal length, as they are downloaded."""
    content = rows(count)
    for number, part in enumerate((content[: count // 2 + 2], content[count // 2 + 2 :])):
        write_table(folder / "data" / f"train-{number:05}-of-00002.parquet", part)
    return folder


def write_folder(folder: Path, count: int = 3) -> Path:
    """Writes a folder with pairs.json. The first pair has no mask."""
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
