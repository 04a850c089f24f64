"""A small build of numbers and images, whose rows branch and are refused. Also a program that runs it."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from instructbrush.core.errors import BuildError, DataError
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.run import Workers, run_build
from instructbrush.core.generation.engine.stage import Row, RowFunction, Stage, seed_of
from instructbrush.core.generation.errors import Refused


@dataclass(frozen=True)
class Numbers:
    """Rows r0, r1, ...; every 20th is unreadable."""

    count: int = 60
    columns: ClassVar[Mapping[str, str]] = {"number": "integer", "image": "image"}

    @property
    def fingerprint(self) -> str:
        return f"numbers {self.count}"

    def rows(self, start: int, count: int) -> Iterator[Row | Refused]:
        for number in range(start, start + count):
            if number % 20 == 19:
                yield Refused("the image cannot be read", f"image {number}")
            else:
                image = {"bytes": bytes([number]) * 1000, "path": None}
                yield {"id": f"r{number}", "number": number, "image": image, "left": "out"}


@dataclass(frozen=True)
class Branch:
    """Makes one to three rows of a row; refuses numbers that end in 3."""

    seconds: float = 0.0

    def __call__(self) -> RowFunction:
        return self._branch

    def _branch(self, row: Row) -> list[dict[str, Any]]:
        time.sleep(self.seconds)
        if row["number"] % 10 == 3:
            raise Refused("it ends in three", str(row["number"]))
        if row["number"] % 10 == 4:
            raise DataError("Four has no image.")
        return [{"draw": seed_of(row, "branch", number) % 1000} for number in range(1 + row["number"] % 3)]


@dataclass(frozen=True)
class Sum:
    """Adds a column of the source and one of the stage before. Stops the build at a number."""

    stop_at: int = -1
    starts: bool = field(default=True, repr=False)

    def __call__(self) -> RowFunction:
        assert self.starts
        return self._sum

    def _sum(self, row: Row) -> list[dict[str, Any]]:
        if row["image"]["bytes"][0] == self.stop_at:
            raise BuildError("The endpoint does not answer.")
        return [{"sum": row["draw"] + row["image"]["bytes"][0] + 0.5}]


def numbered_build(
    folder: Path, seconds: float = 0.0, stop_at: int = -1, count: int = 60, never_starts: bool = False
) -> Build:
    """A build of two stages and 16 rows in a part."""
    branch = Branch(seconds)
    last = Sum(stop_at, not never_starts)
    stages = (
        Stage("branch", ("number",), {"draw": "integer"}, branch, branches=2, keeps=0.8),
        Stage("sum", ("image", "draw"), {"sum": "number"}, last, calls=3, call_tokens=(100, 50)),
    )
    return Build(folder, Numbers(count), stages, 16)


def build_files(build: Build) -> dict[str, bytes]:
    """Contents of all parts, by their path within the build's folder."""
    files = sorted(build.folder.rglob("*.parquet"))
    return {str(file.relative_to(build.folder)): file.read_bytes() for file in files}


if __name__ == "__main__":
    _, place, seconds, jobs = sys.argv
    run_build(numbered_build(Path(place), float(seconds)), Workers(int(jobs)))
