"""Opens the folder of a build for reading, without its source and its models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ...errors import BuildError
from ...storage.json_text import parse_json, read_record
from ..errors import Refused
from .build import FORMAT, Build
from .stage import Row, Stage
from .tables import KINDS


@dataclass(frozen=True)
class _Description:
    """``build.json``."""

    format: int
    source: str
    rows: int
    columns: Mapping[str, Any]
    rows_per_part: int


@dataclass(frozen=True)
class StoredSource:
    """The source of a build whose rows are read already."""

    fingerprint: str
    count: int
    columns: Mapping[str, str]

    def rows(self, start: int, count: int) -> Iterator[Row | Refused]:
        """Raises ``BuildError``: the rows are in the build's folder."""
        _cannot_run()


def open_build(folder: Path) -> Build:
    """Opens a build for reading.

    Raises:
        BuildError: the folder holds no build, or its description is damaged.
    """
    file = folder / "build.json"
    try:
        content = parse_json(file.read_bytes())
        description = read_record(_Description, content)
        if description.format != FORMAT:
            raise ValueError(f"its format is {description.format}, not {FORMAT}")
        stages = tuple(_stage(entry) for entry in content["stages"])
        source = StoredSource(description.source, description.rows, _columns(description.columns))
        return Build(folder, source, stages, description.rows_per_part)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BuildError(f"'{folder}' holds no build: it has no build.json.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"'{file}' is damaged or cannot be read ({error}). Restore it, or make the build anew in another "
            "folder."
        ) from error


def _stage(entry: Any) -> Stage:
    return Stage(str(entry["name"]), (), _columns(entry["columns"]), _cannot_run)


def _columns(content: Mapping[str, Any]) -> dict[str, str]:
    unknown = next((kind for kind in content.values() if kind not in KINDS), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is no type of a column")
    return dict(content)


def _cannot_run() -> NoReturn:
    raise BuildError("Build: it is open for reading only. Run its own command to continue it.")
