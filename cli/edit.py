"""``apply`` and ``edit``: edit a folder of images by an instruction or by words."""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.devices import is_out_of_memory
from ..core.diffusion.schedule import TRAIN_TIMESTEPS
from ..core.editing.batch_editing import EditCallbacks, EditJob, edit_images, note_of
from ..core.editing.editor import DiffusersEditor
from ..core.editing.image_folders import check_not_among_inputs, is_readable, list_images
from ..core.errors import DeviceError, InstructBrushError, PairError
from ..core.evaluation.reports.contact_sheet import pairs_sheet
from ..core.instruction.file import load_instruction
from ..core.instruction.injection import Injection, inject
from ..core.instruction.instruction import Blend, Instruction, own_scales
from ..core.instruction.learned_noise import learned_noise_seed
from ..core.instruction.segment_strengths import parse_segment_strengths
from ..core.models.families import FAMILIES, Family
from ..core.storage.files import check_writable
from ..core.storage.image_files import save_image
from ..core.windows import is_windows
from .options import (
    add_model_options,
    add_scale_options,
    load_chosen_editor,
    positive_int,
    sampling_settings,
    utf8_text,
)
from .terminal import say

_SHEET_ROWS = 20
_SHEET_CELL = 384
_BATCH_ON_GPU = 8
_BATCH_ON_CPU = 2


def _default_side(family: Family) -> int:
    """Larger images are slow and come out worse."""
    return 2 * family.side


def add_options(apply_parser: argparse.ArgumentParser, edit_parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``apply`` and ``edit``."""
    for parser in (apply_parser, edit_parser):
        add_common_options(parser)
    apply_parser.add_argument("--instruction", required=True, help="instruction file")
    apply_parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="0 leaves the image to the model, 1 is as learned; larger and negative values extrapolate "
        "(default 1)",
    )
    apply_parser.add_argument(
        "--end",
        type=int,
        default=0,
        help="T of the paper's Fig. 3: the instruction acts for timesteps T and above (default 0: all)",
    )
    add_noise_options(apply_parser)
    edit_parser.add_argument(
        "--words", type=utf8_text, required=True, help="what to do, such as 'make it snowy'"
    )
    for parser in (apply_parser, edit_parser):
        parser.add_argument(
            "--sheet",
            type=Path,
            metavar="FILE.png",
            help=f"also draw the first {_SHEET_ROWS} images before and after side by side",
        )


def add_noise_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say at which noise an instruction acts, without ``--end``."""
    parser.add_argument(
        "--start",
        type=int,
        default=TRAIN_TIMESTEPS,
        help=f"the instruction acts for timesteps below this one (default {TRAIN_TIMESTEPS}: from the start)",
    )
    parser.add_argument(
        "--segment-strengths",
        type=utf8_text,
        default="",
        metavar="NUMBERS",
        help="factors of the strength for every segment, from low noise (detail) to high noise (layout), "
        "for example 1,1,1,0.5,0 (default 1 for all)",
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command that edits images."""
    add_model_options(parser)
    parser.add_argument("--images", required=True, help="folder of images, or one image")
    parser.add_argument("--out", required=True, help="folder for the results (PNG, same names and sizes)")
    add_scale_options(parser)
    parser.add_argument("--steps", type=positive_int, default=20, help="sampling steps (default 20)")
    parser.add_argument(
        "--fixed-noise",
        action="store_true",
        help="take the noise that learning with fixed noise has at every timestep (Visii): apply with the "
        "seed of learning, edit with --seed",
    )
    parser.add_argument(
        "--batch",
        type=positive_int,
        help=f"images of one size at once (default {_BATCH_ON_GPU}, on the CPU {_BATCH_ON_CPU}); fewer if "
        "memory runs out",
    )
    families = [family for family in FAMILIES.values() if not family.comfyui_only]
    sides = ", ".join(f"{family.name} {_default_side(family)}" for family in families)
    parser.add_argument(
        "--size",
        type=positive_int,
        help="images of more than SIZE x SIZE pixels are edited at that many and scaled back "
        f"(default {sides})",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image that cannot be read; otherwise it is skipped, and the exit code is 1",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="edit all images again, also those that the same command has edited before",
    )


def apply(options: argparse.Namespace) -> None:
    """Applies an instruction to every image of a folder."""
    instruction = load_instruction(options.instruction)
    images = find_images(options)
    editor = load_chosen_editor(options)
    for remark in instruction.check_fits(editor.description):
        say(remark)
    with _sheet(options, images, Path(options.instruction).stem):
        apply_loaded(options, instruction, images, editor)


def apply_loaded(
    options: argparse.Namespace,
    instruction: Instruction | Blend,
    images: list[tuple[Path, Path]],
    editor: DiffusersEditor,
) -> None:
    """Applies an instruction to images, each given with the path of its result.

    Raises:
        PairError: images were skipped.
    """
    injection = injection_of(options, instruction, editor.denoiser.device)
    identity = [_digest(Path(options.instruction)), options.strength, options.end]
    if options.start != TRAIN_TIMESTEPS:
        identity.append(f"start {options.start}")
    factors = parse_segment_strengths(options.segment_strengths)
    if factors is not None:
        identity.append(factors)
    own = None if injection.is_identity else own_scales(instruction)
    if options.fixed_noise:
        options.seed = learned_noise_seed(instruction)
    _edit_all(options, images, editor, injection, identity, own)


def injection_of(
    options: argparse.Namespace, instruction: Instruction | Blend, device: torch.device | str = "cpu"
) -> Injection:
    """Prepares an instruction as the options of ``apply`` say.

    Raises:
        InstructionError: a strength or the timestep range is not valid.
    """
    factors = parse_segment_strengths(options.segment_strengths)
    return inject(instruction, options.strength, factors, options.start, options.end, device)


def edit(options: argparse.Namespace) -> None:
    """Edits every image of a folder by words."""
    images = find_images(options)
    editor = load_chosen_editor(options)
    with _sheet(options, images, options.words):
        _edit_all(options, images, editor, editor.encode_text([options.words])[0], [options.words])


@contextmanager
def _sheet(options: argparse.Namespace, images: Sequence[tuple[Path, Path]], title: str) -> Iterator[None]:
    """Draws the sheet of ``--sheet`` at the end, also if images were skipped.

    Raises:
        InstructBrushError: the file is no .png or is one of the images, or cannot be written.
    """
    file = options.sheet
    if file is None:
        yield
        return
    if file.suffix.lower() != ".png" or file.resolve() in {
        path.resolve() for pair in images for path in pair
    }:
        raise InstructBrushError(
            f"--sheet '{file}' must be a .png file that is none of the images. Give another name."
        )
    check_writable(file)
    try:
        yield
    except PairError:
        # Some images were skipped; the sheet shows the others.
        _draw_sheet(file, images, title)
        raise
    _draw_sheet(file, images, title)


def _draw_sheet(file: Path, images: Sequence[tuple[Path, Path]], title: str) -> None:
    # An older result may be there although the image cannot be read any more.
    shown = list(islice((pair for pair in images if pair[1].is_file() and is_readable(pair[0])), _SHEET_ROWS))
    if not shown:
        return
    save_image(pairs_sheet(shown, _SHEET_CELL, title), file)
    print(file)


def find_images(options: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Lists the images, each with the path of its result.

    Raises:
        InstructBrushError: there are no images, two results would have the same name, or results would
            overwrite images.
        StorageError: the results cannot be written.
    """
    source = Path(options.images)
    out = Path(options.out)
    images = list_images(source)
    names = [path.stem for path in images]
    # Windows and macOS ignore case in names.
    alike = str.casefold if is_windows() or sys.platform == "darwin" else str
    counts = Counter(map(alike, names))
    duplicate = next((name for name in names if counts[alike(name)] > 1), None)
    if duplicate is not None:
        raise InstructBrushError(
            f"Images folder '{source}' holds two images named '{duplicate}': their results would overwrite "
            "each other. Rename one."
        )
    check_not_among_inputs(out, images[0])
    results = [out / f"{name}.png" for name in names]
    check_writable(results[0])
    return list(zip(images, results, strict=True))


def _edit_all(
    options: argparse.Namespace,
    images: list[tuple[Path, Path]],
    editor: DiffusersEditor,
    instruction: Tensor | Injection,
    identity: list[object],
    own: tuple[float, float] | None = None,
) -> None:
    """Edits the images that the same command has not edited before.

    Args:
        options: the options of the command.
        images: each image with the path of its result.
        editor: the model.
        instruction: text states [L, D], or a learned instruction.
        identity: values that identify the instruction.
        own: the instruction's own guidance scales.
    """
    sampling = sampling_settings(options, options.steps).with_scales_for(editor.description.family, own)
    sampling = replace(sampling, fixed_noise=options.fixed_noise)
    side = options.size or _default_side(editor.description.family)
    batch = options.batch or (_BATCH_ON_CPU if editor.denoiser.device.type == "cpu" else _BATCH_ON_GPU)
    settings = [
        sampling.steps,
        sampling.text_scale,
        sampling.image_scale,
        options.seed,
        side,
        options.precision,
        options.model,
        editor.description.fingerprint,
    ]
    if options.fixed_noise:
        settings.append("fixed noise")

    def job_of(source: Path, result: Path) -> EditJob:
        def note() -> str:
            made_from = [_digest(source), *identity, *settings]
            return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

        return EditJob(source, result, note)

    def edit_batch(batch: Tensor) -> Tensor:
        # Every image gets the same noise, so results do not depend on batches.
        seeds = (options.seed,) * len(batch)
        return editor.edit(batch, instruction, replace(sampling, seed=seeds))

    jobs = [job_of(*image) for image in images]
    if not options.overwrite:
        jobs = [job for job in jobs if not _is_done(job)]
    progress = _Progress(len(images), len(jobs), side, options.strict)
    callbacks = EditCallbacks(progress.bar.update, progress.skip, say, progress.report_scaled)
    with progress.bar:
        try:
            edit_images(jobs, edit_batch, batch, side * side, callbacks)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"Memory ran out with one image at a time. Give a --size below {side}, or another --device. "
                "Finished images are kept."
            ) from error
    progress.finish(options.out)


class _Progress:
    """Progress bar, messages and counts."""

    def __init__(self, images: int, to_do: int, side: int, strict: bool) -> None:
        self.bar = tqdm(total=to_do, desc="editing", unit="image")
        self._images = images
        self._to_do = to_do
        self._side = side
        self._strict = strict
        self._skipped = 0
        self._reported_scaling = False

    def skip(self, error: PairError) -> None:
        """Counts and reports an image that cannot be read. Raises the error if the run is strict."""
        if self._strict:
            raise error
        self._skipped += 1
        self.bar.update()
        say(f"{error} It is skipped.")

    def report_scaled(self, source: Path, size: tuple[int, int]) -> None:
        """Says that large images are edited scaled down. Only the first is reported."""
        if self._reported_scaling:
            return
        self._reported_scaling = True
        side = f"{self._side} x {self._side}"
        say(
            f"'{source.name}' is {size[0]} x {size[1]}: images of more than {side} pixels are edited at that "
            "many and scaled back. Change it with --size."
        )

    def finish(self, out: str) -> None:
        """Prints how many images were edited.

        Raises:
            PairError: images were skipped.
        """
        counts = f"{out}: {self._to_do - self._skipped} of {self._images} images edited"
        done_before = self._images - self._to_do
        if done_before:
            counts += f", {done_before} done before"
        if self._skipped:
            raise PairError(
                f"{counts}, {self._skipped} skipped. Repair or remove the skipped images and run the same "
                "command again: it edits only what is missing."
            )
        print(counts)


def _is_done(job: EditJob) -> bool:
    note = note_of(job.result)
    try:
        return note is not None and note == job.note()
    except PairError:
        return False


def _digest(path: Path) -> str:
    """SHA-256 of a file's content, as hex digits.

    Raises:
        PairError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise PairError(
            f"'{path.name}' cannot be read ({error.strerror}). Check that it exists, and its permissions."
        ) from error
    return digest.hexdigest()
