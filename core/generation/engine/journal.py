"""The rows of an unfinished part, kept until the part is written."""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from ...errors import BuildError
from .tables import RowResult, part_results, read_part, write_part

# Rows are kept at most this many seconds after they are made, so a killed build loses no more than this.
_SECONDS = 1.0


class Journal:
    """Keeps finished rows of one part on disk, several in a file where they are quick to make.

    Args:
        folder: the folder of this part's rows.
        columns: the stage's columns and their types.
    """

    def __init__(self, folder: Path, columns: Mapping[str, str]) -> None:
        self._folder = folder
        self._columns = columns
        self._unwritten: list[RowResult] = []
        self._written_at = time.monotonic()

    def results(self) -> dict[int, RowResult]:
        """Returns the kept rows by ``parent``. Damaged files count as missing."""
        results: dict[int, RowResult] = {}
        for file in sorted(self._folder.glob("*.parquet")):
            with contextlib.suppress(BuildError):
                results |= {result.parent: result for result in part_results(read_part(file))}
        return results

    def add(self, result: RowResult) -> None:
        """Keeps a row.

        Raises:
            StorageError: it cannot be written.
        """
        self._unwritten.append(result)
        if time.monotonic() - self._written_at >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is not written yet.

        Raises:
            StorageError: it cannot be written.
        """
        if self._unwritten:
            # Two builds in one folder may make the same part, so the name holds the process.
            name = f"{self._unwritten[0].parent:06d}-{os.getpid()}.parquet"
            write_part(self._unwritten, self._columns, self._folder / name)
        self._unwritten = []
        self._written_at = time.monotonic()

    def remove(self) -> None:
        """Removes the files. The part is written."""
        self._unwritten = []
        shutil.rmtree(self._folder, ignore_errors=True)
