"""Editing many pictures: in batches of one size, reading the next and writing the last while the device works."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..devices import is_out_of_memory
from ..pictures import fit_to_multiple, to_image

_READ_AHEAD = 2
"""Batches."""


class _Picture(NamedTuple):
    path: Path
    size: tuple[int, int]
    """Width and height of the file."""
    fitted: Tensor
    """[H, W, 3], sides as the model takes them."""


def edit_pictures(
    paths: Sequence[Path], out: Path, read: Callable[[Path], Tensor], edit: Callable[[Tensor], Tensor], batch: int, done: Callable[[int], object]
) -> None:
    """Edit pictures and write the results as PNG, under the same names and in the same sizes. What ``read`` raises ends it.

    Args:
        paths: of the pictures.
        out: folder for the results; it must be there.
        read: path -> picture [H, W, 3] in 0..1; called on other threads.
        edit: pictures [B, H, W, 3] in 0..1 -> edited ones; a picture's result must not depend on the others of its batch.
        batch: the largest B; where memory runs out, fewer go at once.
        done: told how many were edited since it was last told.
    """
    with ThreadPoolExecutor(2) as threads:
        written: list[Future[None]] = []
        for group in _batches(_read(paths, read, threads, _READ_AHEAD * batch), batch):
            for picture, edited in zip(group, _edit_fitting(edit, [picture.fitted for picture in group]), strict=True):
                written.append(threads.submit(_write, edited, picture.size, out / f"{picture.path.stem}.png"))
            done(len(group))
        for each in written:
            each.result()


def _read(paths: Sequence[Path], read: Callable[[Path], Tensor], threads: ThreadPoolExecutor, ahead: int) -> Iterator[_Picture]:
    """The pictures in order, a few read ahead."""
    coming: list[Future[_Picture]] = []
    for path in paths:
        coming.append(threads.submit(_open, path, read))
        if len(coming) > ahead:
            yield coming.pop(0).result()
    for each in coming:
        yield each.result()


def _open(path: Path, read: Callable[[Path], Tensor]) -> _Picture:
    picture = read(path)
    return _Picture(path, (picture.shape[1], picture.shape[0]), fit_to_multiple(picture))


def _batches(pictures: Iterator[_Picture], batch: int) -> Iterator[list[_Picture]]:
    waiting: dict[tuple[int, ...], list[_Picture]] = {}
    for picture in pictures:
        group = waiting.setdefault(tuple(picture.fitted.shape), [])
        group.append(picture)
        if len(group) == batch:
            yield waiting.pop(tuple(picture.fitted.shape))
    yield from waiting.values()


def _edit_fitting(edit: Callable[[Tensor], Tensor], pictures: Sequence[Tensor]) -> list[Tensor]:
    """Edit a batch, in parts where it does not fit into memory."""
    try:
        return list(edit(torch.stack(list(pictures))).cpu())
    except RuntimeError as error:
        if len(pictures) == 1 or not is_out_of_memory(error):
            raise
    half = (len(pictures) + 1) // 2
    return [*_edit_fitting(edit, pictures[:half]), *_edit_fitting(edit, pictures[half:])]


def _write(picture: Tensor, size: tuple[int, int], path: Path) -> None:
    to_image(picture).resize(size, Image.Resampling.LANCZOS).save(path)
