"""What a folder of pairs holds: sizes, masks and problems, as the board shows them."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from instructbrush.core.errors import PairError
from instructbrush.core.pairs.pairs import load_pairs
from instructbrush.core.pairs.survey import ImageFile, Survey, SurveyedPair, image_size, survey, thumbnail_of


def put(folder: Path, name: str, size: tuple[int, int] = (32, 24)) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)
    return path


def only(found: Survey) -> SurveyedPair:
    (pair,) = found.pairs
    return pair


def test_lists_sound_pairs_with_sizes_and_masks(tmp_path: Path) -> None:
    put(tmp_path, "x_before.png")
    put(tmp_path, "x_after.jpg", (64, 48))
    put(tmp_path, "x_mask.png")
    pair = only(survey(tmp_path))
    assert (pair.key, pair.name, pair.problem, pair.sentence) == ("x", "x", "", "")
    assert pair.before and pair.after and (pair.before.width, pair.after.height) == (32, 48)
    assert pair.before.file == "x_before.png" and pair.before.bytes > 0
    assert pair.mask and pair.mask.file == pair.mask_place == "x_mask.png"


@pytest.mark.parametrize(
    ("first", "second"),
    [((64, 48), (32, 24)), ((70, 64), (64, 64)), ((64, 64), (72, 64)), ((30, 60), (60, 30))],
)
def test_calls_a_ratio_a_problem_exactly_if_reading_does(
    tmp_path: Path, first: tuple[int, int], second: tuple[int, int]
) -> None:
    put(tmp_path, "x_0.png", first)
    put(tmp_path, "x_1.png", second)
    pair = only(survey(tmp_path))
    try:
        load_pairs(tmp_path)
    except PairError as error:
        assert pair.problem == "ratio" and pair.sentence == str(error)
    else:
        assert pair.problem == ""


def test_marks_problems_on_their_pair(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        put(tmp_path, f"{name}_0.png")
        put(tmp_path, f"{name}_1.png")
    (tmp_path / "b_1.png").write_bytes(b"no image")
    (tmp_path / "c_1.png").unlink()
    put(tmp_path, "d_mask.png", (32, 32))
    put(tmp_path, "leaf.png")
    found = survey(tmp_path)
    sound, damaged, masked, single = found.pairs
    assert (sound.key, sound.problem) == ("a", "")
    assert damaged.problem == "file" and damaged.sentence.startswith("Image 'b_1.png' cannot be read")
    assert damaged.after == ImageFile("b_1.png")
    assert masked.sentence == "The mask is 32 x 32, which is another aspect ratio than the images have."
    assert single.key == "" and single.problem == "partner" and single.after is None
    assert single.missing == "c_1.png" and single.sentence.startswith("Image 'c_0.png' has no partner")
    assert found.remarks == ("Not used, because the names do not say before or after: leaf.png.",)


def test_small_images_and_folders_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="holds no pairs"):
        survey(tmp_path)
    put(tmp_path, "x_0.png", (8, 8))
    put(tmp_path, "x_1.png", (8, 8))
    assert only(survey(tmp_path)).sentence == "Pair 'x': each side needs at least 16 pixels."


def test_sizes_are_those_of_upright_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg") == (30, 20)
    Image.new("1", (10000, 7000)).save(tmp_path / "huge.png")
    with pytest.raises(PairError, match="more than 64 megapixels"):
        image_size(tmp_path / "huge.png")


def test_thumbnails_are_small_and_follow_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, "x.png", (2000, 1000))
    first = thumbnail_of(path)
    with Image.open(BytesIO(first)) as image:
        assert image.format == "JPEG" and image.size == (256, 128)
    assert thumbnail_of(path) is first
    Image.new("RGB", (500, 500), "red").save(path)
    with Image.open(BytesIO(thumbnail_of(path))) as image:
        assert image.size == (256, 256)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(PairError, match="cannot be read"):
        thumbnail_of(path)
    path.unlink()
    with pytest.raises(PairError, match="cannot be read"):
        thumbnail_of(path)


def test_checks_the_size_of_a_png_before_it_decodes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (10000, 7000)).save(tmp_path / "huge.png")
    put(tmp_path, "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.png", exif=exif)

    def load(image: Image.Image) -> None:
        raise AssertionError(f"{image.size} is decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(PairError, match="more than 64 megapixels"):
        image_size(tmp_path / "huge.png")
    assert image_size(tmp_path / "plain.png") == (24, 32)
    assert image_size(tmp_path / "turned.png") == (30, 20)


def test_lists_the_first_faults_of_a_list_and_counts_the_others(tmp_path: Path) -> None:
    put(tmp_path, "x.png")
    (tmp_path / "pairs.jsonl").write_text('{"before": "x.png", "after": "x.png"}\n' + "junk\n" * 30)
    found = survey(tmp_path)
    assert len(found.pairs) == 1 and len(found.remarks) == 21
    assert ", entry 20 must be " in found.remarks[19]
    assert found.remarks[20] == "And 10 more entries cannot be used."


def test_lists_the_first_images_without_partners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(tmp_path, f"{number}_before.png")
    monkeypatch.setattr("instructbrush.core.pairs.survey.MAX_PAIRS", 2)
    found = survey(tmp_path)
    assert [pair.name for pair in found.pairs] == ["0_before", "1_before"]
    assert found.remarks == ("And 3 more images have no partner.",)
