"""Writes pairs of the pocket world as tables for `python -m instructbrush reason train`.

    python -m tools.pocket.reasoning_stages.write_pairs --out DIR --pairs 18000 --wishes 48000

`DIR/pairs` is for `--data`: two rows of three have a wish and the direct instruction that fulfills it, the
others a direct instruction only. With `--indirect 0.75`, half of the samples are wishes. `DIR/wishes` is for
`--first-stage-data`: every row has both. `DIR/unseen` holds a hundredth of the pairs with held-out wordings
and combinations.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..wishes.wishes import sample_direct, sample_wish
from .train_reader import vary_words

# Rows in a file.
ROWS = 1000


def encoded(image: np.ndarray) -> dict[str, bytes]:
    """Encodes an image [H, W, 3] in 0..1 as a table's cell."""
    file = BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue()}


@dataclass(frozen=True)
class Rows:
    """The rows of a folder."""

    seed: int
    """Differs between folders."""
    wishes: float = 1.0
    """Share of rows with a wish."""
    vary: bool = False
    """Drop words of wishes, or make them polite, at random."""
    held_out: bool = False
    """Use held-out wordings and combinations."""


def draw_rows(kind: Rows, file: int, count: int) -> Iterator[dict[str, Any]]:
    """Draws the rows of a folder's file."""
    rng = np.random.default_rng((45, kind.seed, file))
    for _ in range(count):
        indirect = rng.random() < kind.wishes
        wish = sample_wish(rng, held_out=kind.held_out) if indirect else sample_direct(rng)
        words = vary_words(rng, wish.words) if kind.vary else wish.words
        yield {
            "source_image": encoded(wish.before),
            "edited_image": encoded(wish.after),
            "edit_prompt": wish.instruction,
            "reasoning": [words] if indirect else None,
        }


def write_tables(folder: Path, kind: Rows, count: int) -> None:
    """Writes `count` rows to parquet files of `ROWS` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(
        {
            "source_image": pa.struct({"bytes": pa.binary()}),
            "edited_image": pa.struct({"bytes": pa.binary()}),
            "edit_prompt": pa.string(),
            "reasoning": pa.list_(pa.string()),
        }
    )
    for number, first in enumerate(range(0, count, ROWS)):
        rows = list(draw_rows(kind, number, min(ROWS, count - first)))
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, folder / f"{number:04}.parquet", row_group_size=250)


def main() -> None:
    """Writes the three folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=18000)
    parser.add_argument("--wishes", type=int, default=48000)
    options = parser.parse_args()
    write_tables(options.out / "pairs", Rows(1, wishes=2 / 3), options.pairs)
    write_tables(options.out / "wishes", Rows(2, vary=True), options.wishes)
    write_tables(options.out / "unseen", Rows(3, held_out=True), max(options.pairs // 100, 1))


if __name__ == "__main__":
    main()
