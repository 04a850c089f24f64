"""``python -m instructbrush``: the commands and their options."""

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

from ..core.devices import is_out_of_memory, named_device
from ..core.errors import InstructBrushError, UnfinishedError
from ..core.instruction.file_header import read_header
from ..core.instruction.inspect import facts
from . import bench, bench_options, edit, learn, sweep
from .build.commands import add_commands as add_build_commands
from .finetuning import finetune, train_reason, train_region
from .interrupts import exit_code, signals_as_interrupts
from .options import add_model_options
from .terminal import tolerant_stderr

_UNFINISHED = 3
"""Exit code of a benchmark that stopped because its time is over."""
_PIPE_CLOSED = 141
"""Exit code of a process whose stdout was closed, as shells expect it."""


def exit_code_of(error: InstructBrushError) -> int:
    """Exit code of a command that an error ended."""
    return _UNFINISHED if isinstance(error, UnfinishedError) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code.

    0: done. 1: an error that a user can fix, one line on stderr. 2: an option that cannot be parsed. 3: a
    benchmark's time is over. 129: its terminal was closed. 130: interrupted. 141: nobody reads stdout. 143:
    ended by ``kill``.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # A character that the terminal cannot show must not end a run that is done.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with signals_as_interrupts(), tolerant_stderr():
            options = build_parser().parse_args(arguments)
            if "device" in options:
                options.device = str(named_device(options.device))
            options.command(options)
            if sys.stdout is not None:
                sys.stdout.flush()
    except InstructBrushError as error:
        print(f"instructbrush: {error}", file=sys.stderr)
        return exit_code_of(error)
    except BrokenPipeError:
        # The reader of the pipe is gone, as in "| head". Python would fail again when it flushes stdout at
        # its end.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except OSError as error:
        # Libraries use files, too: torch looks for a temporary folder.
        print(
            f"instructbrush: a file cannot be read or written: {error}. Check the free space on the disk, "
            "also for temporary files.",
            file=sys.stderr,
        )
        return 1
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"instructbrush: memory ran out ({str(error).partition('.')[0][:200]}). Free some, use smaller "
            "images (--size) or fewer at once (--batch), or choose another --device.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as interrupt:
        print("instructbrush: interrupted", file=sys.stderr)
        return exit_code(interrupt)
    return 0


def inspect(options: argparse.Namespace) -> None:
    """Prints the header of an instruction file, or the headers of every part of a blend."""
    for number, part in enumerate(read_header(options.file)):
        if number:
            print()
        for name, value in facts(part.info, part.weight).items():
            print(f"{name:>10}: {value}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. A command's function is in ``command`` of the parsed options."""
    parser = argparse.ArgumentParser(
        prog="instructbrush", description="Learn edits from before/after pairs and apply them to images."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: object, text: str, group: Any = commands) -> argparse.ArgumentParser:
        sub = group.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    learn.add_options(
        command(
            "learn",
            learn.learn,
            "Learn an instruction from a folder of before/after pairs. Ctrl-C keeps what is learned, and "
            "the same command resumes.",
        )
    )
    edit.add_options(
        command("apply", edit.apply, "Apply an instruction to a folder of images."),
        command("edit", edit.edit, "Edit a folder of images by words."),
    )
    sweep.add_options(
        command(
            "sweep",
            sweep.sweep,
            "Apply an instruction with several values of one setting, and draw a contact sheet.",
        )
    )
    bench_parser = command(
        "bench",
        bench.bench,
        "Compare methods on TOP-Bench, Clean-InstructPix2Pix, PPR10K, MagicBrush, Emu Edit Test or "
        "reasoning instructions.",
    )
    add_model_options(bench_parser, seed=False)
    bench_options.add_options(bench_parser)
    finetune.add_options(
        command(
            "finetune",
            finetune.finetune,
            "Train an InstructPix2Pix model on edits with words, UltraEdit's or your own (needs accelerate).",
        )
    )
    train_region.add_options(
        command(
            "train-region",
            train_region.train_region,
            "Fine-tune a model to read masks, on UltraEdit's data or your own (needs accelerate).",
        )
    )
    reason = command(
        "reason", None, "Instructions that need reasoning: training with a vision-language model."
    ).add_subparsers(required=True, metavar="what")
    train_reason.add_options(
        command(
            "train",
            train_reason.train,
            "Fine-tune a model together with a connector to a vision-language model (needs accelerate).",
            reason,
        )
    )
    add_build_commands(
        command("build", None, "Build data sets of edits: ReasonPix2Pix, UltraEdit, or a set like TOP-Bench.")
    )
    inspect_parser = command("inspect", inspect, "Show the header of an instruction file.")
    inspect_parser.add_argument("file", help="instruction file (.safetensors)")
    return parser
