"""Settings of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass

from ..diffusion.schedule import SEEDS
from ..errors import LearningError


@dataclass(frozen=True)
class FineTuningSettings:
    """Hyperparameters. The defaults are InstructPix2Pix's; on eight GPUs the batch is UltraEdit's 256."""

    steps: int = 10_000
    batch: int = 32
    """Samples that one process handles at once."""
    accumulation: int = 1
    """Batches in a step."""
    learning_rate: float = 1e-4
    warmup: int = 0
    """Steps over which the rate rises linearly to ``learning_rate``. It is constant afterwards."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    average_decay: float = 0.9999
    """Decay of the weights' moving average, which becomes the final model."""
    dropout: float = 0.05
    """Share of samples without text, share without image and mask, and share without all three (each)."""
    seed: int = 0
    threads: int = 4
    """Threads in each process that decode images."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulation", "learning_rate", "clip_norm", "threads"):
            if not getattr(self, name) > 0:
                raise LearningError(f"Fine-tuning: {name} is {getattr(self, name)}; it must be more than 0.")
        if self.seed >= SEEDS:
            raise LearningError(f"Fine-tuning: seed is {self.seed}; it must be less than 2^64.")
        for name in ("warmup", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise LearningError(f"Fine-tuning: {name} is {getattr(self, name)}; it must not be negative.")
        if not 0 <= self.average_decay < 1:
            raise LearningError(
                f"Fine-tuning: average_decay is {self.average_decay}; it must be at least 0 and below 1."
            )
        if not 0 <= self.dropout <= 1 / 3:
            raise LearningError(
                f"Fine-tuning: dropout is {self.dropout}; it must be from 0 to 1/3, because three shares of "
                "the samples are dropped."
            )

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1))
