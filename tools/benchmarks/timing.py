"""Measures times of jobs side by side, and their memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from instructbrush.tools.get_comfyui import comfyui_root


def device() -> torch.device:
    """Returns the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Times:
    """Seconds of each job in each round."""

    seconds: dict[str, list[float]]

    def __getitem__(self, job: str) -> float:
        """Median seconds of a job."""
        return statistics.median(self.seconds[job])

    def ratio(self, job: str, other: str) -> float:
        """Median over the rounds of the ratio of two jobs.

        Both jobs of a round ran one after the other, so a machine that slows down does not change the ratio.
        """
        return statistics.median(
            one / two for one, two in zip(self.seconds[job], self.seconds[other], strict=True)
        )


def side_by_side(rounds: int, warm_up: int = 1, **jobs: Callable[[], object]) -> Times:
    """Runs all jobs in each round, in an order that alternates. The first `warm_up` rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for round_ in range(rounds + warm_up):
        for name, job in jobs.items() if round_ % 2 else reversed(jobs.items()):
            synchronise()
            started = time.perf_counter()
            job()
            synchronise()
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return Times(seconds)


def peak_gib(job: Callable[[], Any]) -> float | None:
    """Runs a job. Returns the peak GiB that torch reserves beside earlier tensors; None without a GPU."""
    if not torch.cuda.is_available():
        job()
        return None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    job()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_reserved() - before) / 2**30


def resident_mib() -> int:
    """Peak resident memory of this process in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def start_comfyui() -> None:
    """Makes ComfyUI's modules importable. Without a GPU, ComfyUI uses the CPU."""
    sys.path.insert(0, str(comfyui_root()))
    # ComfyUI reads the command line when it is imported.
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
