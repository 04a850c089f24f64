"""A disk that fills up at every write. Old files must stay, and with free space the work must complete."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from .jobs import JOBS, End, JobProcess, run_undisturbed

# Jobs, see jobs.py.
_NAMES = ("learn briefly", "edit", "bench", "train", "save")
# Largest sizes of a file, in bytes.
_SIZES = (0, 1_000, 30_000, 300_000, 3_000_000)


def run(count: int, seed: int) -> dict[str, int]:
    """Runs every job under disk limits, about ``count`` times in all.

    First limits the size of files, then lets the first, second, ... file fail to open.
    """
    totals = {"tried": 0, "valid": 0, "refused": 0, "escaped": 0, "lost": 0}
    with tempfile.TemporaryDirectory(prefix="instructbrush-") as place:
        for name in _NAMES:
            for key, value in disturb(name, Path(place) / name, max(count // len(_NAMES), 2)).items():
                totals[key] += value
    return totals


def disturb(name: str, place: Path, count: int) -> dict[str, int]:
    """Runs a job under ``count`` limits, and after each again without a limit."""
    job = JOBS[name]
    data, expected = run_undisturbed(name, place)
    limits = [(limit_size, size) for size in _SIZES[: max(count // 3, 1)]]
    limits += [(fail_from, (str(place), number)) for number in range(count - len(limits))]

    counts = {"tried": 0, "valid": 0, "refused": 0, "escaped": 0, "lost": 0}
    for limit in limits:
        folder = place / "full"
        end = JobProcess(name, data, folder, limit).wait_for_end()
        counts["tried"] += 1
        outcome = _judge(end)
        counts[outcome] += 1
        trial = f"disk: {name} {limit[0].__name__} {limit[1]}"
        if outcome == "escaped":
            print(f"{trial}: {end.escaped or end.output}", flush=True)
        again = JobProcess(name, data, folder).wait_for_end()
        if again.code != 0 or job.result(folder) != expected:
            print(f"{trial}: with free space again: {again.escaped or again.output}", flush=True)
            counts["lost"] += 1
        shutil.rmtree(folder)
    return counts


def _judge(end: End) -> str:
    if end.escaped:
        return "escaped"
    if end.code == 0:
        return "valid"
    return "refused" if "instructbrush: " in end.output else "escaped"


def limit_size(size: int) -> None:
    """Limits the size of files that this process writes from now on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fail_from(limit: tuple[str, int]) -> None:
    """Limits the files that this process may still write. ``limit`` is (folder, number)."""
    folder, allowed = limit
    opened = 0

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event != "open" or not isinstance(arguments[0], str) or not arguments[0].startswith(folder):
            return
        if arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened += 1
            if opened > allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    sys.addaudithook(audit)
