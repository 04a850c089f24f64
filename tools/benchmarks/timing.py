"""Measuring jobs side by side, and what of a device they use."""

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
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Times:
    """Seconds that jobs took, round by round."""

    seconds: dict[str, list[float]]

    def __getitem__(self, job: str) -> float:
        """The median of a job."""
        return statistics.median(self.seconds[job])

    def ratio(self, job: str, other: str) -> float:
        """The median over the rounds of how much longer a job took than another in the same round: a machine that grows slower slows both."""
        return statistics.median(
            one / two for one, two in zip(self.seconds[job], self.seconds[other], strict=True)
        )


def side_by_side(rounds: int, warm_up: int = 1, **jobs: Callable[[], object]) -> Times:
    """Run jobs in turn, forwards and backwards by turns, after some rounds that are not counted."""
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
    """GiB that torch holds at most while a job runs, everything that is there before included; None without a GPU."""
    if not torch.cuda.is_available():
        job()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    job()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved() / 2**30


def resident_mib() -> int:
    """Most memory that this process had on the CPU so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def start_comfyui() -> None:
    """Make ComfyUI's modules importable, on the CPU where there is no GPU."""
    sys.path.insert(0, str(comfyui_root()))
    # ComfyUI reads the command line when it is imported.
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
