"""``sweep``: applies an instruction with several values of one setting and draws a contact sheet (Fig. 3)."""

import argparse
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..core.editing.image_folders import check_not_among_inputs, is_readable, list_images
from ..core.editing.sweeps import labels, parse_values, shortest
from ..core.errors import InstructBrushError, PairError
from ..core.evaluation.reports.contact_sheet import SheetColumn, contact_sheet, read_cell
from ..core.instruction.file import load_instruction
from ..core.storage.files import check_writable
from ..core.storage.image_files import open_image, save_image
from .edit import add_common_options, add_noise_options, apply_loaded, find_images, injection_of
from .options import Several, load_chosen_editor, positive_int
from .terminal import say

# Name of a setting, which is its option of ``apply`` -> its name on the sheet, and the default values.
_SETTINGS = {
    "end": ("T", "1000:0:-200"),
    "strength": ("strength", "0:1.5:0.25"),
    "text-scale": ("s_T", "1:9:2"),
    "image-scale": ("s_I", "1:2:0.25"),
}

SHEET = "sheet.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``sweep``."""
    add_common_options(parser)
    parser.add_argument("--instruction", required=True, help="instruction file")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="strength of the instruction, as in apply (default 1)"
    )
    parser.add_argument("--end", type=int, default=0, help="as for apply")
    add_noise_options(parser)
    parser.add_argument(
        "--over",
        choices=tuple(_SETTINGS),
        default="end",
        help="the setting that varies: end is T of the paper's Fig. 3 (default end)",
    )
    parser.add_argument(
        "--values",
        action=Several,
        metavar="VALUE",
        help="its values, or ranges such as 1000:0:-200; a range that begins with a minus follows an equals "
        "sign: --values=-1:1:0.5 (default for end: 1000:0:-200)",
    )
    parser.add_argument(
        "--rows", type=positive_int, default=8, help="the sheet shows the first ROWS images (default 8)"
    )
    parser.add_argument("--cell", type=positive_int, default=256, help="width of its images (default 256)")


def sweep(options: argparse.Namespace) -> None:
    """Applies an instruction with each value and writes a folder for each value, and the contact sheet.

    Raises:
        InstructBrushError: a value is not valid, the sheet would be too large, or ``--out`` is the folder of
            the images. Nothing is written then.
        PairError: images were skipped. The sheet shows the others.
    """
    name, default_values = _SETTINGS[options.over]
    values = parse_values(" ".join(options.values or [default_values]))
    instruction = load_instruction(options.instruction)
    runs = [_with_value(options, value) for value in values]
    for run in runs:
        injection_of(run, instruction)
    titles = labels(name, values)
    sources = list_images(Path(options.images))
    check_not_among_inputs(Path(options.out), sources[0])
    _check_sheet(options, sources, titles)
    images = [find_images(run) for run in runs]
    sheet_file = Path(options.out) / SHEET
    check_writable(sheet_file)
    editor = load_chosen_editor(options)
    for remark in instruction.check_fits(editor.description):
        say(remark)
    skipped = None
    for run, run_images in zip(runs, images, strict=True):
        try:
            apply_loaded(run, instruction, run_images, editor)
        except PairError as error:
            if options.strict:
                raise
            skipped = error
    _write_sheet(options, sheet_file, images, titles)
    if skipped is not None:
        raise skipped


def _with_value(options: argparse.Namespace, value: float) -> argparse.Namespace:
    """Returns the options of ``apply`` for one value.

    Raises:
        InstructBrushError: the setting takes whole numbers only.
    """
    name = options.over.replace("-", "_")
    if name == "end":
        if value != int(value):
            raise InstructBrushError(f"--over end takes whole timesteps, not {shortest(value)}.")
        value = int(value)
    out = Path(options.out) / f"{name}_{shortest(value)}"
    return argparse.Namespace(**{**vars(options), name: value, "out": str(out)})


def _check_sheet(options: argparse.Namespace, sources: Sequence[Path], titles: Sequence[str]) -> None:
    """Draws an empty sheet, so that one that is too large is refused before anything is edited."""
    cells: list[torch.Tensor] = []
    for source in sources:
        if len(cells) == options.rows:
            break
        with suppress(PairError):  # reported when it is edited
            width, height = open_image(source, source.name, lambda width, _: width // 64).size
            tall = math.ceil(options.cell * height / width)
            cells.append(torch.zeros(1).expand(tall, options.cell, 3))
    if cells:
        contact_sheet([SheetColumn(title, cells) for title in ("input", *titles)], options.cell, "-")


def _write_sheet(
    options: argparse.Namespace, file: Path, images: Sequence[list[tuple[Path, Path]]], titles: Sequence[str]
) -> None:
    # Images that cannot be read have no results, or those of an earlier run.
    rows = [row for row, (source, result) in enumerate(images[0]) if result.is_file() and is_readable(source)]
    if not rows:
        return
    shown = rows[: options.rows]
    columns = [SheetColumn("input", [read_cell(images[0][row][0], options.cell) for row in shown])]
    for title, run_images in zip(titles, images, strict=True):
        columns.append(SheetColumn(title, [read_cell(run_images[row][1], options.cell) for row in shown]))
    save_image(contact_sheet(columns, options.cell, Path(options.instruction).stem), file)
    left_out = f", the first {len(shown)} of {len(rows)} images" if len(shown) < len(rows) else ""
    print(f"{file}: {len(titles)} values{left_out}")
