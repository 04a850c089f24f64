"""Edits many image files in batches, reading the next files and writing results while the device works."""

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
from ..storage.image_sizes import VAE_STRIDE
from ..storage.image_tensors import fit_to_multiple, from_image, to_image

NOTE_KEY = "instructbrush.edit"
"""Key of the PNG text chunk that identifies how a result was made."""

_READ_AHEAD_BATCHES = 2
# Images wait for others of their size, up to this many batches in all.
_WAITING_BATCHES = 8
# Large images are decoded to at least this many times the pixels that they are edited at.
_DECODE_MARGIN = 4


class EditJob(NamedTuple):
    """An image file to edit."""

    source: Path
    result: Path
    note: Callable[[], str]
    """Makes the text that is stored in the result under ``NOTE_KEY``."""


class EditCallbacks(NamedTuple):
    """Callbacks of ``edit_images``. All are called on the calling thread."""

    edited: Callable[[int], object]
    """Called with the number of images edited since the last call."""
    skipped: Callable[[PairError], object]
    """Called when an image cannot be read. May raise, which stops the editing."""
    remark: Callable[[str], object]
    """Called with a remark on an image for the user."""
    scaled: Callable[[Path, tuple[int, int]], object]
    """Called with the path, width and height of an image that is too large and is edited scaled down."""


class _LoadedImage(NamedTuple):
    job: EditJob
    size: tuple[int, int]
    """Width and height of the upright image."""
    pixels: Tensor
    """[H, W, 3], with sides that the model accepts."""
    transparent: bool
    remarks: tuple[str, ...]


def edit_images(
    jobs: Sequence[EditJob],
    edit: Callable[[Tensor], Tensor],
    batch: int,
    max_pixels: int,
    callbacks: EditCallbacks,
) -> None:
    """Edits images and writes the results as PNG, with the images' sizes and transparency.

    Args:
        jobs: the images.
        edit: edits images [B, H, W, 3] in 0..1. An image's result must not depend on the rest of its batch.
        batch: the largest B. A batch that does not fit into memory is split.
        max_pixels: larger images are scaled down to this many pixels, and their results back up.
        callbacks: report progress.

    Raises:
        StorageError: a result cannot be written. Results that are already written stay.
    """
    with ThreadPoolExecutor(2) as threads:
        images = _read(jobs, max_pixels, callbacks, threads, _READ_AHEAD_BATCHES * batch)
        writes: list[Future[None]] = []
        for group in _batches(images, batch):
            results = _edit_splitting(edit, [image.pixels for image in group])
            for image, edited in zip(group, results, strict=True):
                writes.append(threads.submit(_write, edited, image))
            callbacks.edited(len(group))
            # Check finished writes now: a full disk must stop the run early.
            for write in [write for write in writes if write.done()]:
                writes.remove(write)
                write.result()
        for write in writes:
            write.result()


def note_of(result: Path) -> str | None:
    """Reads the note of a result written by ``edit_images``. None if there is no such file or no note."""
    try:
        with Image.open(result, formats=["PNG"]) as image:
            return image.info.get(NOTE_KEY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _read(
    jobs: Sequence[EditJob],
    max_pixels: int,
    callbacks: EditCallbacks,
    threads: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[_LoadedImage]:
    """Yields the readable images in order and reads ``ahead`` more in the background."""
    pending: list[Future[_LoadedImage]] = []
    remaining = iter(jobs)
    while True:
        free_places = range(ahead + 1 - len(pending))
        for _, job in zip(free_places, remaining, strict=False):
            pending.append(threads.submit(_load, job, max_pixels))
        if not pending:
            return
        try:
            image = pending.pop(0).result()
        except PairError as error:
            callbacks.skipped(error)
            continue
        for remark in image.remarks:
            callbacks.remark(remark)
        if math.prod(image.size) > max_pixels:
            callbacks.scaled(image.job.source, image.size)
        yield image


def _load(job: EditJob, max_pixels: int) -> _LoadedImage:
    opened = open_image(
        job.source,
        job.source.name,
        lambda width, height: math.isqrt(width * height // (_DECODE_MARGIN * max_pixels)),
    )
    rgb = _without_alpha(opened.image)
    if math.prod(opened.size) > max_pixels:
        scale = math.sqrt(max_pixels / math.prod(opened.size)) / VAE_STRIDE
        width = max(round(opened.size[0] * scale), 1) * VAE_STRIDE
        height = max(round(opened.size[1] * scale), 1) * VAE_STRIDE
        pixels = from_image(rgb.resize((width, height), Image.Resampling.LANCZOS))
    else:
        pixels = fit_to_multiple(from_image(rgb), VAE_STRIDE)
    return _LoadedImage(job, opened.size, pixels, rgb is not opened.image, opened.remarks)


def _without_alpha(image: Image.Image) -> Image.Image:
    """Converts to RGB: fully transparent pixels become white, all others keep their color.

    Partly transparent pixels are not mixed with white, because their edges would show it in the result.
    """
    if image.mode == "RGB":
        return image
    visible = image.getchannel("A").point(lambda alpha: 255 if alpha else 0)
    rgb = Image.new("RGB", image.size, "white")
    rgb.paste(image.convert("RGB"), mask=visible)
    return rgb


def _batches(images: Iterator[_LoadedImage], batch: int) -> Iterator[list[_LoadedImage]]:
    """Groups images of one size."""
    waiting: dict[tuple[int, ...], list[_LoadedImage]] = {}
    for image in images:
        shape = tuple(image.pixels.shape)
        group = waiting.setdefault(shape, [])
        group.append(image)
        if len(group) == batch:
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * batch:
            oldest = next(iter(waiting))
            yield waiting.pop(oldest)
    yield from waiting.values()


def _edit_splitting(edit: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> list[Tensor]:
    """Edits a batch. If memory runs out, halves it and tries again."""
    try:
        return list(edit(torch.stack(list(images))).cpu())
    except RuntimeError as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    half = (len(images) + 1) // 2
    return [*_edit_splitting(edit, images[:half]), *_edit_splitting(edit, images[half:])]


def _write(edited: Tensor, loaded: _LoadedImage) -> None:
    job = loaded.job
    image = to_image(edited).resize(loaded.size, Image.Resampling.LANCZOS)
    if loaded.transparent:
        # Read the file again instead of keeping the alpha channels of all waiting images in memory.
        image.putalpha(open_image(job.source, job.source.name).image.getchannel("A"))
    save_image(image, job.result, {NOTE_KEY: job.note()})
