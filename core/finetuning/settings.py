"""Settings of a fine-tuning run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..diffusion.schedule import SEEDS
from ..errors import LearningError

# Settings that may change when a run resumes. The product batch x accumulation x processes may not.
_MAY_CHANGE = ("steps", "batch", "accumulation", "threads")
# Settings that older checkpoints do not name, with the values that these runs had.
_ADDED: dict[str, Any] = {"final_rate": None, "beta2": 0.999, "snr_limit": None}


@dataclass(frozen=True)
class FineTuningSettings:
    """Hyperparameters. The defaults are InstructPix2Pix's; on eight GPUs the batch is UltraEdit's 256."""

    steps: int = 10_000
    batch: int = 32
    """Samples that one process handles at once."""
    accumulation: int = 1
    """Batches in a step."""
    learning_rate: float = 1e-4
    final_rate: float | None = None
    """Learning rate that the run ends with, reached along half a cosine. None keeps the rate constant."""
    warmup: int = 0
    """Steps over which the rate rises linearly."""
    weight_decay: float = 0.01
    beta2: float = 0.999
    """AdamW's decay of the mean square of gradients."""
    clip_norm: float = 1.0
    average_decay: float = 0.9999
    """Decay of the weights' moving average, which becomes the final model."""
    dropout: float = 0.05
    """Share of samples without text, share without image and mask, and share without all three (each)."""
    snr_limit: float | None = None
    """Limit of Min-SNR's loss weights (see ``min_snr_weights``). None weights all timesteps alike."""
    seed: int = 0
    threads: int = 4
    """Threads in each process that decode images."""

    def __post_init__(self) -> None:
        for name in (
            *("steps", "batch", "accumulation", "learning_rate", "final_rate"),
            *("clip_norm", "snr_limit", "threads"),
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise LearningError(f"Fine-tuning: {name} is {value}; it must be more than 0.")
        if self.seed >= SEEDS:
            raise LearningError(f"Fine-tuning: seed is {self.seed}; it must be less than 2^64.")
        for name in ("warmup", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise LearningError(f"Fine-tuning: {name} is {getattr(self, name)}; it must not be negative.")
        for name in ("average_decay", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise LearningError(
                    f"Fine-tuning: {name} is {getattr(self, name)}; it must be at least 0 and below 1."
                )
        if not 0 <= self.dropout <= 1 / 3:
            raise LearningError(
                f"Fine-tuning: dropout is {self.dropout}; it must be from 0 to 1/3, because three shares of "
                "the samples are dropped."
            )

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        rate = self.learning_rate
        if self.final_rate is not None:
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
            rate = self.final_rate + (self.learning_rate - self.final_rate) * cosine
        return rate * min(1.0, (step + 1) / max(self.warmup, 1))

    def identity(self) -> dict[str, Any]:
        """Returns the settings that a checkpoint must agree with: those that affect the result."""
        settings = {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}
        if self.final_rate is not None:
            settings["steps"] = self.steps  # The rate depends on them.
        return {name: value for name, value in settings.items() if _ADDED.get(name, ...) != value}
