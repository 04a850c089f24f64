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
from ..core.encoders.clip import OpenClipModel
from ..core.encoders.clip_loading import load_clip
from ..core.encoders.pocket_clip import pocket_clip
from ..core.errors import InstructBrushError, InstructionError, LearningError, StorageError
from ..core.instruction.file import save_instruction
from ..core.instruction.instruction import Instruction
from ..core.learning import checkpoint as checkpoints
from ..core.learning.init_text.captions import caption_images
from ..core.learning.init_text.phrases import unique_phrases
from ..core.learning.objective import PairLatents
from ..core.learning.request import InitText, LearningRequest, with_direction
from ..core.learning.run import RunCallbacks
from ..core.learning.run import learn as run_learning
from ..core.learning.settings import LearningSettings, preset_for
from ..core.learning.trainer import Trainer
from ..core.pairs.pairs import FITS, EditPairs, load_pairs, thumbnail
from ..core.storage.files import check_writable, write_elsewhere
from ..core.storage.names import resolve_inside
from .interrupts import deferred_interrupts
from .options import add_model_options, load_chosen_editor, positive_int, utf8_text
from .terminal import say

_SUFFIX = ".safetensors"
CHECKPOINT_SECONDS = checkpoints.CHECKPOINT_SECONDS
"""Least seconds between two checkpoints."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``learn``."""
    add_model_options(parser)
    parser.add_argument(
        "--pairs", required=True, help="folder: {i}_0/{i}_1 images, before/ and after/, or pairs.json"
    )
    parser.add_argument("--out", required=True, help="instruction file to write (.safetensors)")
    parser.add_argument("--init", type=utf8_text, default="", help="words that are close to the edit")
    parser.add_argument(
        "--begin",
        choices=("words", "phrases", "caption"),
        default="words",
        help="what learning starts from: the words of --init, unique phrases (InstructBrush), or a caption "
        "of the images after (Visii)",
    )
    parser.add_argument(
        "--space",
        choices=("attention", "text"),
        default="attention",
        help="attention: keys and values of every layer; text: text states (Visii)",
    )
    parser.add_argument(
        "--clip",
        help="CLIP for phrases, captions and Visii's direction, such as ViT-L-14/openai (pocket editor: "
        "its own)",
    )
    parser.add_argument("--clip-folder", help="folder of its .safetensors")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--objective", choices=("plain", "guided"))
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
    run = _Run(out, options.overwrite)
    instruction = run_learning(_request(options, editor, pairs, settings, out.stem), run)
    _save(instruction, out, options.overwrite, thumbnail(pairs))
    remove_checkpoints(run.checkpoint, run.other_checkpoint)
    print(f"{out}: {instruction.info.steps} steps, loss {instruction.info.final_loss:.4f}")


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
    settings = preset_for(editor.description.family.name, options.space)
    for name in ("steps", "objective", "learning_rate"):
        value = getattr(options, name)
        if value is not None:
            settings = replace(settings, **{name: value})
    return replace(settings, seed=options.seed)


def _request(
    options: argparse.Namespace,
    editor: DiffusersEditor,
    pairs: EditPairs,
    settings: LearningSettings,
    title: str,
) -> LearningRequest:
    latents = PairLatents.encode(pairs, editor.encode_images, editor.scale, editor.condition)
    clip = None
    if options.begin != "words" or settings.direction_weight:
        clip = _clip(options, editor)
    text = _init_text(options, pairs, clip)
    context, null_context = editor.encode_text([text, ""])
    settings, direction = with_direction(settings, pairs, clip, context.shape[1])
    init_text = InitText(text, context, editor.count_tokens(text))
    return LearningRequest(
        editor.denoiser, latents, init_text, null_context, settings, direction, title=title
    )


def _clip(options: argparse.Namespace, editor: DiffusersEditor) -> OpenClipModel | None:
    """The CLIP of ``--clip``; without it the built-in one for the pocket editor, and none for other
    models."""
    if options.clip:
        return load_clip(options.clip, Path(options.clip_folder or "."), options.device)
    return pocket_clip(options.device) if editor.description.family.name == "pocket" else None


def _init_text(options: argparse.Namespace, pairs: EditPairs, clip: OpenClipModel | None) -> str:
    if options.begin == "words":
        return options.init
    if clip is None:
        raise InstructBrushError(
            "Finding words for the pairs takes a CLIP. Add --clip ViT-L-14/openai and --clip-folder DIR, "
            "or give the words with --init."
        )
    if options.begin == "phrases":
        text = unique_phrases(clip, pairs).init_text
    else:
        text = caption_images(clip, [pair.after for pair in pairs]).text
    say(f"learning starts from '{text}'")
    return text


class _Run(RunCallbacks):
    """Progress bar, signals and checkpoints of a run.

    Args:
        out: the instruction file; the checkpoint lies beside it.
        overwrite: whether the run may start anew over a checkpoint of another run.
    """

    def __init__(self, out: Path, overwrite: bool) -> None:
        self._out = out
        self._overwrite = overwrite
        self.checkpoint = out.with_name(f".{out.stem}.checkpoint")
        self.other_checkpoint: Path | None = None
        """A checkpoint of another name that the run was resumed from."""

    def before_steps(self, trainer: Trainer) -> None:
        check_writable(self._out, trainer.file_size())
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

    def discard(self, trainer: Trainer) -> None:
        remove_checkpoints(self.checkpoint)

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        if trainer.steps_done and math.isfinite(trainer.losses[-1]):
            say(
                checkpoints.keep_checkpoint(trainer, self.checkpoint)
                or f"stopped at step {trainer.steps_done}; the same command resumes there"
            )


def _save(instruction: Instruction, out: Path, overwrite: bool, image: Image.Image) -> None:
    try:
        save_instruction(instruction, out, overwrite=overwrite, thumbnail=image)
    except (InstructBrushError, OSError) as error:
        kept = write_elsewhere(out.name, lambda path: save_instruction(instruction, path, thumbnail=image))
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
