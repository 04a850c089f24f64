"""How a learning step fits into the device's memory: all samples at once, with recomputed activations, or a few samples after another."""

from dataclasses import dataclass, replace

_ACTIVATIONS = {"pocket": 14_000, "sd15": 183_000, "sd21": 172_000, "sdxl": 337_000, "cosxl": 337_000}
"""Bytes that the backward pass keeps for one latent pixel of one sample, in half precision."""
_RECOMPUTED = 0.3
"""Share of it that is left where blocks recompute their activations (measured: 54 of 181 kB, SD1.5 at 512 and at 768 px)."""
_SPARE = 400 * 2**20
"""For what else a step allocates, and for what other programs may take meanwhile."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a step goes through its samples. Every plan learns the same, but for rounding."""

    rows: int
    """Samples that go through the model at once."""
    checkpointing: bool = False
    """Blocks recompute their activations in the backward pass: about a third slower, a third of the memory."""

    def smaller(self) -> "MemoryPlan | None":
        """The next plan that needs less memory, if there is one."""
        if not self.checkpointing:
            return replace(self, checkpointing=True)
        return replace(self, rows=(self.rows + 1) // 2) if self.rows > 1 else None


def plan_memory(
    family: str, pixels: int, rows: int, itemsize: int, free: int | None, checkpointing: bool = False
) -> MemoryPlan:
    """The fastest plan that fits, by what families are known to need; where none is known to fit, the smallest.

    Args:
        family: name of the model's family.
        pixels: of the largest latent, h x w.
        rows: samples of a step.
        itemsize: bytes of a number in the model's dtype.
        free: bytes free on the device once the weights are there; None where nobody knows.
        checkpointing: recompute activations in any case.
    """
    plan = MemoryPlan(rows, checkpointing)
    while free is not None and _needed(family, pixels, plan, itemsize) > free:
        smaller = plan.smaller()
        if smaller is None:
            break
        plan = smaller
    return plan


def largest_side(family: str, itemsize: int, free: int) -> int:
    """The side of the largest square image that the smallest plan has room for, in pixels, a multiple of 64."""
    side = 64
    while _needed(family, ((side + 64) // 8) ** 2, MemoryPlan(1, True), itemsize) <= free:
        side += 64
    return side


def _needed(family: str, pixels: int, plan: MemoryPlan, itemsize: int) -> float:
    kept = _ACTIVATIONS.get(family, _ACTIVATIONS["sdxl"]) * itemsize / 2
    return kept * (_RECOMPUTED if plan.checkpointing else 1) * pixels * plan.rows + _SPARE
