"""Draws images with titles side by side, such as Fig. 3 of InstructBrush."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...errors import EvaluationError
from ...storage.image_files import open_image
from ...storage.image_tensors import from_image, on_white, to_image

_GAP = 6
_MOST_SIDE = 16384
_TITLE_LINES = 2


@dataclass(frozen=True)
class SheetColumn:
    """A column of a contact sheet."""

    title: str
    images: Sequence[Tensor]
    """[H, W, 3] in 0..1, one for each row; images of a row may differ in size."""


def read_cell(path: Path, cell: int) -> Tensor:
    """Reads an image at no more than twice a cell's width, as [H, W, 3] in 0..1.

    Raises:
        PairError: the file cannot be read.
    """
    image = on_white(open_image(path, path.name, lambda width, _: width // (2 * cell)).image)
    image.thumbnail((2 * cell, _MOST_SIDE), Image.Resampling.LANCZOS)
    return from_image(image)


def contact_sheet(columns: Sequence[SheetColumn], cell: int = 256, title: str = "") -> Image.Image:
    """Draws a column for each setting and a row for each image, with titles above.

    Args:
        columns: equal numbers of images.
        cell: width of the images on the sheet in pixels. Heights follow.
        title: the first line; none if empty.

    Raises:
        EvaluationError: the columns have different numbers of images, or the sheet would be too large.
    """
    counts = {len(column.images) for column in columns}
    if len(counts) != 1 or 0 in counts:
        found = ", ".join(f"{len(column.images)} in '{column.title}'" for column in columns)
        raise EvaluationError(
            f"Contact sheet: every column needs the same number of images, but there are {found or 'none'}."
        )
    rows = [[column.images[row] for column in columns] for row in range(len(columns[0].images))]
    heights = [max(math.ceil(cell * image.shape[0] / image.shape[1]) for image in row) for row in rows]
    font = ImageFont.load_default(max(cell // 14, 10))
    line = round(1.4 * float(getattr(font, "size", 10)))
    titles = [_wrapped(column.title, font, cell) for column in columns]
    head = _GAP + line * bool(title)
    top = head + line * max(len(lines) for lines in titles) + _GAP // 2
    width = _GAP + len(columns) * (cell + _GAP)
    height = top + sum(heights) + _GAP * len(rows)
    if max(width, height) > _MOST_SIDE:
        raise EvaluationError(
            f"Contact sheet: it would have {width} x {height} pixels; at most {_MOST_SIDE} a side are "
            "possible. Choose fewer values or images, or smaller cells."
        )
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, _GAP // 2), _latin(title), fill="black", font=font)
    for column, lines in enumerate(titles):
        center = _GAP + column * (cell + _GAP) + cell / 2
        for number, text in enumerate(lines):
            draw.text((center, head + number * line), text, fill="black", font=font, anchor="ma")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            scaled = to_image(image)
            size = (cell, max(round(cell * image.shape[0] / image.shape[1]), 1))
            if scaled.size != size:
                scaled = scaled.resize(size, Image.Resampling.LANCZOS)
            sheet.paste(scaled, (_GAP + column * (cell + _GAP), top))
        top += heights[row] + _GAP
    return sheet


def pairs_sheet(pairs: Sequence[tuple[Path, Path]], cell: int, title: str = "") -> Image.Image:
    """Draws image files before and after an edit, several pairs beside each other, so that the sheet is about
    as wide as tall.

    Args:
        pairs: (before, after), at least one.
        cell: width of the images on the sheet in pixels.
        title: the first line; none if empty.

    Raises:
        PairError: a file cannot be read.
        EvaluationError: the sheet would be too large.
    """
    rows = math.ceil(len(pairs) / math.ceil(math.sqrt(len(pairs) / 2)))
    blank = torch.ones(1, 1, 3)
    columns = []
    for first in range(0, len(pairs), rows):
        part = pairs[first : first + rows]
        for side, name in enumerate(("before", "after")):
            cells = [read_cell(pair[side], cell) for pair in part]
            columns.append(SheetColumn(name, [*cells, *[blank] * (rows - len(part))]))
    return contact_sheet(columns, cell, title)


def _wrapped(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Breaks a title into at most two lines of the column's width, and cuts the rest."""
    lines = [""]
    for word in _latin(title).split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _TITLE_LINES:
        lines = [*lines[: _TITLE_LINES - 1], f"{lines[_TITLE_LINES - 1]} ..."]
    return [_cut(text, font, width) for text in lines]


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _latin(text: str) -> str:
    """Pillow's built-in font has Latin letters only."""
    return text.encode("latin-1", "replace").decode("latin-1")
