"""What the command line says beside its results."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from tqdm import tqdm


class _Patient:
    """A stream that passes over what cannot be written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def talking_on() -> Iterator[None]:
    """Within it no work ends because stderr, which may be a file on a full disk, takes no more."""
    before = sys.stderr
    if before is not None:
        sys.stderr = cast(TextIO, _Patient(before))
    try:
        yield
    finally:
        sys.stderr = before


def say(text: str) -> None:
    """Write a line to stderr, above a progress bar where there is one."""
    tqdm.write(f"instructbrush: {text}", file=sys.stderr)
