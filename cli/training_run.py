"""A run from the command line: its options, the model it tunes, and the folder with its log, checkpoint, images and what it leaves."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.editing.editor import DiffusersEditor
from ..core.editing.loading import load_editor
from ..core.editing.sampler import edit_latents
from ..core.errors import LearningError, PairError, StorageError
from ..core.finetuning.dataset import Triplet
from ..core.finetuning.trainer import FineTuning, FineTuningSettings
from ..core.learning.checkpoint import keep_checkpoint, load_checkpoint, save_checkpoint
from ..core.models.builtin import POCKET_FOLDER
from ..core.storage.files import check_target, write_elsewhere, write_text
from ..core.storage.images import save_image, to_image
from ..core.storage.json_text import parse_json
from .interrupts import between_steps
from .options import seed_number
from .terminal import say

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

PRECISIONS = ("no", "fp16", "bf16")
_COPIES = 5
"""Of the weights in a checkpoint and a model: with their average and AdamW's two moments."""
SHOWN = 4
"""Pairs in the images that show how far a run is."""
_FROZEN = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision of the computation -> that of VAE and text encoder."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that every kind of fine-tuning has."""
    usual = FineTuningSettings()
    parser.add_argument(
        "--model",
        required=True,
        help="diffusers folder of an InstructPix2Pix model or of plain Stable Diffusion 1.5 or 2.1, or 'pocket'",
    )
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="DIR",
        help="UltraEdit's .parquet files, or folders with pairs.json",
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder of the run: model/, checkpoint.safetensors, log.jsonl, images/. All machines must see it",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--steps", type=int, default=usual.steps, help=f"in all (default {usual.steps})")
    parser.add_argument(
        "--batch",
        type=int,
        default=usual.batch,
        help=f"samples that a process handles at once (default {usual.batch})",
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        default=usual.accumulation,
        help=f"batches of a step (default {usual.accumulation})",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=usual.learning_rate,
        help=f"learning rate (default {usual.learning_rate})",
    )
    parser.add_argument(
        "--warmup",
        type=int,
        default=usual.warmup,
        help=f"steps over which the rate rises (default {usual.warmup})",
    )
    parser.add_argument(
        "--average",
        type=float,
        default=usual.average_decay,
        help=f"decay of the weights' moving average (default {usual.average_decay})",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=256,
        help="pixels of a side; images are scaled and cropped (default 256)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the computation; weights are kept in fp32 (default: accelerate's, else no)",
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="gradient checkpointing: less memory, a third more time"
    )
    parser.add_argument("--seed", type=seed_number, default=usual.seed)
    parser.add_argument(
        "--threads",
        type=int,
        default=usual.threads,
        help=f"that decode images, in each process (default {usual.threads})",
    )
    parser.add_argument(
        "--save-every", type=int, default=1000, help="steps between checkpoints (default 1000)"
    )
    parser.add_argument(
        "--log-every", type=int, default=50, help="steps between lines of log.jsonl (default 50)"
    )
    parser.add_argument(
        "--pictures-every",
        type=int,
        default=1000,
        help="steps between images of what the model does; 0 draws none (default 1000)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with exit code 1 where pairs could not be used and were skipped",
    )
    parser.add_argument(
        "--validation",
        metavar="DIR",
        help="unseen data to show in them (default: the pairs that --data begins with)",
    )


def settings_of(options: argparse.Namespace) -> FineTuningSettings:
    """The options as settings, checked together with the run's folder before anything is loaded.

    Raises:
        LearningError: an option that makes no sense, a run that is there already, or none to resume.
        StorageError: nothing can be written to the folder.
    """
    for name in ("resolution", "save_every", "log_every"):
        if getattr(options, name) < 1:
            raise LearningError(
                f"Fine-tuning: --{name.replace('_', '-')} is {getattr(options, name)}; it must be 1 or more."
            )
    if _checkpoint(options).exists() != options.resume:
        what = (
            "is no checkpoint to go on from: leave --resume away"
            if options.resume
            else "is a run already: add --resume to go on, or choose another --out"
        )
        raise LearningError(f"Fine-tuning: in '{options.out}' there {what}.")
    check_target(_checkpoint(options))
    return FineTuningSettings(
        steps=options.steps,
        batch=options.batch,
        accumulation=options.accumulate,
        learning_rate=options.rate,
        warmup=options.warmup,
        average_decay=options.average,
        seed=options.seed,
        threads=options.threads,
    )


def load_tunable(
    options: argparse.Namespace, device: torch.device, in_channels: int
) -> tuple[DiffusersEditor, Path]:
    """The model to tune as it is on disk, its input widened to ``in_channels``, and the folder it came from.

    Raises:
        LearningError: a resolution that it cannot take.
        ModelError: it cannot be used.
    """
    source = POCKET_FOLDER if options.model == "pocket" else Path(options.model)
    editor = load_editor(source, device, in_channels=in_channels)
    if options.resolution % editor.stride:
        raise LearningError(
            f"Fine-tuning: --resolution {options.resolution} is no multiple of {editor.stride}, the pixels of a latent."
        )
    return editor, source


def make_ready(
    editor: DiffusersEditor, accelerator: Accelerator, checkpointing: bool
) -> UNet2DConditionModel:
    """Bring an editor's frozen parts to the precision of the computation. Returns the UNet, which gets gradients from now on."""
    for frozen in (editor.vae, editor.text_encoder):
        torch.nn.Module.to(
            frozen, dtype=_FROZEN.get(accelerator.mixed_precision, torch.bfloat16)
        )  # diffusers' own warns of nothing
    unet = editor.denoiser.unet.requires_grad_(True)
    network: torch.nn.Module = unet
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # a file holds no other order
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def save_sheet(
    editor: DiffusersEditor, pairs: Sequence[Triplet], path: Path, context: Tensor | None = None
) -> None:
    """One image of what the model does now: a row for each pair, with source, mask (where the model reads one), result and how it should be.

    Args:
        editor: the model.
        pairs: framed alike.
        path: of the image.
        context: text states of each pair, where they are others than those of its words alone.
    """
    reads_mask, unet = editor.description.reads_mask, editor.denoiser.unet.eval()
    before, masks = torch.stack([pair.before for pair in pairs]), torch.stack([pair.mask for pair in pairs])
    condition = editor.condition(before, masks if reads_mask else None)
    context, null = (
        editor.encode_text([pair.words for pair in pairs]) if context is None else context,
        editor.encode_text([""])[0],
    )
    results = editor.decode(
        edit_latents(
            editor.denoiser, condition, context, null, text_scale=editor.description.family.default_text_scale
        )
    ).cpu()
    unet.train()
    rows = []
    for pair, result in zip(pairs, results, strict=True):
        mask = [pair.mask[..., None].expand(-1, -1, 3)] if reads_mask else []
        rows.append(torch.cat([pair.before, *mask, result, pair.after], dim=1))
    save_image(to_image(torch.cat(rows)), path)


def carry_out(
    run: FineTuning,
    options: argparse.Namespace,
    show: Callable[[Path], None] | None,
    keep: Callable[[Path], object],
) -> None:
    """Train to the end, with log, checkpoints and images on the way; everything that is written, the main process writes.

    Args:
        run: one that was just made; with ``--resume`` it goes on from its checkpoint.
        options: of :func:`add_run_options`.
        show: draws what the model does now into a file; called with the averaged weights in place. None draws nothing.
        keep: writes the result into a folder; called likewise, at the end.

    Raises:
        LearningError: the checkpoint is damaged or belongs to another run, or the loss is not finite.
        StorageError: there is no room for a checkpoint, or the model cannot be written; it lies elsewhere then, and the message says where.
        PairError: pairs were skipped, and the run is strict; or none can be used.
    """
    with run.together():
        _carry_out(run, options, show, keep)


def _carry_out(
    run: FineTuning,
    options: argparse.Namespace,
    show: Callable[[Path], None] | None,
    keep: Callable[[Path], object],
) -> None:
    """See :func:`carry_out`."""
    out, checkpoint, steps = Path(options.out), _checkpoint(options), run.settings.steps
    main = run.accelerator.is_main_process
    if options.resume:
        load_checkpoint(run, checkpoint, "Choose another --out to begin anew.")
    log = _Log(out / "log.jsonl", run) if main else None
    if main:
        check_target(checkpoint, _COPIES * sum(parameter.nbytes for parameter in run.parameters.values()))
        say(f"{len(run.stream)} pairs, {run.samples_of_step} a step, from step {run.steps_done}")
    writing = _Writing()
    with (
        tqdm(total=steps, initial=run.steps_done, desc="tuning", unit="step", disable=not main) as bar,
        between_steps() as check,
    ):

        def after_step() -> None:
            bar.update()
            done, last = run.steps_done, run.steps_done == steps
            if done % options.log_every == 0 or last:
                loss = run.mean_loss()
                if log is not None:
                    writing.attempt(log.add, loss)
                    bar.set_postfix(loss=f"{loss:.4f}")
            if main and (done % options.save_every == 0 or last):
                writing.attempt(save_checkpoint, run, checkpoint)
            if (
                main
                and show is not None
                and options.pictures_every
                and (done % options.pictures_every == 0 or last)
            ):
                with run.averaged():
                    writing.attempt(show, out / "pictures" / f"{done:06d}.png")
            if not last:
                check()

        try:
            run.run(after_step)
        except KeyboardInterrupt:
            if main and run.steps_done and run.is_finite():
                say(
                    keep_checkpoint(run, checkpoint)
                    or f"stopped at step {run.steps_done}; go on with --resume"
                )
            raise
    if main:
        with run.averaged():
            _keep(out / "model", keep)
        print(f"{out / 'model'}: {run.steps_done} steps")
    _tell_skipped(run, options.strict)


class _Log:
    """``log.jsonl`` of a run that begins or goes on: what came after the checkpoint is done again."""

    def __init__(self, path: Path, run: FineTuning) -> None:
        self._path, self._run, self._began = path, run, time.monotonic()
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_text("".join(line for line in lines if _step_of(line) <= run.steps_done), path)

    def add(self, loss: float) -> None:
        """Write a line on the step that was just done."""
        done = self._run.steps_done
        line = {
            "step": done,
            "loss": loss,
            "rate": self._run.settings.rate_at(done - 1),
            "seconds": round(time.monotonic() - self._began, 1),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _step_of(line: str) -> float:
    """Of a line of the log; infinity where the line is damaged."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


class _Writing:
    """What is written on the way. Where that fails, the run goes on, and says so once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def attempt(self, write: Callable[..., object], *arguments: Any) -> None:
        try:
            write(*arguments)
        except (StorageError, OSError) as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                say(f"{error} Tuning goes on.")


def _keep(folder: Path, keep: Callable[[Path], object]) -> None:
    try:
        keep(folder)
    except (StorageError, OSError) as error:
        kept = write_elsewhere(folder.name, keep)
        where = (
            f"The model was kept in {kept}."
            if kept
            else "Go on with --resume once it can be: the last checkpoint is enough."
        )
        raise StorageError(f"{error} {where}") from error


def _tell_skipped(run: FineTuning, strict: bool) -> None:
    """Say how many pairs could not be used, those that other processes met included.

    Raises:
        PairError: there are some, and the run is strict.
    """
    from accelerate.utils import gather_object

    skipped = {name: number for part in gather_object([run.stream.skipped]) for name, number in part.items()}
    if skipped and run.accelerator.is_main_process:
        told = f"{sum(skipped.values())} of {len(run.stream)} pairs could not be used and were skipped, as the lines above say"
        if strict:
            raise PairError(f"Fine-tuning: {told}. The model is kept.")
        say(told)


def _checkpoint(options: argparse.Namespace) -> Path:
    return Path(options.out) / "checkpoint.safetensors"
