"""Messages on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from tqdm import tqdm


class _TolerantStream:
    """A stream that ignores write errors."""

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
def tolerant_stderr() -> Iterator[None]:
    """Ignores write errors of stderr, for example if it is a file on a full disk: the work goes on."""
    before = sys.stderr
    if before is not None:
        sys.stderr = cast(TextIO, _TolerantStream(before))
    try:
        yield
    finally:
        sys.stderr = before


def say(text: str) -> None:
    """Writes a line to stderr, above any progress bar."""
    tqdm.write(f"instructbrush: {text}", file=sys.stderr)
