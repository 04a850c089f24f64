"""The command ``learn``: an instruction from a folder of pairs, with checkpoints that the same command
resumes from."""

import argparse
import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..core.editing.editor import DiffusersEditor
from ..core.errors import InstructBrushError, InstructionError, LearningError, StorageError
from ..core.instruction.file import check_size, save_instruction
from ..core.instruction.instruction import Instruction, own_scales
from ..core.learning import checkpoint as checkpoints
from ..core.learning.objective import PairLatents
from ..core.learning.request import InitText, LearningRequest, with_direction
from ..core.learning.run import RunCallbacks, ScaleChoice, wants_scales
from ..core.learning.run import learn as run_learning
from ..core.learning.settings import AUTO, PRESETS, LearningSettings, preset_for, read_changes_of
from ..core.learning.trainer import Trainer
from ..core.pairs.pairs import FITS, EditPairs, load_pairs
from ..core.pairs.thumbnail import thumbnail
from ..core.storage.files import check_writable, write_elsewhere
from ..core.storage.names import resolve_inside
from . import init_text
from .interrupts import deferred_interrupts
from .options import Several, add_model_options, load_chosen_editor, positive_int
from .terminal import say

_SUFFIX = ".safetensors"
CHECKPOINT_SECONDS = checkpoints.CHECKPOINT_SECONDS
"""Least seconds between two checkpoints."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``learn``."""
    add_model_options(parser)
    parser.add_argument(
        "--pairs",
        required=True,
        help="folder: {i}_0/{i}_1 images, before/ and after/, pairs.json, or .parquet tables",
    )
    parser.add_argument("--out", required=True, help="instruction file to write (.safetensors)")
    init_text.add_options(parser)
    parser.add_argument(
        "--space",
        choices=tuple(PRESETS),
        default="attention",
        help="attention: keys and values of every cross-attention layer (InstructBrush); text: text states "
        "(Visii); adapter: low-rank residuals in every attention layer, with keys and values (default "
        "attention)",
    )
    parser.add_argument(
        "--preset",
        choices=(AUTO, *dict.fromkeys(name for names in PRESETS.values() for name in names)),
        default=AUTO,
        help="auto: pocket for the pocket editor, paper for other models (full_size for adapters); paper: "
        "the paper's settings, with "
        "Eq. 5 as printed; paper_guided: the same, learned on the guided prediction with s_T 7.5 and s_I "
        "1.5. The options below change the preset (default auto)",
    )
    parser.add_argument("--steps", type=int, help="learning steps (default: the preset's)")
    parser.add_argument(
        "--learning-rate",
        type=float,
        help="rate of the first step; the last one's follows in proportion. In the adapter space it is the "
        "rate of the rows, and --set adapter_rate=RATE is that of the rest",
    )
    parser.add_argument("--final-learning-rate", type=float, help="rate of the last step")
    parser.add_argument(
        "--objective",
        choices=("plain", "guided"),
        help="plain: the error of the instructed branch (Eq. 5); guided: of the guided prediction (default: "
        "the preset's)",
    )
    parser.add_argument(
        "--noise",
        choices=("fresh", "fixed"),
        help="fixed: every timestep always has the same noise and pair, and apply --fixed-noise edits with "
        "the same noise (Visii)",
    )
    parser.add_argument(
        "--set",
        action=Several,
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of learning, such as weight_decay=0.01, clip_norm=1, include_bos=true or "
        "weighting=none",
    )
    parser.add_argument(
        "--guidance",
        choices=("search", "default"),
        help="search: after learning, try a few guidance scales on the pairs, with new noise, and store the "
        "best in the file, for apply (at most 15%% of the time); default: store none, so that apply uses the "
        "model's. Without it: search, except with --preset paper and paper_guided, whose scales are the "
        "paper's",
    )
    parser.add_argument(
        "--size", type=positive_int, help="scale and crop every image to a square of this many pixels"
    )
    parser.add_argument(
        "--fit",
        choices=FITS,
        default="stop",
        help="what to do with a pair of two aspect ratios (default: stop)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first pair that cannot be read; otherwise such pairs are left out",
    )
    parser.add_argument(
        "--file-precision",
        choices=("fp16", "fp32"),
        default="fp16",
        help="precision of the instruction file. fp16 (default): half the size. On two effects of the pocket "
        "editor the edits differed by less than .001 dB (no raw file)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace --out if it exists, and a checkpoint that this run cannot resume from",
    )


def learn(options: argparse.Namespace) -> None:
    """Learns an instruction from a folder of pairs. Stopped by Ctrl-C, ``kill`` or an error, it leaves a
    checkpoint, and the same command resumes from it.

    Raises:
        StorageError: the instruction cannot be written to ``--out``; the message says where it is kept
        instead.
        InstructBrushError: model, pairs or options cannot be used.
    """
    out = _checked_out(options)
    editor = load_chosen_editor(options)
    settings = _settings(options, editor)
    pairs = load_pairs(options.pairs, options.size, options.fit, options.strict)
    for remark in pairs.remarks:
        say(remark)
    run = _Run(out, options.overwrite, options.file_precision == "fp16")
    scales = ScaleChoice() if wants_scales(options.preset, options.guidance) else None
    instruction = run_learning(_request(options, editor, pairs, settings, out.stem), run, scales)
    _save(instruction, options, out, thumbnail(pairs))
    remove_checkpoints(run.checkpoint, run.other_checkpoint)
    own = own_scales(instruction)
    guidance = "" if own is None else f", guidance s_T {own[0]:g}, s_I {own[1]:g}"
    print(f"{out}: {instruction.info.steps} steps, loss {instruction.info.final_loss:.4f}{guidance}")


def _checked_out(options: argparse.Namespace) -> Path:
    """The file of ``--out``, after a check that it can be written."""
    path = Path(options.out)
    if path.suffix != _SUFFIX:
        raise InstructionError(f"--out '{options.out}' must be a file that ends in {_SUFFIX}.")
    out = resolve_inside(path.parent, path.name, _SUFFIX, new=True)
    if out.exists() and not options.overwrite:
        raise InstructBrushError(f"'{out}' exists already. Choose another name, or add --overwrite.")
    check_writable(out)
    return out


def _settings(options: argparse.Namespace, editor: DiffusersEditor) -> LearningSettings:
    settings = preset_for(editor.description.family.name, options.space, options.preset)
    changes = dict(read_changes_of(options.space, options.set))
    for name in ("steps", "objective", "learning_rate", "final_learning_rate", "noise"):
        value = getattr(options, name)
        if value is not None:
            changes[name] = value
    settings = replace(settings.changed(**changes), seed=options.seed)
    if settings.space == "adapter" and not settings.tokens and options.learning_rate is not None:
        raise LearningError(
            "--learning-rate is the rate of the rows, and tokens=0 leaves none. Use --set adapter_rate=RATE."
        )
    return settings


def _request(
    options: argparse.Namespace,
    editor: DiffusersEditor,
    pairs: EditPairs,
    settings: LearningSettings,
    title: str,
) -> LearningRequest:
    latents = PairLatents.encode(pairs, editor.encode_images, editor.scale, editor.condition)
    clip = None
    if settings.direction_weight or init_text.needs_clip(options):
        clip = init_text.chosen_clip(options, editor)
    text = init_text.find_init_text(options, pairs, clip)
    context, null_context = editor.encode_text([text, ""])
    choice = with_direction(settings, pairs, clip, context.shape[1])
    request = LearningRequest(
        editor.denoiser,
        latents,
        InitText(text, context, editor.count_tokens(text)),
        null_context,
        choice.settings,
        choice.direction,
        title=title,
        direction_remark=choice.remark,
    )
    for remark in request.remarks:
        say(remark)
    return request


class _Run(RunCallbacks):
    """Progress bar, signals and checkpoints of a run.

    Args:
        out: the instruction file; the checkpoint lies beside it.
        overwrite: whether the run may start anew over a checkpoint of another run.
        half: whether the file is saved in fp16.
    """

    def __init__(self, out: Path, overwrite: bool, half: bool) -> None:
        self._out = out
        self._half = half
        self._overwrite = overwrite
        self.checkpoint = out.with_name(f".{out.stem}.checkpoint")
        self.other_checkpoint: Path | None = None
        """A checkpoint of another name that the run was resumed from."""

    def before_steps(self, trainer: Trainer) -> None:
        size = trainer.file_size(self._half)
        check_size(size)
        check_writable(self._out, size)
        if self.checkpoint.exists():
            self._resume_own(trainer)
        else:
            self._resume_other(trainer)

    def _resume_own(self, trainer: Trainer) -> None:
        hint = "Choose another --out, or add --overwrite to start again."
        try:
            checkpoints.load_checkpoint(trainer, self.checkpoint, hint)
        except LearningError as error:
            if not self._overwrite:
                raise
            say(f"{error} Learning starts from the beginning.")
        else:
            say(f"resuming at step {trainer.steps_done} ({self.checkpoint})")

    def _resume_other(self, trainer: Trainer) -> None:
        """Resumes from a checkpoint that the same run left under another name."""
        folder = self.checkpoint.parent
        found = checkpoints.find_checkpoint(trainer, folder, ".*.checkpoint", trainer.settings.steps)
        if found is None:
            return
        try:
            checkpoints.load_checkpoint(trainer, found, "Remove it.")
        except LearningError as error:
            say(f"{error} Learning starts from the beginning.")
        else:
            say(f"resuming at step {trainer.steps_done} ({found})")
            self.other_checkpoint = found

    @contextlib.contextmanager
    def surroundings(self, trainer: Trainer) -> Iterator[None]:
        def save() -> None:
            trainer.check_finite()
            checkpoints.save_checkpoint(trainer, self.checkpoint)

        self._schedule = checkpoints.CheckpointSchedule(save, say, CHECKPOINT_SECONDS)
        self._bar = tqdm(
            total=trainer.settings.steps, initial=trainer.steps_done, desc="learning", unit="step"
        )
        with self._bar, deferred_interrupts() as raise_if_interrupted:
            self._raise_if_interrupted = raise_if_interrupted
            yield

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        self._bar.update()
        if done < total:
            self._raise_if_interrupted()
            self._schedule.save_if_due()

    def after_candidate(self, trainer: Trainer, done: int, total: int) -> None:
        if done < total:
            self._raise_if_interrupted()

    def discard(self, trainer: Trainer) -> None:
        remove_checkpoints(self.checkpoint)

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        if trainer.steps_done and math.isfinite(trainer.losses[-1]):
            say(
                checkpoints.keep_checkpoint(trainer, self.checkpoint)
                or f"stopped at step {trainer.steps_done}; the same command resumes there"
            )


def _save(instruction: Instruction, options: argparse.Namespace, out: Path, image: Image.Image) -> None:
    def save(path: Path) -> Path:
        return save_instruction(
            instruction,
            path,
            overwrite=options.overwrite,
            thumbnail=image,
            half=options.file_precision == "fp16",
        )

    try:
        save(out)
    except (InstructBrushError, OSError) as error:
        kept = write_elsewhere(out.name, save)
        where = (
            f"The instruction is kept as {kept}."
            if kept
            else "The instruction could not be saved elsewhere either."
        )
        raise StorageError(f"{error} {where}") from error


def remove_checkpoints(*checkpoint_files: Path | None) -> None:
    """Removes checkpoints, those that can be removed."""
    for path in checkpoint_files:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
