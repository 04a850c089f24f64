"""Damaged files into every reader. It must read or refuse them, in bounded time and memory."""

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

# A reader that takes longer counts as escaped.
_SECONDS = 10
# Bytes that readers may allocate.
_MEMORY = 4 * 2**30
# Tracebacks that are printed.
_MOST_SHOWN = 5


class TooLongError(BaseException):
    """A reader takes too long. A BaseException, so that the reader does not catch it."""


def run(count: int, seed_of_all: int, cases: tuple[Case, ...] | None = None) -> dict[str, int]:
    """Damages files and reads them.

    Args:
        count: number of trials, over all kinds of files.
        seed_of_all: the same seed gives the same damage.
        cases: kinds of files; all by default.

    Returns:
        Number of files that were ``tried``, were ``valid``, were ``refused`` with an error of this package,
        or ``escaped``: ended in another exception, or took too much time or memory.
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
                counts += _try_case(
                    case, home, max(1, round(count * case.share / shares)), seed_of_all, counts["escaped"]
                )
    finally:
        logging.disable(logging.NOTSET)
    return {name: counts[name] for name in ("tried", "valid", "refused", "escaped")}


def _try_case(case: Case, home: Path, count: int, seed_of_all: int, escaped: int) -> Counter[str]:
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
            if escaped + counts["escaped"] <= _MOST_SHOWN:
                print(f"\n{case.name}, seed {seed_of_all}: {content[:400]!r}", file=sys.stderr)
                traceback.print_exc()

    read()
    return counts


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Raises TooLongError in a block that takes too long. Not on Windows, nor outside the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    # Repeats, because an exception in a callback of the garbage collector is lost.
    signal.setitimer(signal.ITIMER_REAL, _SECONDS, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Limits the memory that the process can allocate, if the system supports it."""
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
    """Returns a folder in memory, if there is one. It is faster, and the disk is not under test."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
