"""Layouts of folders of pairs, and the names in lists."""

import json
from pathlib import Path
from typing import Any

import pytest

from instructbrush.core.errors import PairError
from instructbrush.core.pairs.layouts import pairs_below, pairs_in
from instructbrush.core.pairs.pairs import find_listed
from instructbrush.tests.unit.pairs.flat_images import AFTER, BEFORE, MASK, put, shade, sound


@pytest.mark.parametrize(
    "sides",
    [
        ("before", "after"),
        ("Before", "AFTER"),
        ("original_images", "edited_images"),
        ("input", "output"),
        ("inputs", "outputs"),
        ("source-imgs", "target-imgs"),
        ("a", "b"),
    ],
)
@pytest.mark.parametrize("masks", ["mask", "masks", "mask_images", None])
def test_reads_two_folders_and_one_of_masks(
    tmp_path: Path, sides: tuple[str, str], masks: str | None
) -> None:
    put(
        tmp_path,
        **{f"{sides[0]}/{name}.png": BEFORE for name in ("10", "2")},
        **{f"{sides[1]}/{name}.JPG": AFTER for name in ("10", "2")},
    )
    if masks:
        put(tmp_path, **{f"{masks}/2.png": MASK})
    pairs = pairs_in(tmp_path)
    assert [pair.mask is not None for pair in pairs] == [masks is not None, False]
    images = [(pair.before.parent.name, pair.after.parent.name) for pair in pairs]
    assert [pair.name for pair in pairs] == ["2", "10"] and images == [sides, sides]


@pytest.mark.parametrize(
    "names",
    [
        ("7_0.png", "7_1.png", "7_mask.png"),
        ("x_before.png", "x_after.png", "x_mask.png"),
        ("x-Before.png", "x-AFTER.PNG", "x-Mask.png"),
        ("before_1.png", "after_1.png", "mask_1.png"),
        ("before1.png", "after1.png", "mask1.png"),
        ("x source.png", "x target.png", "x mask.png"),
        ("1_original.png", "1_edited.png", "1_mask.png"),
        ("1_src.png", "1_tgt.png", "1_mask.png"),
        ("before.png", "after.png", "mask.png"),
    ],
)
def test_reads_sides_from_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    put(tmp_path, **dict(zip(names, (BEFORE, AFTER, MASK), strict=True)))
    (pair,) = pairs_in(tmp_path)
    assert sound([pair]) and pair.mask is not None


def test_does_not_take_pair_numbers_for_sides(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{
            f"{side}_{number}.png": shade
            for side, shade in (("before", BEFORE), ("after", AFTER))
            for number in (0, 1)
        },
    )
    assert sound(pairs_in(tmp_path)) == ["0", "1"]
    put(tmp_path / "other", **{"source_0.png": BEFORE, "source_1.png": AFTER})
    assert sound(pairs_in(tmp_path / "other")) == ["source"]


def test_ignores_names_that_only_look_like_sides(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{
            "beforehand.png": BEFORE,
            "aftermath.png": AFTER,
            "photo_2.png": BEFORE,
            "source_of_it.png": BEFORE,
        },
    )
    refused: list[PairError] = []
    assert pairs_in(tmp_path, refused.append) == []
    assert [str(error) for error in refused] == [
        "Image 'source_of_it.png' has no partner: the after image of pair 'of_it' is missing. Add it or "
        "remove this one."
    ]


def test_reads_words_beside_images(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{"1_before.png": BEFORE, "1_after.png": AFTER, "2_before.png": BEFORE, "2_after.png": AFTER},
    )
    (tmp_path / "1_after.txt").write_text("\ufeffmake it snow\n", "utf-8")
    (tmp_path / "2.txt").write_text("make it night", "utf-8")
    assert [pair.words for pair in pairs_in(tmp_path)] == ["make it snow", "make it night"]
    (tmp_path / "2.txt").write_text("make it night\n", "utf-16")
    assert [pair.words for pair in pairs_in(tmp_path)] == ["make it snow", "make it night"]
    (tmp_path / "2.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        PairError,
        match=r"^The words of '.*' cannot be read \(.*\)\. Repair the file, and save it as UTF-8\.$",
    ):
        pairs_in(tmp_path)
    refused: list[PairError] = []
    assert [pair.name for pair in pairs_in(tmp_path, refused.append)] == ["1"]
    assert str(refused[0]).startswith("The words of '2' cannot be read (") and len(refused) == 1


def test_skips_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    for place in ("one", "three", "two"):
        put(tmp_path / place, **{"x.png": BEFORE, "y.png": AFTER})
        (tmp_path / place / "pairs.json").write_text('[{"before": "x.png", "after": "y.png"}]')
    (tmp_path / "three" / "pairs.json").write_text("[")
    refused: list[PairError] = []
    assert sound(pairs_below(tmp_path, refused.append)) == ["one/x", "two/x"]
    assert [str(error).startswith("pairs.json of 'three' must be a list") for error in refused] == [True]
    with pytest.raises(PairError, match=r"^pairs\.json of 'three' must be a list"):
        pairs_below(tmp_path)


def test_reads_the_tree_of_instructpix2pix(tmp_path: Path) -> None:
    for prompt, seeds in (("0000001", ("7", "123")), ("0000002", ("5",))):
        place = put(
            tmp_path / "shard-00" / prompt,
            **{f"{seed}_{side}.jpg": (BEFORE, AFTER)[side] for seed in seeds for side in (0, 1)},
        )
        (place / "prompt.json").write_text(
            json.dumps({"input": "a hill", "edit": f"make it {prompt}", "output": "another hill"})
        )
        # The other files that InstructPix2Pix writes name no images.
        (place / "metadata.jsonl").write_text('{"seed": 7, "clip_sim_0": NaN}\n')
    pairs = pairs_below(tmp_path)
    assert [pair.name for pair in pairs] == [
        "shard-00/0000001/7",
        "shard-00/0000001/123",
        "shard-00/0000002/5",
    ]
    assert [pair.words for pair in pairs] == ["make it 0000001", "make it 0000001", "make it 0000002"]
    assert pairs_in(tmp_path) == []
    (tmp_path / "shard-00/0000001/prompt.json").write_text("{")
    refused: list[PairError] = []
    assert [pair.name for pair in pairs_below(tmp_path, refused.append)] == ["shard-00/0000002/5"]
    assert str(refused[0]).startswith("The words of '0000001' cannot be read (")


ENTRIES = [
    {"before": "x.png", "after": "y.png", "words": "w", "mask": "m.png"},
    {"original_image": "x.png", "edited_image": "y.png", "edit_prompt": "w", "mask_image": "m.png"},
    {
        "input_image": "x.png",
        "output_image": "y.png",
        "edit": "w",
        "mask_img": "m.png",
        "input": "a caption",
        "output": "a caption",
    },
    {"source_img": "x.png", "target_img": "y.png", "instruction": "w", "mask_img": "m.png"},
    {"src_img": "x.png", "edited_img": "y.png", "edited_prompt_list": ["", "w"], "mask": "m.png"},
    {"file_name": "x.png", "edited_image": "y.png", "instruction": "w", "mask": "m.png"},
    {"before_file_name": "x.png", "after_file_name": "y.png", "edit_prompt": "w", "mask_file_name": "m.png"},
    {"input": "./x.png", "output": "sub\\..\\y.png", "instruction": "w", "mask": "sub\\m.png"},
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: " ".join(entry))
@pytest.mark.parametrize("file", ["pairs.json", "pairs.jsonl", "metadata.jsonl", "metadata.csv"])
def test_reads_every_kind_of_list(tmp_path: Path, file: str, entry: dict[str, Any]) -> None:
    put(tmp_path, **{"x.png": BEFORE, "y.png": AFTER, "m.png": MASK, "sub/m.png": MASK})
    if file.endswith(".csv"):
        values = [value if isinstance(value, str) else value[-1] for value in entry.values()]
        text = f"{','.join(entry)}\n{','.join(values)}\n"
    else:
        text = f"{json.dumps(entry)}\n\n" if file.endswith("l") else json.dumps({"pairs": [entry]})
    (tmp_path / file).write_text(text, "utf-8")
    (pair,) = pairs_in(tmp_path)
    assert sound([pair]) == ["x"] and shade(pair.mask) == MASK and pair.words == "w"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_reads_lists_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    put(tmp_path, **{"ä.png": BEFORE, "y.png": AFTER})
    (tmp_path / "pairs.json").write_text('[{"before": "ä.png", "after": "y.png"}]', encoding)
    assert sound(pairs_in(tmp_path)) == ["ä"]


def test_finds_lists_below_a_folder_without_pairs(tmp_path: Path) -> None:
    place = put(tmp_path / "train", **{"x.png": BEFORE, "y.png": AFTER})
    (place / "metadata.jsonl").write_text('{"file_name": "x.png", "edited_image": "y.png"}')
    assert sound(pairs_below(tmp_path)) == ["train/x"]


def test_follows_links_once(tmp_path: Path) -> None:
    far = put(tmp_path / "far", **{"0_0.png": BEFORE, "0_1.png": AFTER})
    (far / "prompt.json").write_text('{"edit": "w"}')
    near = tmp_path / "near"
    near.mkdir()
    (near / "linked").symlink_to(far)
    (near / "circle").symlink_to(near)
    (near / "nowhere.png").symlink_to(near / "missing.png")
    assert sound(pairs_below(near)) == ["linked/0"]
    (near / "pairs.json").write_text('[{"before": "linked/0_0.png", "after": "linked/0_1.png"}]')
    assert sound(pairs_below(near)) == ["0_0"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x.png", r"'\.\./x\.png' is outside the folder\. Move the image into it\.$"),
        ("sub/../../x.png", r"'sub/\.\./\.\./x\.png' is outside the folder\."),
        ("..\\x.png", r"is outside the folder\."),
        ("/etc/x.png", r"'/etc/x\.png' is outside the folder\."),
        ("..", r"'\.\.' is outside the folder\."),
        ("no.png", r"'no\.png' does not exist\.$"),
        ("a" * 300, r"Name 'a+…' cannot be used: it is 300 bytes long"),
        ("a\0b", r"Name .* cannot be used: it holds a control character"),
        ("/".join(["a" * 200] * 40), r"cannot be used: its path would be"),
    ],
)
def test_rejects_names_outside_the_folder(tmp_path: Path, name: str, message: str) -> None:
    put(tmp_path, **{"folder/x.png": BEFORE, "folder/y.png": AFTER, "x.png": BEFORE})
    entries = [{"before": name, "after": "y.png"}, {"before": "x.png", "after": "y.png"}]
    (tmp_path / "folder/pairs.json").write_text(json.dumps(entries))
    with pytest.raises(PairError, match=rf"^pairs\.json of 'folder': .*{message}"):
        pairs_in(tmp_path / "folder")
    refused: list[PairError] = []
    assert sound(pairs_in(tmp_path / "folder", refused.append)) == ["x"] and len(refused) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[" * 100000 + "]" * 100000,
            r"^pairs\.json of '.*' must be a list of .* \(it is nested too deeply\)\.$",
        ),
        ('[{"before": "\\ud800", "after": "y.png"}]', r"^pairs\.json of '.*' must be a list of "),
        ('{"pairs": 7}', r"^pairs\.json of '.*' must be a list of .* \(there is no list in it\)\.$"),
        ("{", r"^pairs\.json of '.*' must be a list of "),
        ("[7]", r'^pairs\.json of \'.*\', entry 0 must be {"before": file, "after": file} \('),
        ('[{"before": "x.png"}]', r"^pairs\.json of '.*', entry 0 lacks 'after': it must be "),
        (
            '[{"before": ["x.png"], "after": "y.png"}]',
            r"^pairs\.json of '.*', entry 0: 'before' is \['x\.png'\]\. Write the name of an image inside",
        ),
    ],
)
def test_rejects_malformed_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(PairError, match=message):
        pairs_in(tmp_path)


def test_rejects_malformed_prompts(tmp_path: Path) -> None:
    put(tmp_path, **{"7_0.png": BEFORE, "7_1.png": AFTER})
    (tmp_path / "prompt.json").write_text("[]")
    with pytest.raises(
        PairError,
        match=r"^The words of '.*' cannot be read \(prompt\.json is not a table\)\. "
        r"Repair the file, and save it as UTF-8\.$",
    ):
        pairs_in(tmp_path)


@pytest.mark.parametrize(
    "names", [("before/1.png", "after/1.png"), ("1_0.png", "1_1.png"), ("control/1.png", "target/1.png")]
)
def test_finds_the_folder_train_of_a_data_set(tmp_path: Path, names: tuple[str, str]) -> None:
    put(tmp_path / "train", **dict(zip(names, (BEFORE, AFTER), strict=True)))
    put(tmp_path / "validation", **dict(zip(names, (AFTER, BEFORE), strict=True)))
    assert sound(pairs_below(tmp_path)) == ["train/1"]


@pytest.mark.parametrize("parted", [",", ";", "\t", ", "])
def test_reads_tables_of_any_spreadsheet(tmp_path: Path, parted: str) -> None:
    put(tmp_path, **{"x.png": BEFORE, "y.png": AFTER})
    rows = [
        ["Control", "Target", "Caption"],
        ["x.png", "y.png", "make it snow", "and more"],
        ["x.png", "y.png"],
    ]
    (tmp_path / "metadata.csv").write_text("\r\n".join(parted.join(row) for row in rows), "utf-8-sig")
    found = pairs_in(tmp_path)
    assert sound(found) == ["x", "x"] and [pair.words for pair in found] == ["make it snow", ""]


def test_leaves_out_a_malformed_line(tmp_path: Path) -> None:
    put(tmp_path, **{"x.png": BEFORE, "y.png": AFTER})
    (tmp_path / "pairs.jsonl").write_text('{"before": "x.png", "after": "y.png"}\n{"before": "x.p\n')
    refused: list[PairError] = []
    assert sound(pairs_in(tmp_path, refused.append)) == ["x"]
    assert str(refused[0]).startswith("pairs.jsonl of ") and ", entry 1 must be " in str(refused[0])


def test_names_an_unreadable_folder(tmp_path: Path) -> None:
    with pytest.raises(
        PairError,
        match=r"^Folder 'gone' cannot be read \(.*\)\. Check its permissions, or move the images "
        r"to another folder\.$",
    ):
        pairs_in(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.jsonl", "junk\n" * 50),
        ("pairs.json", json.dumps([{}] * 50)),
        ("metadata.csv", "before,after\n" + "x,y\n" * 50),
    ],
)
def test_stops_after_many_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    monkeypatch.setattr("instructbrush.core.pairs.pairs._MOST_ENTRIES", 20)
    (tmp_path / name).write_text(content)
    refused: list[PairError] = []
    with pytest.raises(PairError, match=rf"^{name} of '.*' has more than 20 entries\. Write a list of the "):
        find_listed(tmp_path, refused.append)
    assert len(refused) == 20


def test_stops_after_many_faults_in_several_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instructbrush.core.pairs.pairs._MOST_ENTRIES", 20)
    for number in range(3):
        put(tmp_path, **{f"{number}/x.png": BEFORE})
        (tmp_path / str(number) / "pairs.jsonl").write_text("junk\n" * 15)
    message = (
        r"^Pairs folder '.*': more than 20 images or entries cannot be used\. The first: pairs\.jsonl of"
    )
    refused: list[PairError] = []
    with pytest.raises(PairError, match=message):
        find_listed(tmp_path, refused.append)
    assert len(refused) == 20


@pytest.mark.parametrize(
    ("name", "limit", "mend"),
    [
        ("pairs.json", "_MOST_JSON_BYTES", r"Write the pairs as JSON lines, into pairs\.jsonl\."),
        ("pairs.jsonl", "_MOST_LINES_BYTES", r"Split it\."),
        ("metadata.csv", "_MOST_LINES_BYTES", r"Split it\."),
    ],
)
def test_rejects_lists_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: str, mend: str
) -> None:
    monkeypatch.setattr(f"instructbrush.core.pairs.pair_lists.{limit}", 2**20)
    (tmp_path / name).write_bytes(b"[" * (3 * 2**20))
    with pytest.raises(PairError, match=rf"^{name} of '.*' has 3 MB, at most 1 MB are read\. {mend}$"):
        pairs_in(tmp_path)


def test_leaves_out_pairs_whose_words_are_a_book(tmp_path: Path) -> None:
    for name in "xy":
        put(tmp_path, **{f"{name}_before.png": BEFORE, f"{name}_after.png": AFTER})
    (tmp_path / "x.txt").write_text("a" * (2**20 + 1))
    refused: list[PairError] = []
    assert sound(pairs_in(tmp_path, refused.append)) == ["y"]
    assert str(refused[0]).startswith("The words of 'x' cannot be read (it is larger than 1048576 bytes).")
    (tmp_path / "prompt.json").write_text(json.dumps({"edit": "a" * 2**20}))
    refused.clear()
    assert pairs_in(tmp_path, refused.append) == []
    assert "(it is larger than 1048576 bytes)" in str(refused[0])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_reads_lines_of_any_unicode_text(tmp_path: Path, encoding: str) -> None:
    put(tmp_path, **{"x.png": BEFORE, "y.png": AFTER})
    line = json.dumps({"before": "x.png", "after": "y.png", "words": "雪\u2028"}, ensure_ascii=False)
    (tmp_path / "pairs.jsonl").write_bytes(f"{line}\r\n\n{line}".encode(encoding))
    assert [pair.words for pair in pairs_in(tmp_path)] == ["雪", "雪"]
