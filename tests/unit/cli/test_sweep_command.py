"""``sweep``: folders of values, the contact sheet, resuming, refused values."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.editing.sweeps import labels
from instructbrush.core.storage.image_files import read_image

EXAMPLE = "example_workflows/models/instructions/light_from_the_right.safetensors"


@pytest.fixture
def images(tmp_path: Path, write_pairs: Callable[..., Path]) -> Path:
    """A folder of two images, 64 x 64."""
    return write_pairs(tmp_path / "in", 1, size=(64, 64))


@pytest.fixture
def sweep(images: Path, repository: Path) -> Callable[..., int]:
    def run(*options: object) -> int:
        given = ["sweep", "--instruction", repository / EXAMPLE, "--images", images]
        given += ["--out", images.parent / "out", "--steps", 2, "--cell", 64, *options]
        return main([str(each) for each in given])

    return run


def test_writes_a_folder_for_each_value_and_a_sheet(
    images: Path, sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = images.parent / "out"
    assert sweep("--values", 1000, 700, 0, "--steps", 4) == 0
    names = ["0_0.png", "0_1.png"]
    for folder in ("end_1000", "end_700", "end_0"):
        assert sorted(path.name for path in (out / folder).iterdir()) == names
    assert capsys.readouterr().out.splitlines()[-1] == f"{out / 'sheet.png'}: 3 values"
    # Input and three values, two rows.
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width == 4 * (64 + 6) + 6 and sheet.height > 2 * 64
        # Pixels on the sheet are those of the results.
        for column, folder in enumerate((images, out / "end_1000", out / "end_700", out / "end_0")):
            with Image.open(folder / "0_1.png") as image:
                left = 6 + column * 70
                cell = sheet.crop((left, sheet.height - 70, left + 64, sheet.height - 6))
                assert cell.tobytes() == image.convert("RGB").tobytes()
    # The steps are at timesteps 999, 666, 333 and 0: T = 700 edits in the first one only.
    assert sweep_differs(out / "end_1000", out / "end_700") and sweep_differs(out / "end_700", out / "end_0")


def sweep_differs(one: Path, other: Path) -> bool:
    difference = (read_image(one / "0_0.png") - read_image(other / "0_0.png")).abs().mean()
    return float(difference) > 0.002


def test_each_value_equals_apply_and_a_repeated_sweep_edits_nothing(
    images: Path, sweep: Callable[..., int], repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = images.parent / "out"
    assert sweep("--over", "strength", "--values", "0.5", 1) == 0
    plain = ["apply", "--instruction", repository / EXAMPLE, "--images", images, "--steps", 2]
    plain += ["--out", images.parent / "plain", "--strength", "0.5"]
    assert main([str(each) for each in plain]) == 0
    for name in ("0_0.png", "0_1.png"):
        same = [(images.parent / folder / name).read_bytes() for folder in ("plain", "out/strength_0.5")]
        assert same[0] == same[1]
    capsys.readouterr()
    (out / "strength_1" / "0_1.png").unlink()
    assert sweep("--over", "strength", "--values", "0.5", 1) == 0
    printed = capsys.readouterr().out
    assert "strength_0.5: 0 of 2 images edited, 2 done before" in printed
    assert "strength_1: 1 of 2 images edited, 1 done before" in printed


def test_unreadable_images_are_left_out_of_the_sheet(
    images: Path, sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--values", 0) == 0
    (images / "0_0.png").write_bytes(b"")
    assert sweep("--values", 0) == 1
    assert "0 of 2 images edited, 1 done before, 1 skipped" in capsys.readouterr().err
    with Image.open(images.parent / "out" / "sheet.png") as sheet:
        assert 64 < sheet.height < 128


def test_close_values_have_folders_of_their_own(images: Path, sweep: Callable[..., int]) -> None:
    (images / "0_1.png").unlink()
    assert sweep("--over", "strength", "--values", "0.12345671", "0.12345672", "--steps", 1) == 0
    folders = sorted(path.name for path in (images.parent / "out").iterdir() if path.is_dir())
    assert folders == ["strength_0.12345671", "strength_0.12345672"]


def test_titles_tell_all_values_apart() -> None:
    assert labels("s_T", [0.12345671, 0.12345672, 1.0, 1e6, 0.1]) == [
        *("s_T = 0.12345671", "s_T = 0.12345672", "s_T = 1", "s_T = 1e+06", "s_T = 0.1")
    ]
    third = 1 / 3
    assert float(labels("", [third])[0]) == third


@pytest.mark.parametrize("spelling", ["in", "in/../in", "link", "in/0_0.png"])
def test_refuses_to_write_among_the_images(
    images: Path, sweep: Callable[..., int], capsys: pytest.CaptureFixture[str], spelling: str
) -> None:
    (images.parent / "link").symlink_to(images, target_is_directory=True)
    (images / "0_0.png").rename(images / "sheet.png")
    (images / "0_1.png").rename(images / "0_0.png")
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    out = images if spelling.endswith(".png") else images.parent / spelling
    assert sweep("--values", 0, "--images", images.parent / spelling, "--out", out) == 1
    assert "Results would be written among the inputs in" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--values", "0", "500", "1000", "--cell", "6000"], r"24030 x \d+"),
        (["--over", "text-scale", "--values", "1:99:1", "--cell", "256"], r"26206 x \d+"),
        # The height counts, too.
        (["--values", "0", "--cell", "8000"], r"16018 x 19\d+"),
    ],
)
def test_refuses_a_sheet_that_is_too_large_before_it_edits(
    images: Path,
    sweep: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    size: str,
) -> None:
    Image.new("RGB", (64, 80)).save(images / "0_0.png")
    (images / "broken.png").write_bytes(b"")
    assert sweep(*options) == 1
    assert re.search(f"Contact sheet: it would have {size}", capsys.readouterr().err)
    assert not (images.parent / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--values", "0", "x"], "'x' is not a number"),
        (["--values", "0", "1200"], "Timestep range: 1000 to 1200 leaves 0..1000"),
        (["--values", "0.5"], "--over end takes whole timesteps, not 0.5."),
        (["--rows", "0"], "argument --rows: "),
    ],
)
def test_refuses_values_before_anything_is_written(
    images: Path,
    sweep: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    try:
        assert sweep(*options) == 1
    except SystemExit as usage:
        assert usage.code == 2
    assert re.search(re.escape(message), capsys.readouterr().err)
    assert not (images.parent / "out").exists()
