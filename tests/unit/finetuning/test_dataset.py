"""What fine-tuning reads, and in which order."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instructbrush.core.errors import DataError, PairError
from instructbrush.core.finetuning import stream as streams
from instructbrush.core.finetuning.dataset import Row, TableBlock, Triplet, find_blocks
from instructbrush.core.finetuning.stream import EditStream
from instructbrush.tests.support import tiny_edits
from instructbrush.tests.support.tiny_benchmarks import png


def all_rows(place: Path) -> list[Row]:
    return [row for block in find_blocks([place]) for row in block.rows()]


def as_tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255)


def test_tables_and_folders_hold_the_same_pairs(tmp_path: Path) -> None:
    tables = all_rows(tiny_edits.write_tables(tmp_path / "tables"))
    assert [row.words for row in tables] == [f"invert part {number}" for number in range(10)]
    assert tables[8].name == "train-00001-of-00002.parquet row 1"
    for number, row in enumerate(tables):
        before, after, mask = (as_tensor(image) for image in tiny_edits.images(number))
        read = row.read()
        assert torch.equal(read.before, before) and torch.equal(read.after, after)
        assert torch.equal(read.mask, torch.ones(64, 64) if number % 3 == 2 else mask[..., 0])
    folder = all_rows(tiny_edits.write_folder(tmp_path / "folder"))
    assert [row.mask is None for row in folder] == [True, False, False]
    for ours, theirs in zip(folder[1:], tables[1:3], strict=True):
        assert torch.equal(ours.read().before, theirs.read().before) and ours.words == theirs.words
    assert torch.equal(folder[1].read().mask, tables[1].read().mask)


def test_tables_without_masks_are_free_form(tmp_path: Path) -> None:
    content = tiny_edits.rows(3)
    for row in content:
        del row["mask_image"]
    assert all(
        (row.read().mask == 1).all()
        for row in all_rows(tiny_edits.write_table(tmp_path / "free.parquet", content))
    )


def test_indirect_instructions_are_texts_or_lists_of_texts(tmp_path: Path) -> None:
    content = tiny_edits.with_reasoning(tiny_edits.rows(4))
    found = [tiny_edits.INDIRECT[number % 3] for number in range(4)]
    tables = all_rows(tiny_edits.write_table(tmp_path / "lists.parquet", content))
    assert [row.reasoning for row in tables] == found and [row.words for row in tables] == [
        row["edit_prompt"] for row in content
    ]
    for row in content:
        row["reasoning"] = next(iter(row["reasoning"]), None)
    assert [
        row.reasoning for row in all_rows(tiny_edits.write_table(tmp_path / "texts.parquet", content))
    ] == [texts[:1] for texts in found]
    folder = tiny_edits.write_folder(tmp_path / "folder", 4)
    listed = json.loads((folder / "pairs.json").read_text())
    for number, given in enumerate(["make it night ", ["it is late", " ", None], None, ""]):
        listed[number]["reasoning"] = given
    (folder / "pairs.json").write_text(json.dumps(listed))
    assert [row.reasoning for row in all_rows(folder)] == [("make it night",), ("it is late",), (), ()]
    listed[1]["reasoning"] = {"text": "it is late"}
    (folder / "pairs.json").write_text(json.dumps(listed))
    told = (
        "^Pair '1 of folder': its reasoning is {'text': 'it is late'}; a text or a list of texts is needed."
    )
    with pytest.raises(PairError, match=told):
        find_blocks([folder], strict=True)
    assert [row.words for row in all_rows(folder)] == [f"invert part {number}" for number in (0, 2, 3)]
    for row in content:
        row["reasoning"] = 7
    with pytest.raises(PairError, match="^Pair 'numbers.parquet row 0': its reasoning is 7; a text"):
        all_rows(tiny_edits.write_table(tmp_path / "numbers.parquet", content))[0].read()


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
def test_tables_with_the_columns_of_others(tmp_path: Path, names: tuple[str, ...]) -> None:
    ours = tiny_edits.rows(4)
    content = [
        {
            name: row[usual]
            for name, usual in zip(
                names, ("source_image", "edited_image", "edit_prompt", "mask_image"), strict=True
            )
        }
        for row in ours
    ]
    for row in content:
        row["input"] = row["original_prompt"] = "a caption"
        if names[2] == "edited_prompt_list":
            row[names[2]] = [row[names[2]], "another"]
    first, second = (
        all_rows(tiny_edits.write_table(tmp_path / name, rows))
        for name, rows in (("ours.parquet", ours), ("theirs.parquet", content))
    )
    for one, other in zip(first, second, strict=True):
        read, again = one.read(), other.read()
        assert read.words == again.words and all(
            torch.equal(getattr(read, part), getattr(again, part)) for part in ("before", "after", "mask")
        )


def test_folders_with_words_beside_the_images(tmp_path: Path) -> None:
    for number, (before, after, mask) in enumerate(map(tiny_edits.images, range(2))):
        for side, image in (("before", before), ("after", after), ("masks", mask)):
            (tmp_path / side).mkdir(exist_ok=True)
            image.save(tmp_path / side / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"invert part {number}")
    rows = all_rows(tmp_path)
    assert [row.words for row in rows] == ["invert part 0", "invert part 1"]
    assert all(
        torch.equal(row.read().mask, as_tensor(tiny_edits.images(number)[2])[..., 0])
        for number, row in enumerate(rows)
    )
    for file in tmp_path.glob("*.txt"):
        file.unlink()
    with pytest.raises(
        PairError,
        match=r"^Data: '.*' holds 2 pairs without words\. Fine-tuning needs words: write pairs\.json",
    ):
        find_blocks([tmp_path])


def test_entries_that_were_left_out_are_told_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_edits.write_folder(tmp_path / "folder")
    entries = json.loads((folder / "pairs.json").read_text())
    (folder / "pairs.json").write_text(
        json.dumps([*entries, *({"before": "gone.png", "after": "gone.png"} for _ in range(30))])
    )
    assert len(all_rows(folder)) == 3
    assert [record.getMessage() for record in caplog.records] == [
        *["instructbrush: skipped: pairs.json of 'folder': 'gone.png' does not exist."] * 20,
        "instructbrush: 30 pairs of 'folder' were skipped, 3 remain.",
    ]


def test_linked_folders_of_tables_and_lists_by_name_are_read(tmp_path: Path) -> None:
    tiny_edits.write_tables(tmp_path / "far")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/linked").symlink_to(tmp_path / "far")
    assert len(all_rows(tmp_path / "near")) == 10
    folder = tiny_edits.write_folder(tmp_path / "folder")
    assert [row.name for row in all_rows(folder / "pairs.json")] == [row.name for row in all_rows(folder)]


def test_images_and_masks_of_one_aspect_ratio_are_brought_to_one_size(tmp_path: Path) -> None:
    (row,) = tiny_edits.rows(1)
    row["source_image"] = png(tiny_edits.images(0, 128, 128)[0])
    row["mask_image"] = png(tiny_edits.images(0, 32, 32)[2])
    read = all_rows(tiny_edits.write_table(tmp_path / "t.parquet", [row]))[0].read()
    before, after, mask = (as_tensor(image) for image in tiny_edits.images(0))
    assert torch.equal(read.after, after) and (read.before - before).abs().mean() < 0.05
    assert read.mask.shape == (64, 64) and torch.equal((read.mask > 0.5).float(), mask[..., 0])


def test_masks_of_the_mask_editor_are_read(tmp_path: Path) -> None:
    (row,) = tiny_edits.rows(1)
    mask = tiny_edits.images(0)[2]
    erased = tiny_edits.images(0)[0].convert("RGBA")
    erased.putalpha(mask.point(lambda value: 255 - value))
    row["mask_image"] = png(erased)
    assert torch.equal(
        all_rows(tiny_edits.write_table(tmp_path / "t.parquet", [row]))[0].read().mask,
        as_tensor(mask)[..., 0],
    )


class TestOrder:
    @pytest.fixture
    def stream(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditStream:
        monkeypatch.setattr(streams, "WINDOW", 5)
        return EditStream(find_blocks([tiny_edits.write_tables(tmp_path, 17)]), 64, seed=3)

    def test_every_epoch_is_everything_in_another_order(self, stream: EditStream) -> None:
        epochs = [
            [stream.row(index).name for index in range(start, start + len(stream))] for start in (0, 17, 34)
        ]
        assert len(stream) == 17 and all(len(set(epoch)) == 17 for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert [stream.row(index).name for index in range(17)] == epochs[0]

    def test_a_place_means_the_same_for_any_number_of_processes_and_wherever_reading_begins(
        self, stream: EditStream
    ) -> None:
        def drawn(start: int, size: int, process: int = 0, processes: int = 1, batches: int = 4) -> list[Any]:
            found = stream.batches(start, size, process, processes)
            samples = [sample for _, batch in zip(range(batches), found, strict=False) for sample in batch]
            found.close()
            return samples

        whole = drawn(0, 4, batches=6)
        assert [sample.index for sample in whole] == list(range(24))
        shares = [drawn(0, 2, process, 2, batches=6) for process in range(2)]
        assert [sample.index for sample in shares[1]] == list(range(1, 24, 2))
        again = [sample for pair in zip(*shares, strict=True) for sample in pair]
        for one, other in [
            *zip(whole, again, strict=True),
            *zip(whole[12:], drawn(12, 4, batches=3), strict=True),
        ]:
            assert one.words == other.words and one.index == other.index
            assert all(
                torch.equal(getattr(one, name), getattr(other, name)) for name in ("before", "after", "mask")
            )

    def test_processes_share_the_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        blocks = find_blocks([tiny_edits.write_table(tmp_path / "all.parquet", tiny_edits.rows(16), group=4)])
        stream = EditStream(blocks, 64)
        read: list[int] = []
        rows_of = TableBlock.rows
        monkeypatch.setattr(TableBlock, "rows", lambda block: read.append(block.group) or rows_of(block))
        for index in range(1, 16, 4):
            stream.row(index)
        assert len(read) == 1

    def test_a_bad_pair_does_not_take_another_of_its_name_away(self, tmp_path: Path) -> None:
        folders = [tiny_edits.write_folder(tmp_path / place / "pairs") for place in ("bad", "good")]
        (folders[0] / "0_before.png").write_bytes(b"no image")
        stream = EditStream(find_blocks(folders), 64)
        rows = [stream.row(index) for index in range(12)]
        assert len({row.name for row in rows}) == 3
        found = stream.batches(0, 12)
        samples = next(found)
        found.close()
        bad = folders[0] / "0_before.png"
        assert [
            sample.words for sample, row in zip(samples, rows, strict=True) if row.before.content != bad
        ] == [row.words for row in rows if row.before.content != bad]
        assert list(stream.skipped) == ["0 of pairs"]

    def test_masks_are_left_out_by_the_share_that_was_asked_for(self, tmp_path: Path) -> None:
        blocks = find_blocks([tiny_edits.write_tables(tmp_path)])
        for share, white in ((0.0, 3), (1.0, 10)):
            stream = EditStream(blocks, 64, free_share=share)
            assert (
                sum(bool((stream.sample(index, stream.row(index)).mask == 1).all()) for index in range(10))
                == white
            )


class TestFraming:
    def test_images_and_mask_stay_in_place(self) -> None:
        grid = torch.rand(40, 70, generator=torch.Generator().manual_seed(0))
        triplet = Triplet(grid[..., None].repeat(1, 1, 3), 1 - grid[..., None].repeat(1, 1, 3), grid, "x")
        places = set()
        for seed in range(12):
            framed = triplet.framed(32, np.random.default_rng(seed), flip=0.5)
            assert framed.before.shape == framed.after.shape == (32, 32, 3) and framed.mask.shape == (32, 32)
            torch.testing.assert_close(framed.before, framed.mask[..., None].expand(-1, -1, 3))
            torch.testing.assert_close(framed.after, 1 - framed.before, rtol=0, atol=1e-5)
            places.add(float(framed.mask[0, 0]))
        assert len(places) > 4
        assert torch.equal(triplet.framed(32).mask, triplet.framed(32).mask)

    def test_some_of_the_region_is_in_every_crop(self) -> None:
        mask = torch.zeros(32, 320)
        mask[4:9, 300:304] = 1
        triplet = Triplet(torch.rand(32, 320, 3), torch.rand(32, 320, 3), mask, "x")
        assert all(triplet.framed(32, np.random.default_rng(seed)).mask.max() > 0.9 for seed in range(20))

    def test_a_square_of_the_right_size_is_left_as_it_is(self) -> None:
        triplet = Triplet(torch.rand(16, 16, 3), torch.rand(16, 16, 3), torch.rand(16, 16), "x")
        assert torch.equal(triplet.framed(16).before, triplet.before)
        assert torch.equal(triplet.framed(16, np.random.default_rng(0), flip=1.0).mask, triplet.mask.flip(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.pop("edit_prompt"),
            "^'t.parquet' has no column 'edit_prompt'; its columns are source_image",
        ),
        (lambda row: row.pop("edited_image"), "^'t.parquet' has no column 'edited_image'"),
        (
            lambda row: row.update(edit_prompt=" "),
            "^Pair 't.parquet row 0' has no words. Say what the edit is",
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
            "^Pair 't.parquet row 0': Mask 't.parquet row 0 mask_image' is a coloured image without transparency",
        ),
        (
            lambda row: row.update(mask_image=png(tiny_edits.images(0)[2].point(lambda _: 0))),
            "the mask is black all over. Paint white where the edit acts",
        ),
    ],
)
def test_malformed_rows_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    row = tiny_edits.rows(1)[0]
    change(row)
    path = tiny_edits.write_table(tmp_path / "t.parquet", [row])
    with pytest.raises((DataError, PairError), match=message):
        all_rows(path)[0].read()
    if "column" not in message:
        stream = EditStream(find_blocks([path]), 64)
        with pytest.raises(
            PairError, match=r"^Data: none of the 1 pairs can be used\. (Pair|Image) 't\.parquet row 0"
        ):
            next(stream.batches(0, 1))


def test_malformed_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PairError, match="nowhere' does not exist. Give a folder with .parquet files or with pairs.json."
    ):
        find_blocks([tmp_path / "nowhere"])
    with pytest.raises(
        PairError, match="holds neither .parquet files nor pairs. Fine-tuning needs words: write pairs.json"
    ):
        find_blocks([tmp_path])
    folder = tiny_edits.write_folder(tmp_path / "folder")
    entries = json.loads((folder / "pairs.json").read_text())
    (folder / "pairs.json").write_text(json.dumps([{**entries[0], "words": ""}, entries[1]]))
    with pytest.raises(PairError, match="^Pair '0 of folder' has no words"):
        all_rows(folder)[0].read()
    (folder / "pairs.json").write_text(json.dumps([{**entries[0], "mask": "../up.png"}]))
    with pytest.raises(PairError, match="'../up.png' is outside the folder"):
        find_blocks([folder])
    (folder / "pairs.json").write_text("[]")
    with pytest.raises(PairError, match="holds neither .parquet files nor pairs"):
        find_blocks([folder])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="'cut.parquet' cannot be read as parquet"):
        find_blocks([tmp_path / "cut.parquet"])


def test_the_digest_tells_data_from_other_data(tmp_path: Path) -> None:
    (
        tiny_edits.write_tables(tmp_path / "a"),
        tiny_edits.write_tables(tmp_path / "b"),
        tiny_edits.write_tables(tmp_path / "c", 8),
    )
    first, moved, other = (EditStream(find_blocks([tmp_path / name]), 64).digest for name in "abc")
    assert first == moved != other
    block = find_blocks([tmp_path / "a"])[0]
    assert (
        isinstance(block, TableBlock)
        and EditStream([replace(block, count=1)], 64).digest != EditStream([block], 64).digest
    )
