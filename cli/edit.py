"""``apply`` and ``edit``: images of a folder, edited by an instruction or by words."""

import argparse
import hashlib
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.devices import is_out_of_memory
from ..core.editing.editor import DiffusersEditor
from ..core.editing.folder import Job, Listener, edit_images, note_of
from ..core.errors import DeviceError, InstructBrushError, PairError
from ..core.instruction.file import load_instruction
from ..core.instruction.injection import Injection, inject
from ..core.storage.files import check_writable
from ..core.storage.image_files import IMAGES
from .options import add_model_options, add_scale_options, named_editor, positive, sampling_settings, words
from .terminal import say

_BATCH = 8 if torch.cuda.is_available() else 2
_SIDES = {"pocket": 256, "sd15": 1024, "sd21": 1536}
"""Twice the side of the images that a family was trained on: larger ones are slow, and are edited worse."""


def add_options(applying: argparse.ArgumentParser, editing: argparse.ArgumentParser) -> None:
    """The options of ``apply`` and ``edit``."""
    sides = ", ".join(f"{family} {side}" for family, side in _SIDES.items())
    for parser in (applying, editing):
        add_model_options(parser)
        parser.add_argument("--images", required=True, help="folder of images, or one image")
        parser.add_argument("--out", required=True, help="folder for the results (PNG, same names and sizes)")
        add_scale_options(parser)
        parser.add_argument("--steps", type=positive, default=20)
        parser.add_argument(
            "--batch",
            type=positive,
            default=_BATCH,
            help=f"images of one size at once (default {_BATCH}); fewer where memory runs out",
        )
        parser.add_argument(
            "--size",
            type=positive,
            help=f"images of more than SIZE x SIZE pixels are edited at that many and scaled back (default {sides})",
        )
        parser.add_argument(
            "--strict",
            action="store_true",
            help="stop at the first image that cannot be read; otherwise it is skipped, and the exit code is 1",
        )
        parser.add_argument(
            "--overwrite", action="store_true", help="edit anew what this very command has done before"
        )
    applying.add_argument("--instruction", required=True, help="instruction file")
    applying.add_argument("--strength", type=float, default=1.0)
    applying.add_argument(
        "--end",
        type=int,
        default=0,
        help="T of the paper's Fig. 3: the instruction acts for timesteps T and above",
    )
    editing.add_argument("--words", type=words, required=True)


def apply(options: argparse.Namespace) -> None:
    """Apply an instruction to every image of a folder."""
    instruction = load_instruction(options.instruction)
    images = _images(options)
    editor = named_editor(options)
    for remark in instruction.check_fits(editor.description):
        say(remark)
    injection = inject(instruction, options.strength, end_timestep=options.end, device=editor.denoiser.device)
    made_by = [_digest(Path(options.instruction)), options.strength, options.end]
    _edit_all(options, images, editor, injection, made_by)


def edit(options: argparse.Namespace) -> None:
    """Edit every image of a folder by words."""
    images = _images(options)
    editor = named_editor(options)
    _edit_all(options, images, editor, editor.encode_text([options.words])[0], [options.words])


def _images(options: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Every image and where its result goes.

    Raises:
        InstructBrushError: there are none, or two results would have one name, or replace the images.
        StorageError: the results cannot be written.
    """
    source, out = Path(options.images), Path(options.out)
    try:
        files = [source] if source.is_file() else sorted(source.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InstructBrushError(
            f"Images folder '{source}' does not exist. Give a folder of images, or one image."
        ) from error
    except OSError as error:
        raise InstructBrushError(
            f"Images folder '{source}' cannot be listed: {error.strerror}. Check its permissions."
        ) from error
    # A link that leads nowhere is told as an image that cannot be read; a pipe would never end.
    images = [
        path
        for path in files
        if path == source
        or path.suffix.lower() in IMAGES
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())
    ]
    if not images:
        raise InstructBrushError(f"Images folder '{source}' holds no images ({', '.join(sorted(IMAGES))}).")
    names = [path.stem for path in images]
    counts = Counter(map(os.path.normcase, names))
    # Windows takes names that differ in case alone for one.
    doubled = next((name for name in names if counts[os.path.normcase(name)] > 1), None)
    if doubled is not None:
        raise InstructBrushError(
            f"Images folder '{source}' holds two images named '{doubled}': their results would overwrite each other. Rename one."
        )
    if os.path.realpath(out) == os.path.realpath(images[0].parent):
        raise InstructBrushError(
            f"Results would be written among the inputs in '{out}'. Give another --out folder."
        )
    results = [out / f"{name}.png" for name in names]
    check_writable(results[0])
    return list(zip(images, results, strict=True))


def _edit_all(
    options: argparse.Namespace,
    images: list[tuple[Path, Path]],
    editor: DiffusersEditor,
    instruction: Tensor | Injection,
    made_by: list[object],
) -> None:
    sampling = sampling_settings(options, options.steps)
    side = options.size or _SIDES[editor.description.family.name]
    settings = [
        sampling.steps,
        sampling.text_scale_for(editor.description.family),
        sampling.image_scale,
        options.seed,
        side,
        options.precision,
        options.model,
        editor.description.fingerprint,
    ]

    def job(source: Path, result: Path) -> Job:
        return Job(
            source,
            result,
            lambda: hashlib.sha256(json.dumps([_digest(source), *made_by, *settings]).encode()).hexdigest(),
        )

    def edited(batch: Tensor) -> Tensor:
        # Every image gets the same noise, whatever batch it lands in.
        seeds = (options.seed,) * len(batch)
        return editor.edit(batch, instruction, replace(sampling, seed=seeds))

    jobs = [job(*image) for image in images]
    if not options.overwrite:
        jobs = [job for job in jobs if not _is_done(job)]
    progress = _Progress(len(images), len(jobs), side, options.strict)
    with progress.bar:
        try:
            edit_images(
                jobs,
                edited,
                options.batch,
                side * side,
                Listener(progress.bar.update, progress.skip, say, progress.say_scaled),
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"Memory ran out with one image at a time. Give a --size below {side}, or another --device. What is done stays."
            ) from error
    progress.end(options.out)


class _Progress:
    """What a user sees."""

    def __init__(self, images: int, to_do: int, side: int, strict: bool) -> None:
        self.bar = tqdm(total=to_do, desc="editing", unit="image")
        self._images, self._to_do, self._side, self._strict = images, to_do, side, strict
        self._skipped = 0
        self._scaled = False

    def skip(self, error: PairError) -> None:
        if self._strict:
            raise error
        self._skipped += 1
        self.bar.update()
        say(f"{error} It is skipped.")

    def say_scaled(self, source: Path, size: tuple[int, int]) -> None:
        if not self._scaled:
            side = f"{self._side} x {self._side}"
            say(
                f"'{source.name}' is {size[0]} x {size[1]}: images of more than {side} pixels are edited at that many and scaled back. Change it with --size."
            )
        self._scaled = True

    def end(self, out: str) -> None:
        """Print what was done.

        Raises:
            PairError: images were skipped.
        """
        before = self._images - self._to_do
        counts = f"{out}: {self._to_do - self._skipped} of {self._images} images edited" + (
            f", {before} done before" if before else ""
        )
        if self._skipped:
            raise PairError(
                f"{counts}, {self._skipped} skipped. Mend or remove what was skipped, and give the same command again: what is done stays."
            )
        print(counts)


def _is_done(job: Job) -> bool:
    made_by = note_of(job.result)
    try:
        return made_by is not None and made_by == job.note()
    except PairError:
        return False


def _digest(path: Path) -> str:
    """Hex digits of a file's content.

    Raises:
        PairError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    except OSError as error:
        raise PairError(
            f"'{path.name}' cannot be read ({error.strerror}). Check that it is there and may be read."
        ) from error
    return digest.hexdigest()
