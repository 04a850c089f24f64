"""Every kind of image file through the command line: it gives the same results as a plain PNG."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.instruction.file import load_instruction
from instructbrush.core.instruction.file_header import read_header
from instructbrush.tests.support.image_kinds import COLOURS, KINDS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with a file of every kind, and with the same images as plain PNG."""
    kinds = tmp_path_factory.mktemp("kinds")
    plain = tmp_path_factory.mktemp("plain")
    for number, (name, write) in enumerate(KINDS.items()):
        expected = write(kinds / f"{number:02} {name}")
        Image.fromarray((expected * 255).round().astype(np.uint8)).save(
            plain / f"{number:02} {Path(name).stem}.png"
        )
    return kinds, plain


def edited(images: Path, out: Path) -> dict[str, Image.Image]:
    assert (
        main(
            [
                "edit",
                "--words",
                "make it night",
                "--images",
                str(images),
                "--out",
                str(out),
                "--steps",
                "2",
                "--batch",
                "8",
            ]
        )
        == 0
    )
    return {path.stem: Image.open(path) for path in sorted(out.glob("*.png"))}


def test_edits_them_like_plain_png(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results = edited(folders[0], tmp_path / "kinds")
    expected = edited(folders[1], tmp_path / "plain")
    assert list(results) == list(expected) and len(results) == len(KINDS)
    transparent = {name for name, result in results.items() if result.mode == "RGBA"}
    assert len(transparent) == 6
    for name in set(results) - transparent:
        difference = np.asarray(results[name], dtype=int) - np.asarray(expected[name])
        # The model amplifies differences of 1/255 slightly.
        assert np.abs(difference).max() <= 4, name


def test_keeps_transparency(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results = edited(folders[0], tmp_path)
    transparent = {name: result for name, result in results.items() if result.mode == "RGBA"}
    assert len(transparent) == 6
    for name, result in transparent.items():
        source = next(folders[0].glob(f"{name}.*"))
        # Pillow cannot open floats with alpha; the alpha of this file is the green of COLOURS.
        alpha = (
            COLOURS[..., 1]
            if source.suffix == ".tif"
            else np.asarray(Image.open(source).convert("RGBA"))[..., 3]
        )
        assert np.array_equal(np.asarray(result)[..., 3], alpha), name


def test_learns_from_them(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for side, folder in zip(("before", "after"), folders, strict=True):
        (pairs / side).symlink_to(folder)
    out = tmp_path / "x.safetensors"
    assert main(["learn", "--pairs", str(pairs), "--out", str(out), "--steps", "1", "--init", "dark"]) == 0
    assert read_header(out)[0].info.pairs == len(KINDS)
    load_instruction(out)
