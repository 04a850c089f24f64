"""Resumable training runs, shared by all stages: options, schedule, moving average, checkpoints and log."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Folder of checkpoints, caches, logs and image grids; git ignores it.
WORK = Path(os.environ.get("POCKET_WORK", ".pocket"))


def arguments(description: str, seconds: float, batch: int, rate: float) -> argparse.Namespace:
    """Parses the options of a training stage."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="training time; the schedule ends with it"
    )
    parser.add_argument("--steps", type=int, default=0, help="number of steps to train, instead of a time")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rate", type=float, default=rate, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that draw images, for stages that draw while they train",
    )
    parser.add_argument("--fresh", action="store_true", help="ignore the checkpoint and start again")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    WORK.mkdir(parents=True, exist_ok=True)
    return options


class Run:
    """A resumable run.

    The random numbers of a step depend on (seed, step) only, so a resumed run continues exactly like an
    uninterrupted one.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        options: argparse.Namespace,
        decay: float = 0.999,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        self.name = name
        self.model = model
        self.options = options
        self.decay = decay
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.rate, betas=betas, weight_decay=0.01, fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0
        self.spent = 0.0
        self.mean_loss = math.nan
        self.path = WORK / f"{name}.pt"
        if self.path.exists() and not options.fresh:
            self._load()
        self._since = time.monotonic()

    @property
    def share(self) -> float:
        """Returns the progress in 0..1."""
        if self.options.steps:
            return self.step / self.options.steps
        return (self.spent + time.monotonic() - self._since) / self.options.seconds

    def randomness(self) -> np.random.Generator:
        """Seeds torch for this step and returns the NumPy generator of this step."""
        torch.manual_seed(self.options.seed * 1_000_003 + self.step)
        return np.random.default_rng((self.options.seed, self.step))

    def apply(self, loss: torch.Tensor, warmup: int = 100, floor: float = 0.02) -> None:
        """Takes one optimizer step and updates the moving average.

        The rate rises over `warmup` steps and then falls like a cosine to the share `floor`. Gradients are
        clipped to norm 1.
        """
        cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share)))
        rate = self.options.rate * min(1, (self.step + 1) / warmup) * cosine
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)
        value = float(loss.detach())
        self.mean_loss = value if math.isnan(self.mean_loss) else 0.98 * self.mean_loss + 0.02 * value

    def swap(self) -> None:
        """Exchanges the weights and their moving average. A second call restores them."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            held = parameter.data.clone()
            parameter.data.copy_(average)
            average.copy_(held)

    def log(self, **values: Any) -> None:
        """Appends one JSON line to the log of the stage and prints it."""
        record = {
            "step": self.step,
            "seconds": round(self.spent + time.monotonic() - self._since, 1),
            "loss": round(self.mean_loss, 5),
            **values,
        }
        line = json.dumps(record)
        print(line, flush=True)
        with (WORK / f"{self.name}.log").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """Writes the checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.spent + time.monotonic() - self._since,
            "mean_loss": self.mean_loss,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
        self.step = state["step"]
        self.spent = state["spent"]
        self.mean_loss = state["mean_loss"]


def load_average(name: str, model: torch.nn.Module) -> int:
    """Loads the averaged weights of a checkpoint into `model`. Returns their step."""
    state = torch.load(WORK / f"{name}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter, average in zip(trained, state["average"], strict=True):
        parameter.data.copy_(average)
    return state["step"]
