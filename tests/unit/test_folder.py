"""Editing many pictures: the same results in any batches, whatever sizes come in which order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from instructbrush.core.editing.folder import edit_pictures
from instructbrush.core.errors import PairError
from instructbrush.core.learning.pairs import read_picture

SIZES = [(40, 32), (40, 32), (24, 24), (40, 32), (35, 17), (24, 24), (40, 32)]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Pictures of one grey each, a tenth brighter from one to the next."""
    paths = []
    for index, size in enumerate(SIZES):
        paths.append(tmp_path / "in" / f"{index}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.new("L", size, 20 + 25 * index).convert("RGB").save(paths[-1])
    (tmp_path / "out").mkdir()
    return paths


def inverted(paths: list[Path], out: Path, batch: int, room: int = 100) -> tuple[list[int], list[int]]:
    """Invert the pictures; returns how many went at once, and what was told of the progress."""
    sizes: list[int] = []
    told: list[int] = []

    def edit(given: Tensor) -> Tensor:
        sizes.append(len(given))
        if len(given) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 1 - given

    edit_pictures(paths, out, read_picture, edit, batch, told.append)
    return sizes, told


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 2, 1, 1]), (50, [4, 2, 1])])
def test_pictures_of_one_size_go_together(pictures: list[Path], tmp_path: Path, batch: int, sizes: list[int]) -> None:
    seen, told = inverted(pictures, tmp_path / "out", batch)
    assert sorted(seen, reverse=True) == sizes and sum(told) == len(pictures)
    for index, size in enumerate(SIZES):
        with Image.open(tmp_path / "out" / f"{index}.png") as result:
            assert result.size == size and np.abs(np.asarray(result).astype(int) - (235 - 25 * index)).max() <= 1


def test_a_batch_that_does_not_fit_is_halved(pictures: list[Path], tmp_path: Path) -> None:
    seen, _ = inverted(pictures, tmp_path / "out", 4, room=1)
    assert seen == [4, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert len(list((tmp_path / "out").iterdir())) == len(pictures)


def test_what_fails_is_told(pictures: list[Path], tmp_path: Path) -> None:
    pictures[3].write_bytes(b"no picture")
    with pytest.raises(PairError, match=r"3\.png"):
        inverted(pictures, tmp_path / "out", 2)


def test_a_single_picture_that_does_not_fit_is_an_error(pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        inverted(pictures, tmp_path / "out", 2, room=0)


def test_the_same_pictures_come_out_of_any_batches(pictures: list[Path], tmp_path: Path, write_pairs: Callable[..., Path]) -> None:
    """With the pocket editor: every picture keeps the noise that it has alone."""
    from instructbrush.core.commandline import main

    write_pairs(tmp_path / "pairs", 2, size=(64, 64))
    results = []
    for batch in (1, 4):
        out = tmp_path / f"words{batch}"
        given = ["--images", tmp_path / "pairs", "--out", out, "--steps", 3, "--seed", 4, "--batch", batch]
        assert main(["edit", "--words", "make it night", *map(str, given)]) == 0
        results.append([np.asarray(Image.open(path)).astype(int) for path in sorted(out.iterdir())])
    assert len(results[0]) == 4 and all(np.abs(one - other).max() <= 1 for one, other in zip(*results, strict=True))
