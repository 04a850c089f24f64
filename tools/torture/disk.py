"""A disk that fills up, at every write: nothing escapes, what was there stays, and with room again the work comes to its end."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from .jobs import JOBS, End, Running, undisturbed

_NAMES = ("learn briefly", "edit", "bench", "train", "save")
_SIZES = (0, 1_000, 30_000, 300_000, 3_000_000)
"""Bytes that a file may have."""


def run(count: int, seed: int) -> dict[str, int]:
    """Begin every kind of work under limits, about ``count`` times in all: files that may not grow, then the first, second, ... file that cannot be made."""
    totals = {"tried": 0, "valid": 0, "refused": 0, "escaped": 0, "lost": 0}
    with tempfile.TemporaryDirectory(prefix="instructbrush-") as place:
        for name in _NAMES:
            for key, value in disturb(name, Path(place) / name, max(count // len(_NAMES), 2)).items():
                totals[key] += value
    return totals


def disturb(name: str, place: Path, count: int) -> dict[str, int]:
    """Begin one kind of work under so many limits, and again without."""
    job = JOBS[name]
    data, wanted = undisturbed(name, place)
    limits = [(limit_size, size) for size in _SIZES[: max(count // 3, 1)]]
    limits += [(fail_from, (str(place), number)) for number in range(count - len(limits))]

    counts = {"tried": 0, "valid": 0, "refused": 0, "escaped": 0, "lost": 0}
    for limit in limits:
        folder = place / "full"
        end = Running(name, data, folder, limit).end()
        counts["tried"] += 1
        told = _judge(end)
        counts[told] += 1
        if told == "escaped":
            print(f"disk: {name} {limit[0].__name__} {limit[1]}: {end.escaped or end.said}", flush=True)
        again = Running(name, data, folder).end()
        if again.code != 0 or job.result(folder) != wanted:
            print(
                f"disk: {name} {limit[0].__name__} {limit[1]}: with room again: {again.escaped or again.said}",
                flush=True,
            )
            counts["lost"] += 1
        shutil.rmtree(folder)
    return counts


def _judge(end: End) -> str:
    if end.escaped:
        return "escaped"
    if end.code == 0:
        return "valid"
    return "refused" if "instructbrush: " in end.said else "escaped"


def limit_size(size: int) -> None:
    """From now on no file of this process may be larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fail_from(where: tuple[str, int]) -> None:
    """From now on so many files may still be opened for writing below a folder; all others find the disk full."""
    folder, left = where
    opened = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event != "open" or not isinstance(arguments[0], str) or not arguments[0].startswith(folder):
            return
        if arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened += 1
            if opened > left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    sys.addaudithook(watch)
