"""Every public layout as a source of rows."""

import json
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.sources import tables
from instructbrush.core.generation.sources.opening import open_source
from instructbrush.core.generation.sources.rows import FileSource, unique_ids
from instructbrush.core.storage.parquet import open_table
from instructbrush.tests.support import tiny_edits
from instructbrush.tests.unit.generation.sources.data_sets import (
    encoded,
    level_of,
    put,
    write_captions,
    write_objects,
    write_tree,
)


def rows_of(source: FileSource) -> list[dict[str, Any]]:
    """All rows, none of which is refused, with the levels of images instead of cells."""
    rows = []
    for row in source.rows(0, source.count):
        assert not isinstance(row, Refused), row.detail
        assert list(row) == ["id", *source.columns]
        rows.append(
            {
                name: level_of(value) if source.columns.get(name) == "image" else value
                for name, value in row.items()
            }
        )
    assert len(rows) == source.count
    return rows


@pytest.mark.parametrize("seeds", [True, False])
def test_reads_the_tree_of_instruct_pix2pix(tmp_path: Path, seeds: bool) -> None:
    source = open_source(write_tree(tmp_path, seeds))
    rows = rows_of(source)
    assert [row["id"] for row in rows] == ["0000012-7", "0000012-1234", "0000345-99"]
    assert [(row["image"], row["edited_image"]) for row in rows] == [(20, 120), (24, 124), (50, 150)]
    assert rows[2] | {"id": "", "image": 0, "edited_image": 0} == {
        "id": "",
        "image": 0,
        "caption": "a hill 0000345",
        "edited_image": 0,
        "instruction": "make it snow",
        "edited_caption": "a snowy hill 0000345",
    }
    assert source.describe() == (
        f"InstructPix2Pix tree '{tmp_path.name}': 3 rows with image, caption, edited_image, instruction, "
        "edited_caption"
    )


def test_reads_other_names_of_captions_in_trees(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "0000345" / "prompt.json").write_text('{"caption": "a cow", "edit": "x", "output": "y"}')
    assert rows_of(open_source(tmp_path))[2]["caption"] == "a cow"


@pytest.mark.parametrize("inside", ["", "annotations", "annotations/v3det_2023_v1_train.json"])
def test_reads_objects_of_v3det(tmp_path: Path, inside: str) -> None:
    write_objects(tmp_path)
    rows = rows_of(open_source(tmp_path / inside))
    assert [row["image"] for row in rows] == [0, 20, 40]
    assert [row["categories"] for row in rows] == [["flower", "bee"], [], ["bee"]]
    assert [row["caption"] for row in rows] == [None] * 3 and [row["id"] for row in rows] == ["5", "6", "7"]


def test_reads_captions_of_coco(tmp_path: Path) -> None:
    write_captions(tmp_path)
    rows = rows_of(open_source(tmp_path))
    assert rows == [
        {"id": "25-100", "image": 60, "caption": "A giraffe."},
        {"id": "9-101", "image": 30, "caption": "Some food."},
        {"id": "9-102", "image": 30, "caption": "A lunch box."},
    ]


@pytest.mark.parametrize("order", [("annotations", "categories", "images"), ("images", "annotations")])
def test_reads_annotations_in_any_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    file = write_objects(tmp_path)
    expected = rows_of(open_source(file))
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: content.pop(name) for name in order} | content))
    assert rows_of(open_source(file)) == expected


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("folder", ["", "train"])
def test_reads_image_folders_with_captions(tmp_path: Path, name: str, folder: str) -> None:
    put(tmp_path / folder, {"a.png": 10, "b/c.jpg": 50})
    entries = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "b/c.jpg", "text": ""}]
    lines = [json.dumps(entry) for entry in entries]
    if name.endswith(".csv"):
        lines = ["file_name,text", "a.png,a cat", "b/c.jpg,"]
    (tmp_path / folder / name).write_text("\n".join(lines))
    start = f"{folder}-" if folder else ""
    assert rows_of(open_source(tmp_path)) == [
        {"id": f"{start}0", "image": 10, "caption": "a cat"},
        {"id": f"{start}1", "image": 50, "caption": None},
    ]


def test_reads_image_folders_with_pairs(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": 10, "b.png": 50})
    entry = {
        "original_image_file_name": "a.png",
        "edited_image_file_name": "b.png",
        "edit_prompt": "brighten",
        "original_prompt": "grey",
        "edited_prompt": "light grey",
    }
    (tmp_path / "metadata.jsonl").write_text(json.dumps(entry))
    for place in (tmp_path, tmp_path / "metadata.jsonl"):
        (row,) = rows_of(open_source(place))
        assert row == {
            "id": "a",
            "image": 10,
            "edited_image": 50,
            "instruction": "brighten",
            "caption": "grey",
            "edited_caption": "light grey",
        }


def test_reads_pairs_by_their_names(tmp_path: Path) -> None:
    put(tmp_path, {"x_before.png": 10, "x_after.png": 20, "y_before.png": 30, "y_after.png": 40})
    (tmp_path / "x.txt").write_text("make it lighter")
    rows = rows_of(open_source(tmp_path))
    assert [(row["image"], row["edited_image"]) for row in rows] == [(10, 20), (30, 40)]
    assert [row["instruction"] for row in rows] == ["make it lighter", None]


def test_reads_plain_folders(tmp_path: Path) -> None:
    put(tmp_path, {"10.png": 10, "2.jpg": 20, "below/x.jpg": 30, "below/x_0.jpg": 40})
    (tmp_path / "2.txt").write_text("\ufeffzwei Äpfel\n", "utf-8")
    assert rows_of(open_source(tmp_path)) == [
        {"id": "2", "image": 20, "caption": "zwei Äpfel"},
        {"id": "10", "image": 10, "caption": None},
        {"id": "below/x", "image": 30, "caption": None},
        {"id": "below/x_0", "image": 40, "caption": None},
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("source_image", "edited_image", "edit_prompt", "source_caption", "target_caption"),
        ("original_image", "edited_image", "edit_prompt", "original_prompt", "edited_prompt"),
        ("input_image", "edited_image", "instruction", "caption", "edited_caption"),
    ],
)
def test_reads_tables_of_edits(tmp_path: Path, names: tuple[str, ...]) -> None:
    columns = ("image", "edited_image", "instruction", "caption", "edited_caption")
    rows = [
        {"image": 10 * n, "edited_image": 100 + n, "instruction": f"edit {n}"}
        | {"caption": f"before {n}", "edited_caption": f"after {n}"}
        for n in range(5)
    ]
    content = [
        {
            name: {"bytes": encoded(row[column]), "path": None} if "image" in column else row[column]
            for name, column in zip(names, columns, strict=True)
        }
        for row in rows
    ]
    tiny_edits.write_table(tmp_path / "data" / "train-0.parquet", content[:3])
    tiny_edits.write_table(tmp_path / "data" / "train-1.parquet", content[3:])
    source = open_source(tmp_path)
    ids = [f"data/train-{n // 3}-{n % 3}" for n in range(5)]
    assert rows_of(source) == [row | {"id": name} for row, name in zip(rows, ids, strict=True)]
    for start in range(5):
        for count in (1, 3, 9):
            part = [row["id"] for row in source.rows(start, count)]  # type: ignore[index]
            assert part == ids[start : start + count]
    assert source.row(4)["caption"] == "before 4"


def test_reads_tables_of_images_with_captions(tmp_path: Path) -> None:
    content = [{"image": encoded(10 * n), "text": f"caption {n}"} for n in range(3)]
    rows = rows_of(open_source(tiny_edits.write_table(tmp_path / "t.parquet", content)))
    assert rows[2] == {"id": "t-2", "image": 20, "caption": "caption 2"}


def test_reads_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a build are much smaller than the row groups that most programs write."""
    content = [{"image": encoded(10 * n), "text": f"caption {n}"} for n in range(12)]
    source = open_source(tiny_edits.write_table(tmp_path / "t.parquet", content, group=6))
    opened: list[Path] = []
    monkeypatch.setattr(tables, "open_table", lambda file: opened.append(file) or open_table(file))
    rows = [row for start in range(0, 12, 2) for row in source.rows(start, 2)]
    assert [level_of(row["image"]) for row in rows] == [10 * n for n in range(12)]  # type: ignore[index]
    assert len(opened) == 2
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
    assert again.row(3)["caption"] == source.row(3)["caption"] == "caption 3"


def test_images_are_png_or_jpeg(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": 10, "b.jpg": 20})
    Image.new("RGBA", (24, 24), (40, 40, 40, 0)).save(tmp_path / "c.webp", lossless=True)
    cells = [row["image"] for row in open_source(tmp_path).rows(0, 3)]  # type: ignore[index]
    assert [cell["bytes"] for cell in cells[:2]] == [
        (tmp_path / name).read_bytes() for name in ("a.png", "b.jpg")
    ]
    assert [cell["path"] for cell in cells] == ["a.png", "b.jpg", "c.webp"]
    with Image.open(BytesIO(cells[2]["bytes"])) as image:
        assert image.format == "PNG" and image.getpixel((0, 0)) == (255, 255, 255)


WRITERS = [write_tree, write_objects, write_captions, tiny_edits.write_tables, tiny_edits.write_folder]


@pytest.mark.parametrize("write", WRITERS)
def test_sources_survive_pickling_and_moves(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    one, two = (open_source(tmp_path / name) for name in ("one", "two"))
    again = pickle.loads(pickle.dumps(one))  # noqa: S301 (our own)
    assert one.fingerprint == two.fingerprint == again.fingerprint and one.count == again.count > 0
    assert list(one.rows(0, 9)) == list(two.rows(0, 9)) == list(again.rows(0, 9))


def test_reads_annotations_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = write_captions(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert open_source(file).count == 3


def test_fingerprint_changes_with_the_rows(tmp_path: Path) -> None:
    before = open_source(write_captions(tmp_path)).fingerprint
    write_captions(tmp_path, annotations=[{"image_id": 9, "id": 1, "caption": "other"}])
    assert open_source(tmp_path).fingerprint != before


def test_ids_stay_unique_without_dots(tmp_path: Path) -> None:
    put(tmp_path, {"a.0.png": 10, "a-0.png": 20, "a-0.jpg": 30})
    ids = [row["id"] for row in rows_of(open_source(tmp_path))]
    assert ids == ["a-0", "a-0-2", "a-0-3"]


def test_many_equal_names_get_ids_quickly() -> None:
    ids = unique_ids(["a", "a-3", *["a"] * 30_000, "a-2"])
    assert ids[:5] == ("a", "a-3", "a-2", "a-4", "a-5") and ids[-1] == "a-2-2"
    assert len(set(ids)) == 30_003


def test_a_build_begins_with_a_source(tmp_path: Path) -> None:
    write_tree(tmp_path / "data")
    (tmp_path / "data" / "0000012" / "7_1.jpg").write_bytes(b"no image")
    build = Build(tmp_path / "build", open_source(tmp_path / "data"), (), rows_per_part=2)
    run_build(build)
    assert [row["id"] for row in build.rows(0, 0, ["caption"])] == ["0000012-1234"]
    assert build.rows(0, 1, ["instruction"]) == [{"id": "0000345-99", "instruction": "make it snow"}]
