"""Sets up accelerate: device, processes and precision of a run."""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from ..errors import LearningError

if TYPE_CHECKING:
    from accelerate import Accelerator

# How long a process waits for the others, which may still prepare data for hours.
_TIMEOUT = timedelta(hours=12)


def make_accelerator(precision: str | None, accumulation: int) -> Accelerator:
    """Creates the accelerator of a run.

    Args:
        precision: ``"no"``, ``"fp16"`` or ``"bf16"``; None takes the precision that ``accelerate launch`` or
            ``accelerate config`` sets.
        accumulation: batches in a step.

    Raises:
        LearningError: accelerate is not installed, or the device cannot train in that precision.
    """
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise LearningError(
            "Fine-tuning: accelerate is not installed. Run: pip install accelerate"
        ) from error
    if torch.distributed.is_available():
        # This module keeps the default process group that exists when it is imported, as a default argument.
        # DDP imports it after the group is made: then the group and gloo's threads live until the interpreter
        # ends. So it is imported here, before there is a group.
        importlib.import_module("torch.distributed.nn.functional")
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=accumulation,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)],
        )
    except ValueError as error:
        raise LearningError(
            f"Fine-tuning: training with these settings is not possible on this machine: {error} Choose "
            "another --precision."
        ) from error
    # On the CPU accelerate would silently train in fp32.
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise LearningError(
            "Fine-tuning: training on the CPU does not support fp16. Choose --precision bf16 or no."
        )
    return accelerator
