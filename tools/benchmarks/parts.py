"""Runs a benchmark in parts that are kept on disk, so that a stopped run resumes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructbrush.core.errors import EvaluationError
from instructbrush.core.storage.files import check_writable, write_text
from instructbrush.core.storage.json_text import parse_json

Part = Mapping[str, Any]
"""What a part measured, as plain values."""


def run_parts(
    folder: Path,
    settings: Mapping[str, Any],
    names: Sequence[str],
    measure: Callable[[str], Part],
    most: int | None = None,
) -> list[Part] | None:
    """Measures every part that is not in the folder yet, with a line of progress for each.

    Args:
        folder: the parts are kept in ``parts/`` there.
        settings: everything that determines the figures, as plain values.
        names: names of the parts, which are file names.
        measure: name -> what the part measured.
        most: stops after this many new parts; None measures all.

    Returns:
        All parts in the order of ``names``; None if some are still missing.

    Raises:
        EvaluationError: the folder holds parts with other settings.
        StorageError: the folder cannot be written to. Nothing is measured then.
    """
    for file in (folder / "grid.png", folder / "parts" / "part.json"):
        check_writable(file)
    settings = json.loads(json.dumps(settings))
    kept: dict[str, Part] = {}
    for name in names:
        found = _read(folder / "parts" / f"{name}.json")
        if found is None:
            continue
        if found["settings"] != settings:
            raise EvaluationError(
                f"'{folder}' holds parts of another run: {found['settings']}. Give another --out folder, "
                "or delete this one."
            )
        kept[name] = found["part"]
    new = 0
    for name in names:
        if name in kept:
            continue
        if new == most:
            return None
        start = time.monotonic()
        part = json.loads(json.dumps(measure(name)))
        write_text(
            json.dumps({"settings": settings, "part": part}, indent=1), folder / "parts" / f"{name}.json"
        )
        kept[name] = part
        new += 1
        print(f"[{len(kept)}/{len(names)}] {name}: {time.monotonic() - start:.0f} s", flush=True)
    return [kept[name] for name in names]


def models_digest(folders: Sequence[Path]) -> str:
    """Returns hex digits that identify models: all files of their folders, but not their model cards."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.suffix != ".md":
                name = file.relative_to(folder).as_posix()
                digest.update(f"{folder.name}/{name} {file.stat().st_size}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> dict[str, Any] | None:
    """A kept part with its settings; None if it is missing or damaged."""
    try:
        found = parse_json(file.read_bytes(), finite=False)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"settings", "part"} <= set(found) else None
