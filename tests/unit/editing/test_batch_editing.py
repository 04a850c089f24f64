"""Batch editing: results depend neither on batches nor on the sizes and order of the images."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from instructbrush.core.editing.batch_editing import EditCallbacks, EditJob, edit_images, note_of
from instructbrush.core.errors import PairError, StorageError

SIZES = [(40, 32), (40, 32), (24, 24), (40, 32), (35, 17), (24, 24), (40, 32)]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Plain gray images, each a tenth brighter than the one before."""
    paths = []
    for index, size in enumerate(SIZES):
        paths.append(tmp_path / "in" / f"{index}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.new("L", size, 20 + 25 * index).convert("RGB").save(paths[-1])
    (tmp_path / "out").mkdir()
    return paths


class Calls:
    """Records the calls of the callbacks."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.done: list[int] = []
        self.skipped: list[PairError] = []
        self.remarks: list[str] = []
        self.scaled: list[tuple[str, tuple[int, int]]] = []


def inverted(paths: list[Path], out: Path, batch: int, room: int = 100, pixels: int = 10**6) -> Calls:
    """Inverts the images on a device with memory for ``room`` of them."""
    calls = Calls()

    def edit(given: Tensor) -> Tensor:
        calls.sizes.append(len(given))
        if len(given) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 1 - given

    jobs = [EditJob(path, out / f"{path.stem}.png", lambda: "inverted") for path in paths]
    listener = EditCallbacks(
        calls.done.append,
        calls.skipped.append,
        calls.remarks.append,
        lambda path, size: calls.scaled.append((path.name, size)),
    )
    edit_images(jobs, edit, batch, pixels, listener)
    return calls


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("batch", "sizes"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 2, 1, 1]), (50, [4, 2, 1])]
)
def test_batches_images_of_one_size(images: list[Path], tmp_path: Path, batch: int, sizes: list[int]) -> None:
    calls = inverted(images, tmp_path / "out", batch)
    assert sorted(calls.sizes, reverse=True) == sizes and sum(calls.done) == len(images)
    for index, (width, height) in enumerate(SIZES):
        result = pixels_of(tmp_path / "out" / f"{index}.png")
        assert result.shape == (height, width, 3) and np.abs(result - (235 - 25 * index)).max() <= 1


def test_halves_a_batch_that_does_not_fit_into_memory(images: list[Path], tmp_path: Path) -> None:
    calls = inverted(images, tmp_path / "out", 4, room=1)
    assert calls.sizes == [4, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert len(list((tmp_path / "out").iterdir())) == len(images)


def test_skips_images_that_cannot_be_read(images: list[Path], tmp_path: Path) -> None:
    images[3].write_bytes(b"no image")
    calls = inverted(images, tmp_path / "out", 2)
    assert [str(error) for error in calls.skipped] == [
        "Image '3.png' cannot be read (it is not an image, or not in one of the formats PNG, JPEG, WebP, "
        "GIF, BMP, TIFF, AVIF, JPEG 2000 and PPM). Save it again as PNG or JPEG."
    ]
    assert sum(calls.done) == 6 and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{index}.png" for index in (0, 1, 2, 4, 5, 6)
    ]


def test_edits_large_images_scaled_down_and_restores_their_size(tmp_path: Path) -> None:
    shape = np.zeros((300, 500, 3), np.uint8)
    shape[:150, :250] = (255, 128, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(shape)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    seen: list[tuple[int, ...]] = []

    def edit(given: Tensor) -> Tensor:
        seen.append(tuple(given.shape))
        return 1 - given

    calls = Calls()
    jobs = [
        EditJob(path, tmp_path / "out" / f"{path.stem}.png", lambda: "")
        for path in (tmp_path / "a.jpg", tmp_path / "b.png")
    ]
    listener = EditCallbacks(
        calls.done.append,
        calls.skipped.append,
        calls.remarks.append,
        lambda path, size: calls.scaled.append((path.name, size)),
    )
    edit_images(jobs, edit, 1, 64 * 64, listener)
    assert seen == [(1, 48, 80, 3), (1, 64, 64, 3)] and calls.scaled == [("a.jpg", (500, 300))]
    result = pixels_of(tmp_path / "out" / "a.png")
    assert result.shape == (300, 500, 3) and np.abs(np.median(np.abs(result - (255 - shape)))) <= 3


def test_keeps_transparency_without_white_edges(tmp_path: Path) -> None:
    colours = np.full((32, 32, 3), (200, 40, 40), np.uint8)
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, 8:16] = 100
    alpha[:, 16:] = 255
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([colours, alpha])).quantize(8).save(tmp_path / "b.gif", transparency=0)
    Image.merge("LA", (Image.fromarray(alpha), Image.fromarray(alpha))).resize(
        (160, 160), Image.Resampling.NEAREST
    ).save(tmp_path / "c.png")
    inverted([tmp_path / name for name in ("a.png", "b.gif", "c.png")], tmp_path / "out", 1, pixels=64 * 64)
    result = pixels_of(tmp_path / "out" / "a.png")
    assert np.array_equal(result[..., 3], alpha)
    assert (
        np.abs(result[:, 8:, :3] - (255 - colours[:, 8:].astype(int))).max() <= 1
        and result[:, :8, :3].max() <= 1
    )
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.mode == "RGBA"
    assert np.array_equal(pixels_of(tmp_path / "out" / "c.png")[..., 3], np.kron(alpha, np.ones((5, 5), int)))


def test_limits_the_images_that_wait_for_others_of_their_size(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index:02}.png" for index in range(40)]
    for index, path in enumerate(paths):
        Image.new("RGB", (16 + 8 * index, 16)).save(path)
    widths: list[int] = []

    def edit(given: Tensor) -> Tensor:
        widths.append(given.shape[2])
        return given

    jobs = [EditJob(path, tmp_path / "out" / path.name, lambda: "") for path in paths]
    edit_images(jobs, edit, 2, 10**6, EditCallbacks(*[lambda *_: None] * 4))
    assert widths == [16 + 8 * index for index in range(40)]


def test_full_disk_stops_the_run_and_keeps_finished_results(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save

    def full(self: Image.Image, path: Path, *arguments: object, **options: object) -> None:
        if len(list((tmp_path / "out").glob("?.png"))) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(
        StorageError,
        match=r"'\d\.png' cannot be written to .*out: no space is left there\. "
        r"Free some space, or choose another disk\.",
    ):
        inverted(images, tmp_path / "out", 1)
    kept = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(kept) >= 2 and all(name.endswith(".png") for name in kept)
    assert {note_of(tmp_path / "out" / name) for name in kept} == {"inverted"}


def test_raises_if_a_single_image_does_not_fit_into_memory(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        inverted(images, tmp_path / "out", 2, room=0)


def test_results_do_not_depend_on_the_batch(
    images: list[Path], tmp_path: Path, write_pairs: Callable[..., Path]
) -> None:
    """With the pocket editor, whose noise belongs to the image."""
    from instructbrush.cli.main import main

    write_pairs(tmp_path / "pairs", 2, size=(64, 64))
    results = []
    for batch in (1, 4):
        out = tmp_path / f"words{batch}"
        given = ["--images", tmp_path / "pairs", "--out", out, "--steps", 3, "--seed", 4, "--batch", batch]
        assert main(["edit", "--words", "make it night", *map(str, given)]) == 0
        results.append([np.asarray(Image.open(path)).astype(int) for path in sorted(out.iterdir())])
    assert len(results[0]) == 4 and all(
        np.abs(one - other).max() <= 1 for one, other in zip(*results, strict=True)
    )
