"""Decisions about pairs: order, skipped, swapped and held-out pairs, and masks."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from instructbrush.core.errors import PairError
from instructbrush.core.pairs.board import Board
from instructbrush.core.pairs.pairs import load_pairs

SIZE = (32, 24)


def put(folder: Path, name: str, shade: int = 100, size: tuple[int, int] = SIZE) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)


@pytest.fixture
def four(tmp_path: Path) -> Path:
    for number in range(4):
        put(tmp_path, f"{number}_0.png", 10 + number)
        put(tmp_path, f"{number}_1.png", 200 + number)
    return tmp_path


def test_empty_board_changes_nothing(four: Path) -> None:
    plain, boarded = load_pairs(four), load_pairs(four, board=Board.parse(" "))
    assert [pair.name for pair in plain] == [pair.name for pair in boarded] == ["0", "1", "2", "3"]
    assert plain.held_out is boarded.held_out is None and boarded[0].mask is None


def test_orders_skips_swaps_and_holds_out(four: Path) -> None:
    text = '{"order": ["3", "1"], "skip": ["1"], "swap": ["0"], "held_out": "2"}'
    pairs = load_pairs(four, board=Board.parse(text))
    assert [pair.name for pair in pairs] == ["3", "0", "2"] and pairs.held_out == 2
    assert [round(float(pair.before.mean()) * 255) for pair in pairs] == [13, 200, 12]
    assert pairs.remarks == ()


def test_held_out_pair_is_counted_among_those_that_can_be_read(four: Path) -> None:
    (four / "0_1.png").write_bytes(b"no image")
    assert load_pairs(four, board=Board(held_out="2")).held_out == 1
    assert load_pairs(four, board=Board(held_out="0")).held_out is None


def test_skipped_pair_is_not_read(four: Path) -> None:
    put(four, "1_1.png", size=(24, 32))
    with pytest.raises(PairError, match="Pair '1': before is 32 x 24, after is 24 x 32"):
        load_pairs(four)
    assert len(load_pairs(four, board=Board(skip=("1",)))) == 3


def test_says_which_decisions_it_cannot_follow(four: Path) -> None:
    pairs = load_pairs(four, board=Board(skip=("7", "3"), held_out="3"))
    assert pairs.held_out is None and pairs.remarks == (
        "The board names pair '7', which the folder does not hold.",
        "Pair '3' is starred and skipped on the board, so no pair is held out.",
    )
    with pytest.raises(PairError, match=r"all pairs are skipped on the board\. Take at least one back\.$"):
        load_pairs(four, board=Board(skip=("0", "1", "2", "3")))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is not a table"),
        ('{"skip": "3"}', "skip is '3'"),
        ('{"held_out": 1}', "held_out is 1"),
        ('{"drop": []}', "'drop' is not one of order, skip, swap, no_mask, held_out"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_rejects_malformed_boards(text: str, reason: str) -> None:
    message = (
        rf"^Load Edit Pairs: board must be empty or JSON such as .*\({reason}.*Clear it to use all pairs"
    )
    with pytest.raises(PairError, match=message):
        Board.parse(text)


def test_two_pairs_of_one_name_have_numbers(tmp_path: Path) -> None:
    for side in ("x", "y"):
        put(tmp_path, f"{side}/1.png", 10)
        put(tmp_path, f"{side}/2.png", 20)
    entries = ", ".join(f'{{"before": "{side}/1.png", "after": "{side}/2.png"}}' for side in ("x", "y"))
    (tmp_path / "pairs.json").write_text(f"[{entries}]")
    pairs = load_pairs(tmp_path, board=Board(swap=("1 (2)",)))
    assert [round(float(pair.before.mean()) * 255) for pair in pairs] == [10, 20]


def test_numbers_of_a_name_pass_over_names_that_look_like_them(tmp_path: Path) -> None:
    places = ["x/cat.png", "y/cat.png", "z/cat (2).png"]
    for place in places:
        put(tmp_path, place, 10)
    put(tmp_path, "after.png", 20)
    entries = [{"before": place, "after": "after.png"} for place in places]
    (tmp_path / "pairs.json").write_text(json.dumps(entries))
    pairs = load_pairs(tmp_path, board=Board(skip=("cat (3)",)))
    assert [pair.name for pair in pairs] == ["cat", "cat (2)"]


def half_mask(folder: Path, name: str, size: tuple[int, int] = SIZE) -> None:
    """A mask that is white in its left half."""
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    mask.save(folder / name)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("size", [None, 16])
def test_reads_masks_at_the_size_of_their_pair(four: Path, size: int | None, scale: int) -> None:
    half_mask(four, "2_mask.png", (SIZE[0] * scale, SIZE[1] * scale))
    pairs = load_pairs(four, size)
    assert [pair.mask is not None for pair in pairs] == [False, False, True, False]
    mask = pairs[2].mask
    assert mask is not None and mask.shape == pairs[2].before.shape[:2]
    assert mask.mean() == pytest.approx(0.5, abs=0.01) and mask[:, 0].min() > 0.99 > 0.01 > mask[:, -1].max()
    assert pairs.remarks == ("1 pair: learning acts only where the pair's mask is white.",)
    assert load_pairs(four, size, board=Board(no_mask=("2",)))[2].mask is None


@pytest.mark.parametrize("side", [0, 1])
def test_mask_follows_the_image_that_it_is_drawn_on(tmp_path: Path, side: int) -> None:
    sizes = [(64, 64), (64, 128)]
    for index in (0, 1):
        put(tmp_path, f"0_{index}.png", size=sizes[index])
    half_mask(tmp_path, "0_mask.png", sizes[side])
    mask = load_pairs(tmp_path, fit="crop")[0].mask
    assert mask is not None and mask.shape == (64, 64) and mask.mean() == pytest.approx(0.5, abs=0.01)


def test_leaves_out_pairs_whose_mask_cannot_be_used(four: Path) -> None:
    half_mask(four, "0_mask.png", (32, 32))
    Image.new("L", SIZE).save(four / "1_mask.png")
    (four / "2_mask.png").write_bytes(b"no image")
    pairs = load_pairs(four)
    assert [pair.name for pair in pairs] == ["3"]
    first, second, third, count = pairs.remarks
    assert first.startswith("Left out: Pair '0': its mask '0_mask.png' is 32 x 32, which is another aspect")
    assert second.startswith(
        "Left out: Pair '1': its mask is black everywhere, so there is nothing to learn."
    )
    assert third.startswith("Left out: Pair '2': Mask: Image '2_mask.png' cannot be read")
    assert count == "3 pairs left out, 1 pair remains."


def test_pairs_without_masks_are_as_before(four: Path) -> None:
    plain = load_pairs(four, 16)
    half_mask(four, "2_mask.png")
    for one, other in zip(plain, load_pairs(four, 16), strict=True):
        assert torch.equal(one.before, other.before) and torch.equal(one.after, other.after)
