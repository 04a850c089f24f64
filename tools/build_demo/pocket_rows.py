"""Source tables of the pocket world: images with captions, and pairs with captions and instructions.

    python -m instructbrush.tools.build_demo.pocket_rows --out FOLDER --rows 1000

`FOLDER/captions` holds images with captions, `FOLDER/pairs` the same images with an edit in words.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..pocket.world.effects import sample_edit
from ..pocket.world.scenes import caption, render, sample_scene

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
# Share of the rows whose image is damaged, as in tables that people download.
DAMAGED = 0.01


def encoded(image: np.ndarray) -> dict[str, Any]:
    """Encodes an image [H, W, 3] in 0..1 as a table's cell."""
    file = BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def pairs(count: int, seed: int = 17, damaged: float = DAMAGED) -> Iterator[dict[str, Any]]:
    """Draws scenes with one edit each."""
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        scene = sample_scene(rng)
        edit = sample_edit(scene, rng)
        image = encoded(render(scene))
        if rng.random() < damaged:
            image["bytes"] = image["bytes"][:200]
        yield {
            "id": f"scene-{number:06d}",
            "source_image": image,
            "source_caption": caption(scene, rng),
            "edit_prompt": edit.words,
            "edited_image": encoded(edit.render()),
            "target_caption": edit.caption(rng),
        }


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes `folder/captions` and `folder/pairs`. The folder is there once both are whole."""
    whole, folder = folder, folder.with_name(f"{folder.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    texts = {name: pa.string() for name in ("id", "source_caption", "edit_prompt", "target_caption")}
    schema = pa.schema({**texts, "source_image": IMAGE, "edited_image": IMAGE})
    table = pa.Table.from_pylist(rows, schema)
    captions = table.select(["id", "source_image", "source_caption"])
    captions = captions.rename_columns(["id", "image", "caption"])
    for name, part in (("captions", captions), ("pairs", table)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(part, folder / name / "train-00000-of-00001.parquet", row_group_size=100)
    folder.rename(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes source tables of the pocket world.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"'{options.out}' exists; give another --out")
    write(options.out, list(pairs(options.rows)))


if __name__ == "__main__":
    main()
