"""Every kind of image file through the whole command line: learned from, and edited as the same pixels in a plain PNG are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.instruction.file import load_instruction, read_header
from instructbrush.tests.support.image_kinds import COLOURS, KINDS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files, and what they show as plain PNG; both under one name but for the ending."""
    kinds, plain = tmp_path_factory.mktemp("kinds"), tmp_path_factory.mktemp("plain")
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


def test_they_are_edited_as_the_same_pixels_are(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, wanted = edited(folders[0], tmp_path / "kinds"), edited(folders[1], tmp_path / "plain")
    assert list(results) == list(wanted) and len(results) == len(KINDS)
    transparent = {name for name, result in results.items() if result.mode == "RGBA"}
    assert len(transparent) == 6
    for name in set(results) - transparent:
        difference = np.asarray(results[name], dtype=int) - np.asarray(wanted[name])
        # The model makes a little more of a step in 255.
        assert np.abs(difference).max() <= 4, name


def test_they_keep_their_transparency(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name, result in edited(folders[0], tmp_path).items():
        if result.mode == "RGBA":
            source = next(folders[0].glob(f"{name}.*"))
            # Pillow opens no floats with alpha: there it is the green of the colours.
            alpha = (
                COLOURS[..., 1]
                if source.suffix == ".tif"
                else np.asarray(Image.open(source).convert("RGBA"))[..., 3]
            )
            assert np.array_equal(np.asarray(result)[..., 3], alpha), name


def test_they_are_learned_from(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for side, folder in zip(("before", "after"), folders, strict=True):
        (pairs / side).symlink_to(folder)
    out = tmp_path / "x.safetensors"
    assert main(["learn", "--pairs", str(pairs), "--out", str(out), "--steps", "1"]) == 0
    assert read_header(out)[0].info.pairs == len(KINDS)
    load_instruction(out)
