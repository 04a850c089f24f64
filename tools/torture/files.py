"""Damaged files into every reader: it must read them or refuse them with a sentence, in bounded time and memory."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from instructbrush.core.errors import InstructBrushError

from .readers import CASES, Case

_SECONDS = 10
"""A reader that takes longer has escaped."""
_MEMORY = 4 * 2**30
"""Bytes that readers may take above what the process has when they begin."""
_SHOWN = 5
"""Tracebacks that are printed."""


class TooLongError(BaseException):
    """A reader has not come to an end; no exception that it might handle."""


def run(count: int, seed_of_all: int, cases: tuple[Case, ...] | None = None) -> dict[str, int]:
    """Damage files and read them.

    Args:
        count: trials, of all kinds together.
        seed_of_all: the same one damages in the same way.
        cases: all by default.

    Returns:
        How many were ``tried``, and found ``valid`` or ``refused`` with an error of this package; ``escaped`` ended in another exception, after too long a
        time or in too much memory.
    """
    cases = CASES if cases is None else cases
    shares = sum(case.share for case in cases)
    counts = Counter[str](tried=0, valid=0, refused=0, escaped=0)
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            _limited_memory(),
            tempfile.TemporaryDirectory(dir=_memory_folder()) as folder,
        ):
            warnings.simplefilter("ignore")
            for case in cases:
                home = Path(folder) / case.name.replace(" ", "_")
                home.mkdir()
                counts += _tried(
                    case, home, max(1, round(count * case.share / shares)), seed_of_all, counts["escaped"]
                )
    finally:
        logging.disable(logging.NOTSET)
    return {name: counts[name] for name in ("tried", "valid", "refused", "escaped")}


def _tried(case: Case, home: Path, count: int, seed_of_all: int, escaped: int) -> Counter[str]:
    file = case.write(home)
    sound = file.read_bytes()
    case.read(file)
    counts = Counter[str]()

    @seed(seed_of_all)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(case.damage(sound))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        counts["tried"] += 1
        try:
            with _limited_time():
                case.read(file)
            counts["valid"] += 1
        except InstructBrushError:
            counts["refused"] += 1
        except (Exception, TooLongError):
            counts["escaped"] += 1
            if escaped + counts["escaped"] <= _SHOWN:
                print(f"\n{case.name}, seed {seed_of_all}: {content[:400]!r}", file=sys.stderr)
                traceback.print_exc()

    read()
    return counts


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Raise in a block that takes too long, where the system has alarms: not on Windows, and not beside the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: what is raised in a callback of the garbage collector is lost.
    signal.setitimer(signal.ITIMER_REAL, _SECONDS, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Limit the memory that the process can still take, where the system can."""
    try:
        import resource
    except ImportError:
        yield
        return
    status = Path("/proc/self/statm")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if not status.is_file():
        yield
        return
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _memory_folder() -> str | None:
    """A folder in memory, where there is one: the disk is not what is tried."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
