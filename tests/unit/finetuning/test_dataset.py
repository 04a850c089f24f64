"""The data that fine-tuning reads: tables, folders, lists, and what is wrong with them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from instructbrush.core.errors import DataError, PairError
from instructbrush.core.finetuning.dataset import TableBlock, find_blocks
from instructbrush.core.finetuning.stream import EditStream
from instructbrush.core.finetuning.training_pairs import PairRecord
from instructbrush.tests.support import tiny_edits
from instructbrush.tests.support.tiny_benchmarks import png


def read_records(place: Path) -> list[PairRecord]:
    return [record for block in find_blocks([place]) for record in block.records()]


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255)


def test_reads_tables(tmp_path: Path) -> None:
    records = read_records(tiny_edits.write_tables(tmp_path))
    assert [record.words for record in records] == [f"invert part {number}" for number in range(10)]
    assert records[8].name == "train-00001-of-00002.parquet row 1"
    for number, record in enumerate(records):
        before, after, mask = tiny_edits.images(number)
        pair = record.read()
        assert torch.equal(pair.before, as_tensor(before))
        assert torch.equal(pair.after, as_tensor(after))
        expected_mask = torch.ones(64, 64) if number % 3 == 2 else as_tensor(mask)[..., 0]
        assert torch.equal(pair.mask, expected_mask)


def test_folders_and_tables_give_the_same_pairs(tmp_path: Path) -> None:
    table = read_records(tiny_edits.write_tables(tmp_path / "tables"))
    folder = read_records(tiny_edits.write_folder(tmp_path / "folder"))
    assert [record.mask is None for record in folder] == [True, False, False]
    for from_folder, from_table in zip(folder[1:], table[1:3], strict=True):
        assert from_folder.words == from_table.words
        assert torch.equal(from_folder.read().before, from_table.read().before)
    assert torch.equal(folder[1].read().mask, table[1].read().mask)


def test_pairs_of_tables_without_mask_column_are_free_form(tmp_path: Path) -> None:
    rows = tiny_edits.rows(3)
    for row in rows:
        del row["mask_image"]
    records = read_records(tiny_edits.write_table(tmp_path / "free.parquet", rows))
    assert len(records) == 3
    assert all((record.read().mask == 1).all() for record in records)


class TestIndirectInstructions:
    def test_reads_lists_of_texts_from_tables(self, tmp_path: Path) -> None:
        rows = tiny_edits.with_reasoning(tiny_edits.rows(4))
        records = read_records(tiny_edits.write_table(tmp_path / "lists.parquet", rows))
        assert [record.reasoning for record in records] == [tiny_edits.INDIRECT[n % 3] for n in range(4)]
        assert [record.words for record in records] == [row["edit_prompt"] for row in rows]

    def test_reads_single_texts_from_tables(self, tmp_path: Path) -> None:
        rows = tiny_edits.with_reasoning(tiny_edits.rows(4))
        for row in rows:
            row["reasoning"] = next(iter(row["reasoning"]), None)
        records = read_records(tiny_edits.write_table(tmp_path / "texts.parquet", rows))
        assert [record.reasoning for record in records] == [tiny_edits.INDIRECT[n % 3][:1] for n in range(4)]

    def test_reads_texts_and_lists_from_folders(self, tmp_path: Path) -> None:
        folder = tiny_edits.write_folder(tmp_path / "folder", 4)
        values = ["make it night ", ["it is late", " ", None], None, ""]
        write_reasoning(folder, values)
        records = read_records(folder)
        assert [record.reasoning for record in records] == [("make it night",), ("it is late",), (), ()]

    def test_rejects_other_values_in_folders(self, tmp_path: Path) -> None:
        folder = tiny_edits.write_folder(tmp_path / "folder", 4)
        write_reasoning(folder, [None, {"text": "it is late"}, None, None])
        message = "^Pair '1 of folder': its reasoning is {'text': 'it is late'}; a text or a list"
        with pytest.raises(PairError, match=message):
            find_blocks([folder], strict=True)
        assert [record.words for record in read_records(folder)] == [f"invert part {n}" for n in (0, 2, 3)]

    def test_rejects_other_values_in_tables(self, tmp_path: Path) -> None:
        rows = [{**row, "reasoning": 7} for row in tiny_edits.rows(4)]
        table = tiny_edits.write_table(tmp_path / "numbers.parquet", rows)
        message = "^'numbers.parquet': its column 'reasoning' holds int64, not text. Write instructions"
        with pytest.raises(DataError, match=message):
            find_blocks([table])


def write_reasoning(folder: Path, values: list[Any]) -> None:
    """Gives the pairs of a folder indirect instructions."""
    entries = json.loads((folder / "pairs.json").read_text())
    for entry, value in zip(entries, values, strict=True):
        entry["reasoning"] = value
    (folder / "pairs.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    "names",
    [
        ("original_image", "edited_image", "edit_prompt", "mask_image"),
        ("input_image", "edited_image", "edit_prompt", "mask"),
        ("source_img", "target_img", "instruction", "mask_img"),
        ("input_image", "output_image", "edit", "mask_image"),
        ("src_img", "edited_img", "edited_prompt_list", "mask_image"),
    ],
)
def test_reads_tables_with_other_column_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    usual_names = ("source_image", "edited_image", "edit_prompt", "mask_image")
    rows = tiny_edits.rows(4)
    renamed = [
        {name: row[usual] for name, usual in zip(names, usual_names, strict=True)}
        | {"input": "a caption", "original_prompt": "a caption"}
        for row in rows
    ]
    if names[2] == "edited_prompt_list":
        for row in renamed:
            row[names[2]] = [row[names[2]], "another"]
    expected = read_records(tiny_edits.write_table(tmp_path / "usual.parquet", rows))
    found = read_records(tiny_edits.write_table(tmp_path / "renamed.parquet", renamed))
    for one, other in zip(found, expected, strict=True):
        pair, expected_pair = one.read(), other.read()
        assert pair.words == expected_pair.words
        for part in ("before", "after", "mask"):
            assert torch.equal(getattr(pair, part), getattr(expected_pair, part))


def test_reads_columns_of_every_type_that_holds_bytes_or_text(tmp_path: Path) -> None:
    rows = tiny_edits.rows(2)
    expected = read_records(tiny_edits.write_table(tmp_path / "usual.parquet", rows))
    before, after, mask = (
        [each["bytes"] if isinstance(each, dict) else each for each in (row[name] for row in rows)]
        for name in ("source_image", "edited_image", "mask_image")
    )
    words = [row["edit_prompt"] for row in rows]
    # Cells of a fixed size; decoders ignore what follows a PNG.
    longest = max(map(len, before))
    fixed = pyarrow.array([each.ljust(longest, b"\0") for each in before], pyarrow.binary(longest))
    texts = [pyarrow.array(words, kind) for kind in (pyarrow.large_string(), pyarrow.string_view())]
    texts.append(pyarrow.array(words).dictionary_encode())
    texts.append(pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(words), 1))
    for number, text in enumerate(texts):
        table = pyarrow.table(
            {
                "source_image": fixed,
                "edited_image": pyarrow.array(after, pyarrow.binary_view()),
                "mask_image": pyarrow.array(mask, pyarrow.large_binary()),
                "edit_prompt": text,
            }
        )
        pyarrow.parquet.write_table(table, tmp_path / f"{number}.parquet")
        found = read_records(tmp_path / f"{number}.parquet")
        for one, other in zip(found, expected, strict=True):
            assert one.read().words == other.read().words
            assert torch.equal(one.read().before, other.read().before)
            assert torch.equal(one.read().after, other.read().after)


@pytest.mark.parametrize("name", ["source_image", "edit_prompt", "mask_image", "reasoning"])
def test_rejects_tables_with_a_column_twice(tmp_path: Path, name: str) -> None:
    (row,) = tiny_edits.rows(1)
    row = {**row, "reasoning": ["it is late"]}
    table = pyarrow.Table.from_pylist([row])
    table = table.append_column(name, table.column(name))
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=f"^'t.parquet' has 2 columns '{name}'. Rename or remove all but one"):
        find_blocks([tmp_path / "t.parquet"])


def test_reads_tables_with_another_column_twice(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{**row, "note": "x"} for row in tiny_edits.rows(1)])
    table = table.append_column("note", table.column("note"))
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert read_records(tmp_path / "t.parquet")[0].read().words


def test_reads_folders_with_words_beside_the_images(tmp_path: Path) -> None:
    for number in range(2):
        before, after, mask = tiny_edits.images(number)
        for side, image in (("before", before), ("after", after), ("masks", mask)):
            (tmp_path / side).mkdir(exist_ok=True)
            image.save(tmp_path / side / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"invert part {number}")
    records = read_records(tmp_path)
    assert [record.words for record in records] == ["invert part 0", "invert part 1"]
    for number, record in enumerate(records):
        assert torch.equal(record.read().mask, as_tensor(tiny_edits.images(number)[2])[..., 0])


def test_rejects_folders_without_words(tmp_path: Path) -> None:
    folder = tiny_edits.write_folder(tmp_path / "folder", 2)
    entries = json.loads((folder / "pairs.json").read_text())
    for entry in entries:
        del entry["words"]
    (folder / "pairs.json").write_text(json.dumps(entries))
    message = r"^Data: '.*' holds 2 pairs without words\. Fine-tuning needs words: write pairs\.json"
    with pytest.raises(PairError, match=message):
        find_blocks([folder])


def test_logs_the_first_skipped_entries_and_counts_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_edits.write_folder(tmp_path / "folder")
    entries = json.loads((folder / "pairs.json").read_text())
    missing = [{"before": "gone.png", "after": "gone.png"}] * 30
    (folder / "pairs.json").write_text(json.dumps([*entries, *missing]))
    assert len(read_records(folder)) == 3
    assert [record.getMessage() for record in caplog.records] == [
        *["instructbrush: skipped: pairs.json of 'folder': 'gone.png' does not exist."] * 20,
        "instructbrush: 30 pairs of 'folder' were skipped, 3 remain.",
    ]


def test_follows_links_to_folders(tmp_path: Path) -> None:
    tiny_edits.write_tables(tmp_path / "far")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/linked").symlink_to(tmp_path / "far")
    assert len(read_records(tmp_path / "near")) == 10


def test_reads_lists_given_by_name(tmp_path: Path) -> None:
    folder = tiny_edits.write_folder(tmp_path / "folder")
    names = [record.name for record in read_records(folder / "pairs.json")]
    assert names == [record.name for record in read_records(folder)]


def test_scales_images_and_mask_to_one_size(tmp_path: Path) -> None:
    (row,) = tiny_edits.rows(1)
    row["source_image"] = png(tiny_edits.images(0, 128, 128)[0])
    row["mask_image"] = png(tiny_edits.images(0, 32, 32)[2])
    pair = read_records(tiny_edits.write_table(tmp_path / "t.parquet", [row]))[0].read()
    before, after, mask = tiny_edits.images(0)
    assert torch.equal(pair.after, as_tensor(after))
    assert (pair.before - as_tensor(before)).abs().mean() < 0.05
    assert pair.mask.shape == (64, 64)
    assert torch.equal((pair.mask > 0.5).float(), as_tensor(mask)[..., 0])


def test_reads_masks_from_transparency(tmp_path: Path) -> None:
    """ComfyUI's mask editor erases the alpha channel where the mask is."""
    (row,) = tiny_edits.rows(1)
    before, _, mask = tiny_edits.images(0)
    erased = before.convert("RGBA")
    erased.putalpha(mask.point(lambda value: 255 - value))
    row["mask_image"] = png(erased)
    pair = read_records(tiny_edits.write_table(tmp_path / "t.parquet", [row]))[0].read()
    assert torch.equal(pair.mask, as_tensor(mask)[..., 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("edit_prompt"), "'edit_prompt'; its columns are source_image"),
        (lambda row: row.pop("edited_image"), "'edited_image'"),
    ],
)
def test_rejects_tables_without_a_required_column(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    (row,) = tiny_edits.rows(1)
    change(row)
    with pytest.raises(DataError, match=f"^'t.parquet' has no column {message}"):
        find_blocks([tiny_edits.write_table(tmp_path / "t.parquet", [row])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.update(edit_prompt=" "),
            "^Pair 't.parquet row 0' has no words. Describe the edit, or remove the pair.",
        ),
        (lambda row: row.update(edit_prompt=None), "^Pair 't.parquet row 0' has no words"),
        (
            lambda row: row.update(source_image=None),
            "^Image 't.parquet row 0 source_image' is missing: the cell holds no bytes",
        ),
        (
            lambda row: row["edited_image"].update(bytes=row["edited_image"]["bytes"][:80]),
            "^Image 't.parquet row 0 edited_image' cannot be read",
        ),
        (
            lambda row: row.update(edited_image=png(tiny_edits.images(0, 32)[1])),
            "row 0': before is 64 x 64, after is 64 x 32, which is another aspect ratio",
        ),
        (
            lambda row: row.update(mask_image=png(tiny_edits.images(0, 32, 64)[2])),
            "^Pair 't.parquet row 0': Mask: it is 64 x 32, the image 64 x 64, which is another",
        ),
        (
            lambda row: row.update(mask_image=row["source_image"]),
            "^Pair 't.parquet row 0': Mask 't.parquet row 0 mask_image' is a colored image without",
        ),
        (
            lambda row: row.update(mask_image=png(tiny_edits.images(0)[2].point(lambda _: 0))),
            "the mask is black all over. Paint white where the edit acts",
        ),
    ],
)
def test_names_malformed_rows(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    (row,) = tiny_edits.rows(1)
    change(row)
    path = tiny_edits.write_table(tmp_path / "t.parquet", [row])
    with pytest.raises(PairError, match=message):
        read_records(path)[0].read()
    stream = EditStream(find_blocks([path]), 64)
    message = r"^Data: none of the 1 pairs can be used\. (Pair|Image) 't\.parquet row 0"
    with pytest.raises(PairError, match=message):
        next(stream.batches(0, 1))


def test_rejects_missing_and_empty_folders(tmp_path: Path) -> None:
    message = "nowhere' does not exist. Give a folder with .parquet files or with pairs.json."
    with pytest.raises(PairError, match=message):
        find_blocks([tmp_path / "nowhere"])
    message = "holds neither .parquet files nor pairs. Fine-tuning needs words: write pairs.json"
    with pytest.raises(PairError, match=message):
        find_blocks([tmp_path])


def test_rejects_malformed_lists(tmp_path: Path) -> None:
    folder = tiny_edits.write_folder(tmp_path / "folder")
    entries = json.loads((folder / "pairs.json").read_text())
    (folder / "pairs.json").write_text(json.dumps([{**entries[0], "words": ""}, entries[1]]))
    with pytest.raises(PairError, match="^Pair '0 of folder' has no words"):
        read_records(folder)[0].read()
    (folder / "pairs.json").write_text(json.dumps([{**entries[0], "mask": "../up.png"}]))
    with pytest.raises(PairError, match="'../up.png' is outside the folder"):
        find_blocks([folder])
    (folder / "pairs.json").write_text("[]")
    with pytest.raises(PairError, match="holds neither .parquet files nor pairs"):
        find_blocks([folder])


def test_rejects_damaged_tables(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="'cut.parquet' cannot be read as parquet"):
        find_blocks([tmp_path / "cut.parquet"])


def test_digest_identifies_the_data_wherever_it_is_stored(tmp_path: Path) -> None:
    data = tiny_edits.write_tables(tmp_path / "a")
    moved = tiny_edits.write_tables(tmp_path / "b")
    other = tiny_edits.write_tables(tmp_path / "c", 8)
    digest = EditStream(find_blocks([data]), 64).digest
    assert EditStream(find_blocks([moved]), 64).digest == digest
    assert EditStream(find_blocks([other]), 64).digest != digest


def test_digest_depends_on_the_number_of_rows(tmp_path: Path) -> None:
    block = find_blocks([tiny_edits.write_tables(tmp_path)])[0]
    assert isinstance(block, TableBlock)
    assert EditStream([replace(block, count=1)], 64).digest != EditStream([block], 64).digest


def test_keeps_only_the_first_faults_of_a_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_edits.write_folder(tmp_path / "folder")
    entries = json.loads((folder / "pairs.json").read_text())
    lines = [*map(json.dumps, entries), *["junk"] * 30]
    (folder / "pairs.json").unlink()
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    assert find_blocks([folder])[0].count == len(entries)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 21
    assert messages[-1].endswith(f"30 pairs of 'folder' were skipped, {len(entries)} remain.")
