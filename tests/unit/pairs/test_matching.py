"""Which images are pairs if no list, folder or word says it, and where partners and masks belong."""

from pathlib import Path

import pytest

from instructbrush.core.errors import PairError
from instructbrush.core.pairs.layouts import MissingPartnerError, mask_place, pairs_below, pairs_of
from instructbrush.tests.unit.pairs.flat_images import AFTER, BEFORE, MASK, put, sound


@pytest.mark.parametrize(
    "names",
    [
        ("x-a.jpg", "x-b.jpg", "x_mask.png"),
        ("x_A.png", "x_B.png", "x-mask.png"),
        ("x.png", "x_edited.png", "x_mask.png"),
        ("x.jpg", "x-after.png", "x_mask.png"),
        ("IMG_1.png", "IMG_2.png", "IMG_1_mask.png"),
    ],
)
def test_pairs_images_without_any_help(tmp_path: Path, names: tuple[str, str, str]) -> None:
    put(tmp_path, **dict(zip(names, (BEFORE, AFTER, MASK), strict=True)))
    (pair,), layout = pairs_of(tmp_path)
    assert sound([pair]) and pair.mask is not None
    assert layout == ("order" if names[0].startswith("IMG") else "names")


def test_pairs_plain_names_in_natural_order(tmp_path: Path) -> None:
    put(tmp_path, **{f"DSC{number}.png": AFTER if number % 2 else BEFORE for number in range(8, 12)})
    found, layout = pairs_of(tmp_path)
    assert sound(found) == ["DSC8", "DSC10"] and layout == "order"
    # Fine-tuning never guesses.
    assert pairs_below(tmp_path) == []
    put(tmp_path, **{"DSC12.png": BEFORE})
    refused: list[PairError] = []
    assert sound(pairs_of(tmp_path, refused.append)[0]) == ["DSC8", "DSC10"]
    (error,) = refused
    assert isinstance(error, MissingPartnerError) and error.image.name == "DSC12.png"
    assert str(error) == (
        "Image 'DSC12.png' has no partner: the images are paired in the order of their names, and their "
        "number is odd. Add the missing one or remove this one."
    )
    # A name that ends with a letter by chance is no side.
    put(tmp_path, **{"DSC12.png": BEFORE, "vitamin_b.png": AFTER})
    assert sound(pairs_of(tmp_path)[0]) == ["DSC8", "DSC10", "DSC12"]


def test_numbers_of_a_camera_are_no_sides(tmp_path: Path) -> None:
    put(tmp_path, **{f"IMG_{number}.png": AFTER if number % 2 else BEFORE for number in range(4)})
    found, layout = pairs_of(tmp_path)
    assert sound(found) == ["IMG_0", "IMG_2"] and layout == "order"


def test_lists_and_folders_are_never_paired_in_order(tmp_path: Path) -> None:
    put(tmp_path, **{"x.png": BEFORE, "y.png": AFTER})
    (tmp_path / "pairs.json").write_text("[]")
    assert pairs_of(tmp_path) == ([], "list")
    (tmp_path / "pairs.json").unlink()
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    assert pairs_of(tmp_path) == ([], "folders")


@pytest.mark.parametrize(
    ("image", "others", "side", "partner"),
    [
        ("7_0.png", [], "before", "7_1.png"),
        ("x-before.jpg", [], "before", "x_after.jpg"),
        ("after.png", [], "after", "before.png"),
        ("x_tgt.png", [], "after", "x_src.png"),
        ("x-a.png", ["y-a.png", "y-b.png"], "before", "x_b.png"),
        ("Input/x.png", ["Output/y.png", "Input/y.png"], "before", "Output/x.png"),
    ],
)
def test_names_the_place_of_a_missing_partner(
    tmp_path: Path, image: str, others: list[str], side: str, partner: str
) -> None:
    put(tmp_path, **dict.fromkeys((image, *others), BEFORE))
    refused: list[PairError] = []
    pairs_of(tmp_path, refused.append)
    (error,) = refused
    assert isinstance(error, MissingPartnerError)
    assert (error.image, error.side, error.partner) == (tmp_path / image, side, tmp_path / partner)
    put(tmp_path, **{partner: AFTER})
    assert len(pairs_of(tmp_path)[0]) == 1 + len(others) // 2


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (("7_0.png", "7_1.png"), "7_mask.png"),
        (("before.png", "after.png"), "mask.png"),
        (("before/x.png", "after/x.png"), "mask/x.png"),
        (("before/x.png", "after/x.png", "masks/y.png"), "masks/x.png"),
        (("p.png", "q.png"), "p_mask.png"),
        (("7_0.png", "7_1.png", "mask_7.jpg"), "mask_7.jpg"),
    ],
)
def test_reads_a_mask_where_it_says(tmp_path: Path, names: tuple[str, ...], place: str) -> None:
    put(tmp_path, **dict.fromkeys(names, BEFORE))
    (pair,), layout = pairs_of(tmp_path)
    found = mask_place(tmp_path, pair, layout)
    assert found == tmp_path / place
    put(tmp_path, **{place: MASK})
    assert pairs_of(tmp_path)[0][0].mask == found
