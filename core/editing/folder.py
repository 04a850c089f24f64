"""Editing many images: in batches of one size, reading the next and writing the last while the device works."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..devices import is_out_of_memory
from ..errors import PairError
from ..storage.image_files import open_image, save_image
from ..storage.image_tensors import fit_to_multiple, from_image, to_image

NOTE = "instructbrush.edit"
"""Key of the PNG text that says what made a result."""
_READ_AHEAD = 2
"""Batches."""
_WAITING = 8
"""Batches; so many images of other sizes may wait for more of their own."""
_STRIDE = 8
_SPARE = 4
"""Large images are decoded at no fewer than this many times the pixels that they are edited at."""


class Job(NamedTuple):
    """An image to edit."""

    source: Path
    result: Path
    note: Callable[[], str]
    """Makes the text that is kept in the result under :data:`NOTE`."""


class _Image(NamedTuple):
    job: Job
    size: tuple[int, int]
    """Width and height of the upright image."""
    fitted: Tensor
    """[H, W, 3], sides as the model takes them."""
    transparent: bool
    remarks: tuple[str, ...]


class Listener(NamedTuple):
    """Who is told what happens; all of it on the thread that edits."""

    done: Callable[[int], object]
    """How many were edited since it was last told."""
    skipped: Callable[[PairError], object]
    """An image that cannot be read. It may raise, which ends the editing."""
    remark: Callable[[str], object]
    """What a user should know of an image."""
    scaled: Callable[[Path, tuple[int, int]], object]
    """An image, of this width and height, that is edited at fewer pixels."""


def edit_images(
    jobs: Sequence[Job], edit: Callable[[Tensor], Tensor], batch: int, pixels: int, told: Listener
) -> None:
    """Edit images and write the results as PNG, in the sizes of the images and with their transparency.

    Args:
        jobs: the images.
        edit: images [B, H, W, 3] in 0..1 -> edited ones; an image's result must not depend on the others of its batch.
        batch: the largest B; where memory runs out, fewer go at once.
        pixels: larger images are scaled down to this many, and their results up.
        told: is told of the progress.

    Raises:
        StorageError: a result cannot be written. Those written before stay.
    """
    with ThreadPoolExecutor(2) as threads:
        written: list[Future[None]] = []
        for group in _batches(_read(jobs, pixels, told, threads, _READ_AHEAD * batch), batch):
            for image, edited in zip(
                group, _edit_fitting(edit, [image.fitted for image in group]), strict=True
            ):
                written.append(threads.submit(_write, edited, image))
            told.done(len(group))
            # A full disk ends it now, not after hours.
            for each in [each for each in written if each.done()]:
                written.remove(each)
                each.result()
        for each in written:
            each.result()


def note_of(result: Path) -> str | None:
    """What made a result that was written by :func:`edit_images`; None where it is not there, or is another file."""
    try:
        with Image.open(result, formats=["PNG"]) as image:
            return image.info.get(NOTE)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _read(
    jobs: Sequence[Job], pixels: int, told: Listener, threads: ThreadPoolExecutor, ahead: int
) -> Iterator[_Image]:
    """The images in order, a few read ahead, without those that cannot be read."""
    coming: list[Future[_Image]] = []
    rest = iter(jobs)
    while True:
        coming += [
            threads.submit(_open, job, pixels)
            for _, job in zip(range(ahead + 1 - len(coming)), rest, strict=False)
        ]
        if not coming:
            return
        try:
            image = coming.pop(0).result()
        except PairError as error:
            told.skipped(error)
            continue
        for remark in image.remarks:
            told.remark(remark)
        if math.prod(image.size) > pixels:
            told.scaled(image.job.source, image.size)
        yield image


def _open(job: Job, pixels: int) -> _Image:
    opened = open_image(
        job.source, job.source.name, lambda width, height: math.isqrt(width * height // (_SPARE * pixels))
    )
    shown = _visible(opened.image)
    if math.prod(opened.size) > pixels:
        scale = math.sqrt(pixels / math.prod(opened.size)) / _STRIDE
        width, height = (max(round(side * scale), 1) * _STRIDE for side in opened.size)
        fitted = from_image(shown.resize((width, height), Image.Resampling.LANCZOS))
    else:
        fitted = fit_to_multiple(from_image(shown), _STRIDE)
    return _Image(job, opened.size, fitted, shown is not opened.image, opened.remarks)


def _visible(image: Image.Image) -> Image.Image:
    """An image as RGB: white where it cannot be seen, and its own colours where it shines through, which keep their edges free of white that way."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image.convert("RGB"), mask=image.getchannel("A").point(lambda alpha: 255 if alpha else 0))
    return white


def _batches(images: Iterator[_Image], batch: int) -> Iterator[list[_Image]]:
    waiting: dict[tuple[int, ...], list[_Image]] = {}
    for image in images:
        group = waiting.setdefault(tuple(image.fitted.shape), [])
        group.append(image)
        if len(group) == batch:
            yield waiting.pop(tuple(image.fitted.shape))
        elif sum(map(len, waiting.values())) >= _WAITING * batch:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def _edit_fitting(edit: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> list[Tensor]:
    """Edit a batch, in parts where it does not fit into memory."""
    try:
        return list(edit(torch.stack(list(images))).cpu())
    except RuntimeError as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    half = (len(images) + 1) // 2
    return [*_edit_fitting(edit, images[:half]), *_edit_fitting(edit, images[half:])]


def _write(edited: Tensor, frame: _Image) -> None:
    image = to_image(edited).resize(frame.size, Image.Resampling.LANCZOS)
    if frame.transparent:
        # Read again: transparency of many large images would take too much memory while they wait.
        image.putalpha(open_image(frame.job.source, frame.job.source.name).image.getchannel("A"))
    save_image(image, frame.job.result, {NOTE: frame.job.note()})
