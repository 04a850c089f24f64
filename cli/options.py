"""Options of the command line that several commands have: the model, where it runs and how precisely."""

import argparse
import math

import torch

from ..core.diffusion.schedule import SEEDS
from ..core.editing.editor import DiffusersEditor
from ..core.editing.loading import describe, load_editor
from ..core.editing.settings import SamplingSettings
from ..core.errors import InstructionError, LearningError

_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_model_options(parser: argparse.ArgumentParser, seed: bool = True) -> None:
    """Which model, on which device; with a seed and a precision where asked for."""
    parser.add_argument(
        "--model", help="diffusers folder or .safetensors checkpoint (default: the built-in pocket editor)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, mps, xpu"
    )
    if seed:
        parser.add_argument("--seed", type=seed_number, default=0, help="0 to 2^64 - 1 (default 0)")
        parser.add_argument(
            "--precision",
            choices=("auto", *_PRECISIONS),
            default="auto",
            help="auto: fp16 for a full-size model on a GPU, fp32 otherwise",
        )


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    """Adds the guidance scales, which ``sampling_settings`` reads."""
    parser.add_argument("--text-scale", type=scale, help="s_T (default 7.5, pocket editor 2)")
    parser.add_argument("--image-scale", type=scale, default=1.5, help="s_I")


def sampling_settings(options: argparse.Namespace, steps: int) -> SamplingSettings:
    """Returns the settings of edits with these scales and this number of sampling steps."""
    return SamplingSettings(steps, options.text_scale, options.image_scale)


def named_editor(options: argparse.Namespace) -> DiffusersEditor:
    """The model that was named, in half precision where a GPU computes with a full-size one, unless told otherwise."""
    precision = options.precision
    if precision == "auto":
        full_size = describe(options.model).family.name != "pocket"
        precision = "fp16" if full_size and torch.device(options.device).type == "cuda" else "fp32"
    return load_editor(options.model, options.device, _PRECISIONS[precision])


def seed_number(text: str) -> int:
    """A seed of 64 bits.

    Raises:
        LearningError: it is none, or out of range.
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < SEEDS:
        raise LearningError(f"--seed is {text[:40]}; it must be a whole number between 0 and {SEEDS - 1}.")
    return number


def positive(text: str) -> int:
    """A number of things, of which at least one is needed."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def scale(text: str) -> float:
    """A guidance scale or a strength."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{number} is no finite number")
    return number


def words(text: str) -> str:
    """What a text encoder reads. Without a locale Python takes the bytes of a terminal for halves of characters; they are UTF-8 nearly everywhere.

    Raises:
        InstructionError: it holds other bytes.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode()
    except ValueError as error:
        raise InstructionError(
            f"The words {text[:60]!r} hold half a character. Write them anew, in a terminal that is set to UTF-8."
        ) from error
