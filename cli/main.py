"""``python -m instructbrush``: learn and apply instructions without ComfyUI."""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..core.devices import named_device
from ..core.editing.editor import DiffusersEditor
from ..core.encoders.clip import OpenClipModel, load_clip, pocket_clip
from ..core.errors import InstructBrushError, InstructionError, LearningError, StorageError, WorthlessError
from ..core.instruction.file import read_header, save_instruction
from ..core.instruction.inspect import facts
from ..core.learning.checkpoint import (
    CHECKPOINT_SECONDS,
    Keeper,
    find_checkpoint,
    keep_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ..core.learning.init_text.captions import caption_images
from ..core.learning.init_text.phrases import unique_phrases
from ..core.learning.objective import Direction, PairLatents
from ..core.learning.settings import preset_for
from ..core.learning.trainer import Trainer
from ..core.pairs.pairs import FITS, load_pairs, thumbnail
from ..core.storage.files import check_target, write_elsewhere
from ..core.storage.names import resolve_inside
from . import bench as evaluation
from . import edit as editing
from . import train_reason as reasoning
from . import train_region as finetuning
from .interrupts import between_steps, catching_signals, exit_code
from .options import add_model_options, named_editor, positive, words
from .terminal import say, talking_on

_SUFFIX = ".safetensors"
_PIPE_CLOSED = 141
"""What shells expect of a process whose reader has gone."""
_CHECKPOINT_EVERY = CHECKPOINT_SECONDS
"""Seconds between checkpoints, at least."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 an error a user can mend (one line on stderr), 130 interrupted, 141 nobody reads stdout,
    143 ended by ``kill``."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # no letter that the terminal lacks ends a run that is done
    try:
        with catching_signals(), talking_on():
            options = _parser().parse_args(arguments)
            if "device" in options:
                options.device = str(named_device(options.device))
            options.command(options)
            if sys.stdout is not None:
                sys.stdout.flush()
    except InstructBrushError as error:
        print(f"instructbrush: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Nobody reads any more, as in "| head". What is left would fail again when Python ends.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except OSError as error:
        # Libraries use files, too: torch looks for a folder for temporary ones.
        print(
            f"instructbrush: The system refuses a file: {error}. See that there is room, also for temporary files.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as interrupt:
        print("instructbrush: interrupted", file=sys.stderr)
        return exit_code(interrupt)
    return 0


def learn(options: argparse.Namespace) -> None:
    """Learn an instruction from a folder of pairs. Stopped by Ctrl-C, ``kill`` or an error it leaves a checkpoint, and the same command goes on from there.

    Raises:
        StorageError: the instruction cannot be written to ``--out``; what was learned lies elsewhere then, and the message says where.
        InstructBrushError: model, pairs or options cannot be used.
    """
    out = _target(options)
    editor = named_editor(options)
    preset = preset_for(editor.description.family.name, options.space)
    given = {"steps": options.steps, "objective": options.objective, "learning_rate": options.learning_rate}
    settings = replace(
        preset, seed=options.seed, **{name: value for name, value in given.items() if value is not None}
    )
    pairs = load_pairs(options.pairs, options.size, options.fit, options.strict)
    for remark in pairs.remarks:
        say(remark)
    latents = PairLatents.encode(pairs, editor.encode_images, editor.scale, editor.condition)
    clip = _clip(options, editor) if options.begin != "words" or settings.direction_weight else None
    init = options.init
    if options.begin == "phrases":
        init = unique_phrases(_needed(clip), pairs).init_text
    elif options.begin == "caption":
        init = caption_images(_needed(clip), [pair.after for pair in pairs]).text
    if options.begin != "words":
        say(f"learning begins with '{init}'")
    if clip is None:
        settings = replace(settings, direction_weight=0.0)
    context, null = editor.encode_text([init, ""])
    direction = Direction.of(pairs, clip) if clip is not None and settings.direction_weight else None
    trainer = Trainer(
        editor.denoiser, latents, context, null, settings, init, editor.count_tokens(init), direction
    )
    check_target(out, trainer.file_size())
    checkpoint = out.with_name(f".{out.stem}.checkpoint")
    taken = _take_up(trainer, checkpoint, options.overwrite)
    _run(trainer, checkpoint)
    _save(trainer, out, options.overwrite, thumbnail(pairs))
    _remove(checkpoint, taken)
    print(f"{out}: {trainer.steps_done} steps, loss {trainer.instruction().info.final_loss:.4f}")


def _target(options: argparse.Namespace) -> Path:
    """The file of ``--out``, which can be written as far as one can tell."""
    given = Path(options.out)
    if given.suffix != _SUFFIX:
        raise InstructionError(f"--out '{options.out}' must be a file that ends in {_SUFFIX}.")
    out = resolve_inside(given.parent, given.name, _SUFFIX, new=True)
    if out.exists() and not options.overwrite:
        raise InstructBrushError(f"'{out}' exists already. Choose another name, or add --overwrite.")
    check_target(out)
    return out


def _take_up(trainer: Trainer, own: Path, overwrite: bool) -> Path | None:
    """Go on from the checkpoint of this name, else from one that the same run has left beside it under another. Returns the latter."""
    is_own = own.exists()
    checkpoint = (
        own if is_own else find_checkpoint(trainer, own.parent, ".*.checkpoint", trainer.settings.steps)
    )
    if checkpoint is None:
        return None
    try:
        load_checkpoint(
            trainer,
            checkpoint,
            "Choose another --out, or add --overwrite to begin anew." if is_own else "Remove it.",
        )
    except LearningError as error:
        if is_own and not overwrite:
            raise
        say(f"{error} Learning begins anew.")
        return None
    say(f"going on from step {trainer.steps_done} ({checkpoint})")
    return None if is_own else checkpoint


def _run(trainer: Trainer, checkpoint: Path) -> None:
    """Learn to the end, or until something stops it: then what was learned so far is kept."""

    def save() -> None:
        trainer.check_finite()
        save_checkpoint(trainer, checkpoint)

    keeper = Keeper(save, say, _CHECKPOINT_EVERY)
    with (
        tqdm(total=trainer.settings.steps, initial=trainer.steps_done, desc="learning", unit="step") as bar,
        between_steps() as check,
    ):

        def advance(done: int, total: int) -> None:
            bar.update()
            if done < total:
                check()
                keeper.offer()

        try:
            trainer.run(advance)
            trainer.instruction()
        except WorthlessError:
            _remove(checkpoint)
            raise
        except BaseException:
            _keep(trainer, checkpoint)
            raise


def _keep(trainer: Trainer, checkpoint: Path) -> None:
    if trainer.steps_done and math.isfinite(trainer.losses[-1]):
        say(
            keep_checkpoint(trainer, checkpoint)
            or f"stopped at step {trainer.steps_done}; the same command goes on from there"
        )


def _save(trainer: Trainer, out: Path, overwrite: bool, image: Image.Image) -> None:
    instruction = trainer.instruction(out.stem)
    try:
        save_instruction(instruction, out, overwrite=overwrite, thumbnail=image)
    except (InstructBrushError, OSError) as error:
        kept = write_elsewhere(out.name, lambda path: save_instruction(instruction, path, thumbnail=image))
        where = (
            f"What was learned was kept as {kept}."
            if kept
            else "What was learned could be kept nowhere else."
        )
        raise StorageError(f"{error} {where}") from error


def _remove(*checkpoints: Path | None) -> None:
    for path in checkpoints:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _clip(options: argparse.Namespace, editor: DiffusersEditor) -> OpenClipModel | None:
    """The CLIP that was named; else the pocket editor's own for the pocket editor, and none for another model."""
    if options.clip:
        return load_clip(options.clip, Path(options.clip_folder or "."), options.device)
    return pocket_clip(options.device) if editor.description.family.name == "pocket" else None


def _needed(clip: OpenClipModel | None) -> OpenClipModel:
    if clip is None:
        raise InstructBrushError(
            "Finding words for the pairs takes a CLIP. Add --clip ViT-L-14/openai and --clip-folder DIR, or give the words with --init."
        )
    return clip


def inspect(options: argparse.Namespace) -> None:
    """Print what an instruction file says of itself; of a blend, every part."""
    for number, part in enumerate(read_header(options.file)):
        if number:
            print()
        for name, value in facts(part.info, part.weight).items():
            print(f"{name:>10}: {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="instructbrush", description="Learn edits from before/after pairs and apply them to images."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: object, text: str, group: Any = commands) -> argparse.ArgumentParser:
        sub = group.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    learning = command("learn", learn, "Learn an instruction from a folder of before/after pairs.")
    add_model_options(learning)
    learning.add_argument(
        "--pairs", required=True, help="folder: {i}_0/{i}_1 images, before/ and after/, or pairs.json"
    )
    learning.add_argument("--out", required=True, help="instruction file to write (.safetensors)")
    learning.add_argument("--init", type=words, default="", help="words that come close to the edit")
    learning.add_argument(
        "--begin",
        choices=("words", "phrases", "caption"),
        default="words",
        help="where learning begins: --init, phrases that tell before from after (InstructBrush), or a caption of the images after (Visii)",
    )
    learning.add_argument(
        "--space",
        choices=("attention", "text"),
        default="attention",
        help="attention: keys and values of every layer; text: text states (Visii)",
    )
    learning.add_argument(
        "--clip",
        help="CLIP for phrases, captions and Visii's direction, such as ViT-L-14/openai (pocket editor: its own)",
    )
    learning.add_argument("--clip-folder", help="folder of its .safetensors")
    learning.add_argument("--steps", type=int)
    learning.add_argument("--learning-rate", type=float)
    learning.add_argument("--objective", choices=("plain", "guided"))
    learning.add_argument(
        "--size", type=positive, help="scale and crop every image to a square of this many pixels"
    )
    learning.add_argument(
        "--fit",
        choices=FITS,
        default="stop",
        help="what becomes of a pair with two aspect ratios (default: stop)",
    )
    learning.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first pair that cannot be read; otherwise it is left out, and counted",
    )
    learning.add_argument(
        "--overwrite",
        action="store_true",
        help="replace --out if it is there, and a checkpoint that this run cannot go on from",
    )

    editing.add_options(
        command("apply", editing.apply, "Apply an instruction to a folder of images."),
        command("edit", editing.edit, "Edit a folder of images by words."),
    )

    benching = command(
        "bench",
        evaluation.bench,
        "Compare methods on TOP-Bench, MagicBrush, Emu Edit Test or reasoning: learn from pairs, edit, measure.",
    )
    add_model_options(benching, seed=False)
    evaluation.add_options(benching)

    tuning = command(
        "train-region",
        finetuning.train_region,
        "Tune a model into one that reads masks, on UltraEdit's data or one's own (needs accelerate).",
    )
    finetuning.add_options(tuning)

    thinking = command(
        "reason", None, "Instructions that need a thought: what is done with a vision-language model."
    ).add_subparsers(required=True, metavar="what")
    joining = command(
        "train",
        reasoning.train,
        "Tune a model together with a connector to a vision-language model (needs accelerate).",
        thinking,
    )
    reasoning.add_options(joining)

    inspecting = command("inspect", inspect, "Show what an instruction file says of itself.")
    inspecting.add_argument("file")
    return parser
