"""Options that several commands share: model, device, precision, seed and guidance scales."""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..core.diffusion.schedule import SEEDS
from ..core.editing.editor import DiffusersEditor
from ..core.editing.loading import describe, load_editor
from ..core.editing.settings import SamplingSettings
from ..core.errors import InstructionError, LearningError

_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Several(argparse.Action):
    """Takes one value or more, and takes further ones when the option is repeated."""

    def __init__(self, option_strings: Sequence[str], dest: str, nargs: Any = "+", **named: Any) -> None:
        super().__init__(option_strings, dest, nargs=nargs, **named)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest)
        # The first values replace the default.
        before = [] if given is self.default else given
        setattr(namespace, self.dest, [*before, *values])


def add_model_options(parser: argparse.ArgumentParser, seed: bool = True) -> None:
    """Adds ``--model`` and ``--device``; by default also ``--seed`` and ``--precision``."""
    parser.add_argument(
        "--model", help="diffusers folder or .safetensors checkpoint (default: the built-in pocket editor)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps, xpu (default auto)",
    )
    if seed:
        parser.add_argument("--seed", type=seed_number, default=0, help="0 to 2^64 - 1 (default 0)")
        parser.add_argument(
            "--precision",
            choices=("auto", *_PRECISIONS),
            default="auto",
            help="of the model. auto: fp16 for a full-size model on CUDA, fp32 otherwise (default auto)",
        )


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    """Adds the guidance scales, which ``sampling_settings`` reads."""
    parser.add_argument(
        "--text-scale",
        type=finite_float,
        help="s_T; without both scales, those of the instruction, else 7.5 (pocket editor 2)",
    )
    parser.add_argument("--image-scale", type=finite_float, help="s_I; as --text-scale, else 1.5")


def sampling_settings(options: argparse.Namespace, steps: int) -> SamplingSettings:
    """Returns the settings of edits with these scales and this number of sampling steps."""
    return SamplingSettings(steps, options.text_scale, options.image_scale)


def load_chosen_editor(options: argparse.Namespace) -> DiffusersEditor:
    """Loads the chosen model. ``auto`` precision is fp16 for a full-size model on CUDA, else fp32."""
    precision = options.precision
    if precision == "auto":
        full_size = describe(options.model).family.name != "pocket"
        precision = "fp16" if full_size and torch.device(options.device).type == "cuda" else "fp32"
    return load_editor(options.model, options.device, _PRECISIONS[precision])


def seed_number(text: str) -> int:
    """Parses a 64-bit seed.

    Raises:
        LearningError: the text is not a whole number in 0 .. 2^64 - 1.
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < SEEDS:
        raise LearningError(f"--seed is {text[:40]}; it must be a whole number between 0 and {SEEDS - 1}.")
    return number


def positive_int(text: str) -> int:
    """Parses a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def finite_float(text: str) -> float:
    """Parses a finite number."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{number} is not a finite number")
    return number


def utf8_text(text: str) -> str:
    """Decodes words for the text encoder.

    Without a locale, Python decodes UTF-8 arguments to surrogate escapes. This restores them.

    Raises:
        InstructionError: the bytes are not UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode()
    except ValueError as error:
        raise InstructionError(
            f"The words {text[:60]!r} are not valid UTF-8. "
            "Type them again in a terminal that is set to UTF-8."
        ) from error
