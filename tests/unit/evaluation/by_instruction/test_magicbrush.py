"""Reading MagicBrush: both layouts, masks, captions, malformed files."""

import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instructbrush.core.errors import DataError, EvaluationError
from instructbrush.core.evaluation.by_instruction.datasets.magicbrush import read_magicbrush
from instructbrush.core.regions.mask_files import mask_from_image
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support.tiny_benchmarks import (
    SESSIONS,
    captions,
    erased,
    magicbrush_rows,
    mask_of,
    pixels,
    png,
    words_of,
    write_magicbrush_folder,
    write_parquet,
    write_shards,
)

pytestmark = pytest.mark.slow  # edits or trains for real


@pytest.mark.parametrize("layout", ["folder", "turns", "parquet", "one file", "inside"])
def test_all_layouts_give_the_same_sessions(tmp_path: Path, layout: str) -> None:
    words = tmp_path / "words.json"
    words.write_text(json.dumps(captions()))
    if layout == "parquet":
        found = read_magicbrush(write_shards(tmp_path / "hub", magicbrush_rows(), "dev"), captions=words)
    elif layout == "one file":
        found = read_magicbrush(write_parquet(tmp_path / "some.parquet", magicbrush_rows()), captions=words)
    else:
        folder = write_magicbrush_folder(tmp_path / "test")
        if layout == "turns":
            (folder / "edit_sessions.json").unlink()
        found = read_magicbrush(folder.parent if layout == "inside" else folder, split="test")
    assert [(item.name, item.scope) for item in found.items] == [
        ("139", "3 turns"),
        ("2047", "1 turn"),
        ("30", "2 turns"),
    ]
    of_dev = ("The published figures are of the test split; these are of dev.",) * (layout == "parquet")
    assert found.remarks == ("3 sessions with 6 turns.", *of_dev)
    for source in found.items:
        assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - our own bytes
        item = source.load()
        assert len(item.turns) == SESSIONS[item.name]
        for number, turn in enumerate(item.turns, start=1):
            assert (
                turn.words == words_of(item.name, number)
                and turn.caption == f"block {number}"
                and turn.caption_before is None
            )
            assert torch.equal(turn.source, from_image(pixels(item.name, number - 1)))
            assert (
                turn.truth is not None
                and torch.equal(turn.truth, from_image(pixels(item.name, number)))
                and turn.reference is turn.truth
            )
            assert turn.mask is not None and torch.equal(turn.mask, from_image(mask_of(number))[..., 0])
    assert found.items[0].words == " → ".join(words_of("139", turn) for turn in (1, 2, 3))


def test_sorts_rows_and_accepts_missing_masks(tmp_path: Path) -> None:
    rows = [
        {**row, "mask_img": None if row["img_id"] == "30" else row["mask_img"]} for row in magicbrush_rows()
    ]
    found = read_magicbrush(write_parquet(tmp_path / "dev.parquet", rows[::-1], group=4))
    assert sorted(item.name for item in found.items) == sorted(SESSIONS)
    by_name = {item.name: item.load() for item in found.items}
    assert [turn.words for turn in by_name["139"].turns] == [words_of("139", turn) for turn in (1, 2, 3)]
    assert by_name["30"].turns[0].mask is None and by_name["139"].turns[0].mask is not None
    assert found.remarks == (
        "3 sessions with 6 turns.",
        "CLIP-T was not measured: there are no local descriptions (--captions).",
        "The published figures are of the test split; these are of dev.",
    )


def test_counts_turns_without_captions(tmp_path: Path) -> None:
    words = captions()
    del words["30"], words["139"]["139-output2.png"]
    (tmp_path / "words.json").write_text(json.dumps(words))
    found = read_magicbrush(write_magicbrush_folder(tmp_path / "test"), captions=tmp_path / "words.json")
    assert found.remarks[1] == "CLIP-T leaves out 3 turns without a local description."
    assert [turn.caption for turn in found.items[0].turns] == ["block 1", None, "block 3"]


def test_reads_masks_in_every_form() -> None:
    wanted = from_image(mask_of(2))[..., 0]
    opaque = mask_of(2).convert("RGB").convert("RGBA")
    for image in (mask_of(2), mask_of(2).convert("1"), mask_of(2).convert("RGB"), opaque, erased("30", 2)):
        found = mask_from_image(image)
        assert found is not None and torch.equal(found, wanted)
    assert mask_from_image(pixels("30", 0)) is None


def edited(change: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    rows = magicbrush_rows()
    change(rows)
    return rows


def cut(row: dict[str, Any], column: str) -> None:
    row[column] = {"bytes": row[column]["bytes"][:12], "path": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [row.pop("target_img") for row in rows],
            "has no column 'target_img'; its columns are img_id, turn_index, source_img",
        ),
        (
            lambda rows: rows[1].update(turn_index=1),
            "row 1 (session 139, turn 1) appears twice. Give the files of one download only.",
        ),
        (
            lambda rows: rows.pop(1),
            "session 139: turn 2 is missing (there are 1, 3). Give all files of the split.",
        ),
        (lambda rows: rows[0].update(turn_index=0), "row 0 (session 139, turn 0): turns are counted from 1."),
        (
            lambda rows: rows[3].update(instruction="  "),
            "row 3 (session 2047, turn 1): the instruction is empty.",
        ),
        (lambda rows: rows[0].update(img_id="../139"), "img_id '../139' is not a plain name"),
        (
            lambda rows: rows[2].update(target_img=None),
            "dev.parquet row 2 target_img' is missing: the cell holds no bytes of an image.",
        ),
        (
            lambda rows: rows[2].update(source_img={"bytes": None, "path": "a.png"}),
            "row 2 source_img' is missing",
        ),
        (lambda rows: cut(rows[4], "source_img"), "Image 'dev.parquet row 4 source_img' cannot be read"),
        (
            lambda rows: rows[0].update(mask_img=png(mask_of(1, 32).crop((0, 0, 32, 16)))),
            "turn 1): the mask is 32 x 16, its image 64 x 64, another aspect ratio.",
        ),
        (
            lambda rows: rows[0].update(source_img=png(pixels("1", 0, 8))),
            "row 0 source_img' is 8 x 8: each side needs at least 16 pixels.",
        ),
        (lambda rows: rows.clear(), ""),
    ],
)
def test_rejects_malformed_tables(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], message: str
) -> None:
    rows = edited(change)
    path = tmp_path / "dev.parquet"
    if rows:
        write_parquet(path, rows)
    else:
        import pyarrow.parquet as pq

        whole = pq.read_table(write_parquet(path, magicbrush_rows()))
        pq.write_table(whole.slice(0, 0), path)
        message = "holds no rows. Download the files again."
    with pytest.raises((DataError, EvaluationError), match=re.escape(message)):
        read_magicbrush(path, strict=True)


@pytest.mark.parametrize(
    ("change", "session", "reason"),
    [
        (
            lambda rows: cut(rows[4], "source_img"),
            "30",
            "Image 'dev.parquet row 4 source_img' cannot be read",
        ),
        (
            lambda rows: rows[3].update(instruction="  "),
            "2047",
            "MagicBrush, dev.parquet row 3 (session 2047, turn 1): the instruction is empty.",
        ),
        (
            lambda rows: rows[1].update(target_img=None),
            "139",
            "Image 'dev.parquet row 1 target_img' is missing: the cell holds no bytes",
        ),
        (
            lambda rows: rows[3].update(img_id="../2047"),
            "../2047",
            "MagicBrush: img_id '../2047' is not a plain name",
        ),
    ],
)
def test_leaves_out_session_of_a_bad_row(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], session: str, reason: str
) -> None:
    found = read_magicbrush(write_parquet(tmp_path / "dev.parquet", edited(change)))
    assert [item.name for item in found.items] == [
        name for name in SESSIONS if name != session.removeprefix("../")
    ]
    assert (
        found.remarks[1].startswith(f"Session {session} is left out: {reason}")
        and found.remarks[2] == "Sessions left out: 1."
    )


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_scales_masks_and_counts_them(tmp_path: Path, layout: str) -> None:
    if layout == "folder":
        folder = write_magicbrush_folder(tmp_path / "test")
        mask_of(1, 32).save(folder / "images" / "30" / "30-mask1.png")
        found = read_magicbrush(folder)
    else:
        found = read_magicbrush(
            write_parquet(
                tmp_path / "dev.parquet", edited(lambda rows: rows[4].update(mask_img=png(mask_of(1, 32))))
            )
        )
    assert found.remarks[1] == "1 masks are scaled to their images, which have another size."
    turn = next(item for item in found.items if item.name == "30").load().turns[0]
    assert turn.mask is not None and torch.equal(turn.mask, from_image(mask_of(1))[..., 0])


def test_rejects_missing_and_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        EvaluationError,
        match="nowhere' does not exist. Unpack the test archive, or download the parquet files",
    ):
        read_magicbrush(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match="has no part 'dev': it holds no .parquet files"):
        read_magicbrush(tmp_path)
    hub = write_shards(tmp_path / "hub", magicbrush_rows(), "dev")
    with pytest.raises(
        EvaluationError,
        match="has no part 'test': its .parquet files are dev. Give the folder as it was downloaded",
    ):
        read_magicbrush(hub, split="test")
    first, second = sorted((hub / "data").iterdir())
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DataError,
        match="-00001-of-00002-.*cannot be read as parquet.*It may be cut short: download it again.",
    ):
        read_magicbrush(hub)
    # Damages the data and keeps the footer.
    start = len(content) // 4
    second.write_bytes(content[:start] + bytes(len(content) // 2) + content[start + len(content) // 2 :])
    with pytest.raises((DataError, EvaluationError), match="is damaged|cannot be read"):
        read_magicbrush(hub)
    second.unlink()
    with pytest.raises(
        EvaluationError, match="'hub' holds 1 of the 2 files of 'dev'. Download the missing ones."
    ):
        read_magicbrush(hub)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="need pyarrow, which is not installed. Run: pip install pyarrow"):
        read_magicbrush(first)


def alter_sessions(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / "edit_sessions.json"
    sessions = json.loads(path.read_text())
    changed = change(sessions)
    path.write_text(json.dumps(changed if isinstance(changed, list) else sessions))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["139"].reverse(),
            "session 139, turn 1 starts from '139-output2.png'; it must start from '139-input.png': "
            "turns are in the wrong order.",
        ),
        (
            lambda s: s["30"][1].update(input="30-input.png"),
            "session 30, turn 2 starts from '30-input.png'; it must start from '30-output1.png'",
        ),
        (lambda s: s["30"][0].pop("instruction"), "session 30, turn 1: 'instruction' is missing."),
        (lambda s: s["30"][0].update(mask="../x.png"), "mask '../x.png' is not a plain name"),
        (lambda s: s["2047"].clear(), "session 2047: it has no turns."),
        (lambda s: s.clear(), "lists no sessions."),
        (lambda s: list(s.values()), "'edit_sessions.json' must be a table from img_id to a list of turns."),
    ],
)
def test_rejects_malformed_sessions(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    folder = write_magicbrush_folder(tmp_path / "test")
    alter_sessions(folder, change)
    with pytest.raises(EvaluationError, match=re.escape(message)):
        read_magicbrush(folder, strict=True)


def test_leaves_out_malformed_session(tmp_path: Path) -> None:
    folder = write_magicbrush_folder(tmp_path / "test")
    alter_sessions(folder, lambda sessions: sessions["30"][0].pop("instruction"))
    found = read_magicbrush(folder)
    assert [item.name for item in found.items] == ["139", "2047"]
    assert found.remarks[1:3] == (
        "Session 30 is left out: MagicBrush, session 30, turn 1: 'instruction' is missing. "
        "Unpack the benchmark again.",
        "Sessions left out: 1.",
    )
    alter_sessions(folder, lambda sessions: [turns.clear() for turns in sessions.values()] and None)
    with pytest.raises(EvaluationError, match="^MagicBrush, session 139: it has no turns."):
        read_magicbrush(folder)


def test_rejects_malformed_folders(tmp_path: Path) -> None:
    folder = write_magicbrush_folder(tmp_path / "test")
    image = folder / "images" / "30" / "30-output1.png"
    mask_of(1, 32).crop((0, 0, 32, 16)).save(folder / "images" / "30" / "30-mask1.png")
    with pytest.raises(
        EvaluationError,
        match="session 30, turn 1: the mask is 32 x 16, its image 64 x 64, another aspect ratio.",
    ):
        read_magicbrush(folder, strict=True)
    mask_of(1).save(folder / "images" / "30" / "30-mask1.png")
    content = image.read_bytes()
    for damaged, message in (
        (b"", "'30-output1.png' is empty"),
        (b"no image", "'30-output1.png' cannot be read"),
    ):
        image.write_bytes(damaged)
        with pytest.raises(EvaluationError, match=message):
            read_magicbrush(folder, strict=True)
    image.unlink()
    with pytest.raises(
        EvaluationError, match="Image '30-output1.png' is missing in .*30. Unpack the benchmark again."
    ):
        read_magicbrush(folder, strict=True)
    image.write_bytes(content)
    for name in ("edit_sessions.json", "local_descriptions.json"):
        kept = (folder / name).read_text()
        (folder / name).write_text(kept[:20])
        with pytest.raises(EvaluationError, match=f"'{name}' cannot be read"):
            read_magicbrush(folder)
        (folder / name).write_text(kept)
    (folder / "local_descriptions.json").write_text('["a wall"]')
    with pytest.raises(EvaluationError, match="'local_descriptions.json' must be {img_id: {"):
        read_magicbrush(folder)
    with pytest.raises(
        EvaluationError,
        match="Captions '.*none.json' do not exist. Give MagicBrush's local_descriptions.json.",
    ):
        read_magicbrush(folder, captions=tmp_path / "none.json")
    for name in ("local_descriptions.json", "edit_sessions.json", "edit_turns.json"):
        (folder / name).unlink()
    with pytest.raises(EvaluationError, match="there is neither edit_sessions.json nor edit_turns.json in"):
        read_magicbrush(folder)


def test_names_images_that_change_during_a_run(tmp_path: Path) -> None:
    folder = write_magicbrush_folder(tmp_path / "test")
    source = read_magicbrush(folder).items[1]
    image = folder / "images" / "2047" / "2047-output1.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:60])
    with pytest.raises(EvaluationError, match="Item '2047': Image '2047-output1.png' cannot be read"):
        source.load()
    image.write_bytes(whole)
    pixels("1", 0).save(folder / "images" / "2047" / "2047-mask1.png")
    with pytest.raises(
        EvaluationError, match="Item '2047': Mask '2047-mask1.png' is a colored image without transparency"
    ):
        source.load()
    table = write_parquet(tmp_path / "dev.parquet", magicbrush_rows())
    last = read_magicbrush(table).items[2]
    write_parquet(table, magicbrush_rows()[:5], group=2)
    with pytest.raises(
        EvaluationError, match="Item '30': 'dev.parquet' has no row 5 any more. It was changed during the run"
    ):
        last.load()
