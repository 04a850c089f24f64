"""A build: a source, its stages, and the folder that holds what they made."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...errors import BuildError, DataError, PairError, RegionError
from ...storage.files import is_ignored, write_text
from ...storage.json_text import parse_json
from ...storage.parquet import pyarrow_module
from ..errors import Refused
from ..locks import BUILD_LOCK
from .journal import Journal
from .stage import ID, Row, RowFunction, Stage, fingerprint
from .tables import PARENT, Part, RowResult, comes_from, read_part, write_part

FORMAT = 1
ANSWERS = "answers"
"""Folder of language models' answers inside a build's folder. It may be a copy of another build's."""
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
# Errors that concern one row's data. All others stop the build.
_ROW_ERRORS = (DataError, PairError, RegionError)


class Source(Protocol):
    """The rows that a build begins with. Is sent to other processes."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns and their types, without ``id``."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of what determines the rows."""
        ...

    @property
    def count(self) -> int:
        """Number of rows, refused ones included."""
        ...

    def rows(self, start: int, count: int) -> Iterator[Row | Refused]:
        """Yields the rows from ``start`` on, with unique ids, and a ``Refused`` for each unreadable one."""
        ...


@dataclass(frozen=True)
class Build:
    """A data set in the making.

    The folder holds ``build.json``, ``stages/00-source``, and a folder for each stage, with a file for each
    part. A part that exists is never made again, and rows of a part that is not finished are kept as well.
    """

    folder: Path
    source: Source
    stages: tuple[Stage, ...]
    rows_per_part: int = 64
    _names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = tuple(stage.name for stage in self.stages)
        wrong = next((name for name in names if not _NAME.fullmatch(name) or names.count(name) > 1), None)
        if wrong is not None:
            raise BuildError(f"Build: '{wrong}' is no name of a stage, or two stages have it.")
        if self.rows_per_part < 1:
            raise BuildError(f"Build: {self.rows_per_part} rows in a part are out of range; at least 1.")
        object.__setattr__(self, "_names", ("source", *names))
        self._check_columns()

    @property
    def parts(self) -> int:
        """Number of parts of every stage."""
        return -(-self.source.count // self.rows_per_part)

    def stage_folder(self, number: int) -> Path:
        """Folder of a stage; 0 is the source."""
        return self.folder / "stages" / f"{number:02d}-{self._names[number]}"

    def part_file(self, number: int, part: int) -> Path:
        """File of a part of a stage; 0 is the source."""
        return self.stage_folder(number) / f"part-{part:06d}.parquet"

    def unfinished_parts(self, number: int) -> list[int]:
        """Parts of a stage that are not made."""
        made = {file.name for file in self.stage_folder(number).glob("part-*.parquet")}
        return [part for part in range(self.parts) if self.part_file(number, part).name not in made]

    def begin(self) -> None:
        """Writes ``build.json``, or checks that the folder holds the same build.

        More or fewer stages at the end are no other build. The description keeps all stages that were ever
        begun, so that none of them goes on with other settings.

        Raises:
            BuildError: the folder holds something else.
            StorageError: the folder cannot be written to.
        """
        file = self.folder / "build.json"
        new = self._description()
        if file.is_file():
            old = _read_description(file)
            self._check_same(new, old)
            if len(old["stages"]) >= len(new["stages"]):
                return
        elif self.folder.is_dir() and any(not _is_ours(path) for path in self.folder.iterdir()):
            raise BuildError(f"'{self.folder}' holds other files, not a build. Give another --out folder.")
        write_text(json.dumps(new, indent=1), file)

    def make_part(self, number: int, part: int, function: RowFunction | None) -> None:
        """Makes a part of a stage, unless it exists. Goes on with the rows that an earlier run kept.

        Args:
            number: the stage; 0 is the source.
            part: the part.
            function: result of the stage's ``start``; None for the source.

        Raises:
            BuildError: the stage's function stopped the build, or its result does not fit.
            StorageError: a file cannot be written.
        """
        file = self.part_file(number, part)
        if file.is_file():
            return
        if number == 0 or function is None:
            write_part(self._source_results(part), self.source.columns, file)
            return
        stage = self.stages[number - 1]
        journal = Journal(self.stage_folder(number) / "rows" / f"{part:06d}", stage.adds)
        kept = journal.results()
        results: list[RowResult] = []
        try:
            for parent, row in enumerate(self.rows(number - 1, part, stage.reads)):
                result = kept.get(parent)
                if result is None or not result.comes_from(row[ID]):
                    result = run_row(stage, function, parent, row)
                    journal.add(result)
                results.append(result)
        except BaseException:
            journal.flush()
            raise
        write_part(results, stage.adds, file)
        journal.remove()

    def clean(self, number: int) -> None:
        """Removes rows that a killed run left behind in a stage whose parts are all made."""
        shutil.rmtree(self.stage_folder(number) / "rows", ignore_errors=True)

    def read(self, number: int, part: int, columns: Sequence[str] | None = None) -> Part:
        """Reads a part with the stage's own columns.

        Raises:
            BuildError: the part is damaged or not made.
        """
        return read_part(self.part_file(number, part), columns)

    def table(self, number: int, part: int, columns: Sequence[str]) -> Any:
        """Returns what a stage kept of a part, as a pyarrow table of ``id`` and ``columns``.

        Args:
            number: the stage; 0 is the source.
            part: the part.
            columns: columns of this stage or of stages before it.

        Raises:
            BuildError: a part is damaged or not made, does not belong to the part before, or a column is in
                no stage.
        """
        pa = pyarrow_module()
        found: dict[str, Any] = {}
        wanted = list(columns)
        after: Any = None
        for current in range(number, -1, -1):
            here = [name for name in wanted if name in self._columns_of(current)]
            kept = self.read(current, part, here).kept
            if after is not None:
                kept = _rows_before(after, kept, self.part_file(current + 1, part))
            found = {ID: kept[ID]} | found | {name: kept[name] for name in here}
            wanted = [name for name in wanted if name not in here]
            after = kept
            if not wanted:
                return pa.table({name: found[name] for name in (ID, *columns)})
        raise BuildError(f"'{self.folder}' holds no column '{wanted[0]}'. Run the build's command again.")

    def rows(self, number: int, part: int, columns: Sequence[str]) -> list[Row]:
        """Returns what a stage kept of a part as rows, see ``table``."""
        return self.table(number, part, columns).to_pylist()

    def _columns_of(self, number: int) -> Mapping[str, str]:
        return self.stages[number - 1].adds if number else self.source.columns

    def _source_results(self, part: int) -> list[RowResult]:
        start = part * self.rows_per_part
        count = min(self.rows_per_part, self.source.count - start)
        results = []
        for number, row in enumerate(self.source.rows(start, count)):
            if isinstance(row, Refused):
                name = f"row-{start + number}"
                results.append(RowResult(number, reason=row.reason, detail=row.detail, id=name))
            else:
                results.append(RowResult(number, ({ID: row[ID], **_only(row, self.source.columns)},)))
        if len(results) != count:
            raise BuildError(
                f"Build: the source ended after {start + len(results)} of {self.source.count} rows. Did its "
                "files change? Give another --out folder."
            )
        return results

    def _check_columns(self) -> None:
        known = set(self.source.columns)
        for stage in self.stages:
            missing = next((name for name in stage.reads if name not in known), None)
            if missing is not None:
                raise BuildError(
                    f"Build: stage '{stage.name}' needs the column '{missing}', which the source does not "
                    f"have. Columns: {', '.join(sorted(known))}."
                )
            known |= set(stage.adds)

    def _description(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "source": self.source.fingerprint,
            "rows": self.source.count,
            "columns": dict(self.source.columns),
            "rows_per_part": self.rows_per_part,
            "stages": [
                {"name": stage.name, "columns": dict(stage.adds), "fingerprint": fingerprint(stage)}
                for stage in self.stages
            ],
        }

    def _check_same(self, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        advice = "Give another --out folder, or the settings of before."
        for name in ("format", "source", "rows", "columns", "rows_per_part"):
            if new[name] != old.get(name):
                raise BuildError(f"'{self.folder}' holds another build: {name} has changed. {advice}")
        for before, after in zip(old["stages"], new["stages"], strict=False):
            if before != after:
                raise BuildError(
                    f"'{self.folder}' holds another build: stage '{after['name']}' or its settings have "
                    f"changed. {advice}"
                )


def run_row(stage: Stage, function: RowFunction, parent: int, row: Row) -> RowResult:
    """Returns what a stage makes of one row.

    Raises:
        BuildError: the function stopped the build, or its columns are not those of the stage.
    """
    try:
        made = function(row)
    except Refused as refusal:
        return RowResult(parent, reason=refusal.reason, detail=refusal.detail, id=row[ID])
    except _ROW_ERRORS as error:
        return RowResult(parent, reason="its data cannot be used", detail=str(error), id=row[ID])
    for values in made:
        if set(values) != set(stage.adds):
            raise BuildError(
                f"Build: stage '{stage.name}' made the columns {', '.join(sorted(values))}, not "
                f"{', '.join(sorted(stage.adds))}."
            )
    if not made:
        raise BuildError(f"Build: stage '{stage.name}' made nothing of row '{row[ID]}' and did not say why.")
    if len(made) == 1:
        return RowResult(parent, ({ID: row[ID], **made[0]},))
    return RowResult(parent, tuple({ID: f"{row[ID]}.{n}", **values} for n, values in enumerate(made)))


def _rows_before(after: Any, before: Any, file: Path) -> Any:
    """Takes the row that each row of ``after`` comes from out of the table of the stage before."""
    names = before[ID].to_pylist()
    parents = after[PARENT].to_pylist()
    for name, parent in zip(after[ID].to_pylist(), parents, strict=True):
        if not (0 <= parent < len(names) and comes_from(name, names[parent])):
            raise wrong_part(file, f"row '{name}' does not come from the stage before")
    # ``take`` would join all images in one array, which must not be larger than 2 GiB.
    rows = [before.slice(parent, 1) for parent in parents]
    return pyarrow_module().concat_tables(rows) if rows else before.slice(0, 0)


def wrong_part(file: Path, problem: str) -> BuildError:
    """The error of a part that does not fit the part of the stage before."""
    return BuildError(f"'{file}' is wrong: {problem}. Delete it and run the same command again.")


def _is_ours(path: Path) -> bool:
    """Whether a new build may find a file, or a folder, in its folder."""
    return is_ignored(path) or path.name in (BUILD_LOCK, ANSWERS)


def _only(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    return {name: row.get(name) for name in columns}


def _read_description(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
        if isinstance(content, dict) and isinstance(content.get("stages"), list):
            return content
    except (OSError, ValueError):
        pass
    raise BuildError(
        f"'{file}' is damaged. Restore it, or give another --out folder: without it nothing tells which "
        "settings the rows were made with."
    )
