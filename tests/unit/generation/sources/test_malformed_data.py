"""What sources say about data that cannot be used: as a whole, and in single rows."""

import json
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from instructbrush.core.errors import InstructBrushError
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.figures import count_rows
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.sources.opening import open_source
from instructbrush.tests.support import tiny_edits
from instructbrush.tests.unit.generation.sources.data_sets import (
    encoded,
    put,
    write_captions,
    write_objects,
    write_tree,
)


def refusals(place: Path) -> list[tuple[int, str, str]]:
    """(number, reason, detail) of each row that is refused. Checks that the others are there."""
    source = open_source(place)
    found = list(source.rows(0, source.count))
    assert len(found) == source.count
    return [(number, row.reason, row.detail) for number, row in enumerate(found) if isinstance(row, Refused)]


def test_refuses_damaged_rows_of_a_tree(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "0000012" / "7_0.jpg").write_bytes(encoded(5)[:40])
    (tmp_path / "0000345" / "99_1.jpg").unlink()
    entries = [["0000012", ["7", "1234", "../0000345/99"]], ["../x", ["1"]], "0000345", ["0000345", [99]]]
    (tmp_path / "seeds.json").write_text(json.dumps(entries))
    found = refusals(tmp_path)
    name = tmp_path.name
    assert [(number, reason) for number, reason, _ in found] == [
        (0, "an image cannot be read"),
        (2, "the entry is malformed"),
        (3, "the entry is malformed"),
        (4, "the entry is malformed"),
        (5, "an image is missing"),
    ]
    details = [detail for _, _, detail in found]
    assert details[0].startswith("Image '0000012/7_0.jpg' cannot be read (")
    assert details[1] == f"seeds.json of '{name}': '../0000345/99' of '0000012' is no seed."
    assert details[2].startswith(f"seeds.json of '{name}': Name '../x' cannot be used: ")
    assert details[3] == f"seeds.json of '{name}', entry 2 is 0000345, not [folder, [seed, …]]."
    assert details[4] == "Image '0000345/99_1.jpg' cannot be read (No such file or directory)."


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b'{"input": "a", "edit": ', "0000345/prompt.json cannot be read (Expecting value"),
        (b'["make it snow"]', "0000345/prompt.json cannot be read (it is not a table)."),
        (b'{"input": "a", "edit": 7}', "0000345/prompt.json has no text 'edit'."),
    ],
)
def test_refuses_damaged_words_of_a_tree(tmp_path: Path, content: bytes, detail: str) -> None:
    write_tree(tmp_path)
    (tmp_path / "0000345" / "prompt.json").write_bytes(content)
    ((number, reason, found),) = refusals(tmp_path)
    assert (number, reason) == (2, "the words cannot be read") and found.startswith(detail)


def test_refuses_malformed_entries_of_captions(tmp_path: Path) -> None:
    entries = [
        {"image_id": 9, "id": 1, "caption": "food"},
        {"image_id": 77, "id": 2, "caption": "nothing"},
        {"image_id": 9, "id": 3, "caption": None},
        "x",
    ]
    images: list[Any] = [{"id": 9, "file_name": "000009.jpg"}, {"id": 25}]
    found = refusals(write_captions(tmp_path, annotations=entries, images=images))
    assert [(number, reason) for number, reason, _ in found] == [
        (number, "the entry is malformed") for number in (1, 2, 3, 4)
    ]
    assert found[0][2] == "captions_train2017.json: image 1 is {'id': 25}."
    assert found[3][2] == "captions_train2017.json: annotation 3 is x."


def test_counts_malformed_objects(tmp_path: Path) -> None:
    objects = [{"image_id": 5, "category_id": 1}, {"image_id": 5, "category_id": 9}, {"image_id": 5}, None]
    source = open_source(write_objects(tmp_path, annotations=objects))
    assert source.row(0)["categories"] == ["bee"]
    assert source.describe().endswith(
        "3 rows with image, caption, categories; 3 annotations are malformed and ignored"
    )


def test_refuses_names_that_leave_the_folder(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "../secret.jpg"}, {"id": 2, "file_name": "images/n00/0_x.jpg"}]
    ((number, reason, detail),) = refusals(write_objects(tmp_path, images=images, annotations=[]))
    assert (number, reason) == (0, "the entry is malformed") and "'../secret.jpg' cannot be used" in detail


def test_refuses_malformed_entries_of_image_folders(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": 10})
    lines = [
        '{"file_name": "a.png", "text": "a"}',
        "{",
        '{"text": "b"}',
        '{"file_name": "b.png", "text": ""}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found = refusals(tmp_path)
    where = f"metadata.jsonl of '{tmp_path.name}'"
    assert [number for number, _, _ in found] == [1, 2, 3]
    assert found[1][2] == f"{where}, entry 2 lacks 'file_name', the name of an image inside the folder."
    assert found[2][2] == f"{where}: 'b.png' does not exist."


def test_refuses_images_without_their_partner(tmp_path: Path) -> None:
    put(tmp_path, {"x_before.png": 10, "x_after.png": 20, "y_before.png": 30})
    ((number, reason, detail),) = refusals(tmp_path)
    assert (number, reason) == (1, "the entry is malformed")
    assert detail.startswith("Image 'y_before.png' has no partner: the after image of pair 'y' is missing.")


def test_refuses_damaged_rows_of_tables(tmp_path: Path) -> None:
    rows = tiny_edits.rows(4)
    rows[0]["source_image"] = {"bytes": None, "path": "x.png"}
    rows[3]["edited_image"] = {"bytes": b"<html>404", "path": None}
    found = refusals(tiny_edits.write_table(tmp_path / "t.parquet", rows))
    assert [(number, reason) for number, reason, _ in found] == [
        (0, "an image is missing"),
        (3, "an image cannot be read"),
    ]
    assert found[0][2].startswith("Image 't.parquet row 0 source_image' is missing: the cell holds no bytes")


def test_refuses_the_rows_of_a_damaged_row_group(tmp_path: Path) -> None:
    table = tiny_edits.write_table(tmp_path / "t.parquet", tiny_edits.rows(4))
    content = bytearray(table.read_bytes())
    content[200:1200] = bytes(1000)
    table.write_bytes(content)
    found = refusals(table)
    assert [(number, reason) for number, reason, _ in found] == [
        (0, "the table is damaged there"),
        (1, "the table is damaged there"),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
@pytest.mark.parametrize("endless", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_refuses_files_that_may_never_end(tmp_path: Path, endless: Any) -> None:
    put(tmp_path / "plain", {"a.png": 10, "b.png": 20})
    endless(tmp_path / "plain" / "a.txt")
    assert refusals(tmp_path / "plain") == [
        (0, "the words cannot be read", "a.txt cannot be read (it is no plain file). Save it as UTF-8.")
    ]
    tree = write_tree(tmp_path / "tree")
    for name in ("0000345/prompt.json", "0000012/7_1.jpg"):
        (tree / name).unlink()
        endless(tree / name)
    assert [detail.partition(" cannot")[2] for _, _, detail in refusals(tree)] == [
        " be read (it is no plain file)."
    ] * 2


def test_refuses_words_that_are_a_book(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": 10})
    (tmp_path / "a.txt").write_text("word " * 300_000)
    ((_, reason, detail),) = refusals(tmp_path)
    assert reason == "the words cannot be read" and "it is larger than 1048576 bytes" in detail


def test_refuses_an_image_of_a_billion_pixels(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    content = struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    put(tmp_path, {"a.png": 10})
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content + bytes(4) + b"IDAT" + bytes(4))
    ((number, _, detail),) = refusals(tmp_path)
    assert number == 1 and "more than 64 megapixels" in detail


@pytest.mark.parametrize("name", ["x" * 5000 + ".jpg", "a\0b.jpg", "/etc/hosts"])
def test_refuses_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "images/n00/0_x.jpg"}]
    ((number, reason, detail),) = refusals(write_objects(tmp_path, images=images, annotations=[]))
    assert (number, reason) == (0, "the entry is malformed") and "cannot be used" in detail


def test_names_of_files_need_be_no_text(tmp_path: Path) -> None:
    """Older systems write names in other encodings."""
    folder = os.fsencode(put(tmp_path / "data", {"a.png": 10}))
    for name, content in ((b"caf\xe9.png", encoded(20)), (b"caf\xe8.png", b"x")):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(content)
    build = Build(tmp_path / "build", open_source(tmp_path / "data"), ())
    run_build(build)
    assert [row["id"] for row in build.rows(0, 0, ("image",))] == ["a", "caf\\udce9"]
    (count,) = count_rows(build)
    assert count.refused == (("an image cannot be read", 1),)


def test_refuses_captions_that_are_no_text(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": 10, "b.png": 20})
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    ((number, reason, detail),) = refusals(tmp_path)
    assert (number, reason) == (1, "the words cannot be read") and detail.startswith("b.txt cannot be read (")


def test_says_where_annotations_are_no_text(tmp_path: Path) -> None:
    file = write_captions(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"A giraffe", b"A g\xefraffe"))
    with pytest.raises(InstructBrushError, match=r"damaged .lexical error: invalid bytes in UTF8 string\.\)"):
        open_source(file)


def cut_annotations(folder: Path) -> Path:
    file = write_objects(folder)
    file.write_bytes(file.read_bytes()[:-40])
    return file


def without_images(folder: Path) -> Path:
    return write_captions(folder, images=[{"id": 9, "file_name": "elsewhere.jpg"}])


def two_annotations(folder: Path) -> Path:
    write_captions(folder)
    write_objects(folder)
    return folder


def file_of(name: str, content: bytes) -> Any:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name if name.endswith((".zip", ".parquet")) else folder

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "none", "none' does not exist. Give the folder or file of a data set."),
        (lambda folder: folder, "holds no rows. Give a folder of images, with captions in .txt files beside"),
        (cut_annotations, "'v3det_2023_v1_train.json' is damaged ("),
        (without_images, "'captions_train2017.json' names images such as 'elsewhere.jpg', which are not in"),
        (
            two_annotations,
            "holds several annotation files: annotations/captions_train2017.json, annotations/v3",
        ),
        (file_of("seeds.json", b'{"a": 1}'), "must be a list of [folder, [seed, …]] (it is not a list)."),
        (file_of("seeds.json", b"[]"), "holds no rows. Fill seeds.json with the script prepare_dataset.py"),
        (file_of("t.parquet", b"PAR1"), "'t.parquet' cannot be read as parquet"),
        (
            file_of("data.zip", b"PK"),
            "'data.zip' is of no known kind. Give a folder, a .parquet table, a list",
        ),
        (file_of("pairs.json", b"[1"), "pairs.json of '"),
    ],
)
def test_says_what_is_wrong_with_a_data_set(tmp_path: Path, write: Any, message: str) -> None:
    place = write(tmp_path)
    with pytest.raises(InstructBrushError) as raised:
        open_source(place)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": "a"}, "'t.parquet' has no column of images such as 'image' or 'source_image'; its"),
        ({"image": "a.png", "caption": "a"}, "'t.parquet': its column 'image' holds string, not images."),
        ({"image": b"x", "caption": 7}, "'t.parquet': its column 'caption' holds int64, not text."),
    ],
)
def test_names_the_column_of_a_table(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    table = tiny_edits.write_table(tmp_path / "t.parquet", [row])
    with pytest.raises(InstructBrushError) as raised:
        open_source(table)
    assert str(raised.value).startswith(message)


def test_says_which_package_reads_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_captions(tmp_path)
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(InstructBrushError, match=r"ijson, which is not installed\. Run: pip install"):
        open_source(file)


def test_stops_when_the_data_is_gone(tmp_path: Path) -> None:
    put(tmp_path / "data", {"a.png": 10})
    source = open_source(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(InstructBrushError, match="data' does not exist any more. Restore it and run again"):
        next(source.rows(0, 1))
