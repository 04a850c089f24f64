"""A limit on requests per minute that all worker processes of a machine share."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ...storage.files import write_error
from ...storage.json_text import parse_json
from ..locks import locked

# A moment further ahead than this many seconds, and than this many turns, is that of a clock that was wrong.
_MOST_AHEAD = 3600.0
_MOST_TURNS = 1000
_MOST_BYTES = 100


class RateLimit:
    """Gives every request the next free moment, so that all processes have their turn.

    A file holds the next free moment. Each process takes it and writes the one after.

    Args:
        per_minute: largest number of requests in a minute; None only waits after ``hold``.
        file: shared by the processes that share the limit; None shares it between the threads of this one.
    """

    def __init__(self, per_minute: float | None, file: Path | None = None) -> None:
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._most_ahead = max(_MOST_AHEAD, _MOST_TURNS * self._seconds)
        self._file = file
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Waits for this request's turn.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._locked():
            now = time.time()
            turn = max(self._stored(now), now)
            self._store(turn + self._seconds)
        time.sleep(turn - now)

    def hold(self, seconds: float) -> None:
        """Makes the requests of all processes wait, because the endpoint asks for it.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._locked():
            now = time.time()
            self._store(max(self._stored(now), now + min(seconds, _MOST_AHEAD)))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            if self._file is None:
                yield
                return
            try:
                with locked(self._file.with_name(f"{self._file.name}.lock")):
                    yield
            except OSError as error:
                raise write_error(self._file, error) from error

    def _stored(self, now: float) -> float:
        moment = self._next
        if self._file is not None:
            moment = 0.0
            # A file that is missing or damaged limits nothing.
            with contextlib.suppress(OSError, ValueError, TypeError), self._file.open("rb") as file:
                moment = float(parse_json(file.read(_MOST_BYTES)))
        return moment if moment - now <= self._most_ahead else 0.0

    def _store(self, moment: float) -> None:
        self._next = moment
        if self._file is not None:
            # Not flushed to disk: it matters for seconds only.
            self._file.write_text(f"{moment:.3f}", encoding="ascii")
