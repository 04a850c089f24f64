"""Fits a learning step into the device's memory: all samples at once, with recomputed activations, or in
chunks."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..devices import empty_cache, free_memory, is_out_of_memory
from ..editing.denoiser import Denoiser
from ..errors import LearningError
from ..windows import is_windows
from .cuda_graph import Replay

logger = logging.getLogger(__name__)

ACTIVATION_BYTES = {"pocket": 14_000, "sd15": 183_000, "sd21": 172_000, "sdxl": 337_000, "cosxl": 337_000}
"""Bytes that the backward pass keeps for one latent pixel of one sample, in half precision."""
# Share of these bytes that remains when blocks recompute their activations, for SDXL and other families.
# Measured on an H200: SD1.5 at 512 and 768 pixels .30, SDXL at 512, 768 and 1024 pixels .107 to .109.
_RECOMPUTED_SDXL = 0.11
_RECOMPUTED = 0.3
# Room for everything else that a step allocates, and for other programs. Where it is too small, drivers on
# Windows use the computer's memory, which is many times slower, and tell nobody.
_SPARE = (1000 if is_windows() else 400) * 2**20


@dataclass(frozen=True)
class MemoryPlan:
    """How a step goes through its samples. Every plan learns the same, except for rounding."""

    rows: int
    """Samples that go through the model at once."""
    checkpointing: bool = False
    """Blocks recompute their activations in the backward pass: about a third slower, a third of the
    memory."""

    def smaller(self) -> "MemoryPlan | None":
        """The next plan that needs less memory, or None."""
        if not self.checkpointing:
            return replace(self, checkpointing=True)
        return replace(self, rows=(self.rows + 1) // 2) if self.rows > 1 else None


class StepMemory:
    """Runs steps by the fastest plan that fits into memory, and by a smaller one after memory ran out.

    Args:
        denoiser: the model; its ``checkpointing`` follows the plan.
        pixels: h x w of the largest latent.
        samples: samples of a step.
        replay: runs a step on its inputs.
    """

    def __init__(self, denoiser: Denoiser, pixels: int, samples: int, replay: Replay) -> None:
        self._denoiser = denoiser
        self._pixels = pixels
        self._samples = samples
        self._replay = replay
        self.plan: MemoryPlan | None = None

    def run(self, inputs: Sequence[Tensor]) -> Tensor:
        """Runs one step on its inputs and returns the loss.

        Raises:
            LearningError: a single sample with recomputed activations does not fit.
        """
        if self.plan is None:
            self._follow(self._first_plan())
        while True:
            try:
                return self._replay(inputs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                smaller = self._smaller_plan()
                if smaller is None:
                    raise LearningError(self._too_large()) from error
            # Outside of the except block the failed step's tensors are freed.
            self._follow(smaller)
            empty_cache(self._denoiser.device)
            logger.info("InstructBrush: memory ran out; learning continues with %s", smaller)

    def _first_plan(self) -> MemoryPlan:
        return plan_memory(
            self._family,
            self._pixels,
            self._samples,
            self._denoiser.dtype.itemsize,
            free_memory(self._denoiser.device),
            self._denoiser.checkpointing,
        )

    def _smaller_plan(self) -> MemoryPlan | None:
        # Recordings of other sizes hold memory, too: without them the same plan may fit.
        if self._replay.forget():
            return self.plan
        return None if self.plan is None else self.plan.smaller()

    def _follow(self, plan: MemoryPlan) -> None:
        self.plan = plan
        self._denoiser.checkpointing = plan.checkpointing
        self._replay.forget()

    def _too_large(self) -> str:
        free = free_memory(self._denoiser.device)
        if free is None:
            return (
                "Learning: these images are too large for the device's memory. Use smaller images, or close "
                "other programs."
            )
        fits = largest_side(self._family, self._denoiser.dtype.itemsize, free)
        return (
            f"Learning: these images are too large for the device's memory ({free / 2**30:.1f} GiB free). "
            f"Use images of at most {fits} x {fits} pixels."
        )

    @property
    def _family(self) -> str:
        return self._denoiser.description.family.name


def plan_memory(
    family: str, pixels: int, samples: int, itemsize: int, free: int | None, checkpointing: bool = False
) -> MemoryPlan:
    """The fastest plan that fits, by what families are known to need; the smallest one if none fits.

    Args:
        family: name of the model's family.
        pixels: h x w of the largest latent.
        samples: samples of a step.
        itemsize: bytes of a number in the model's dtype.
        free: free bytes on the device once the weights are loaded; None if unknown.
        checkpointing: recompute activations in any case.
    """
    plan = MemoryPlan(samples, checkpointing)
    while free is not None and bytes_needed(family, pixels, plan, itemsize) > free:
        smaller = plan.smaller()
        if smaller is None:
            break
        plan = smaller
    return plan


def largest_side(family: str, itemsize: int, free: int) -> int:
    """Side of the largest square image that the smallest plan has room for, in pixels, a multiple of 64."""
    side = 64
    while bytes_needed(family, ((side + 64) // 8) ** 2, MemoryPlan(1, True), itemsize) <= free:
        side += 64
    return side


def bytes_needed(family: str, pixels: int, plan: MemoryPlan, itemsize: int) -> float:
    """Bytes that a step needs beside the weights. Unknown families count as SDXL."""
    kept = ACTIVATION_BYTES.get(family, ACTIVATION_BYTES["sdxl"]) * itemsize / 2
    if plan.checkpointing:
        kept *= _RECOMPUTED_SDXL if family in ("sdxl", "cosxl") else _RECOMPUTED
    return kept * pixels * plan.rows + _SPARE
