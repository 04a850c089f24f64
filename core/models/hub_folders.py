"""Where a model lies in a folder that the Hugging Face cache made: ``models--owner--name`` with ``refs``, ``snapshots`` and ``blobs``."""

import os
from pathlib import Path

_CACHED = "models--"


def model_folder(path: str | Path) -> Path:
    """The folder of a model's own files: of a cache folder ``models--owner--name`` the snapshot that ``refs/main`` names, or else the newest one; of any
    other folder or file, itself. Nothing is raised: what is not there is for who reads it to say."""
    path = Path(path)
    try:
        # A model's own folder may keep snapshots of its training.
        if not (
            os.path.basename(os.path.realpath(path)).startswith(_CACHED)
            or (path / "refs").is_dir()
            or (path / "blobs").is_dir()
        ):
            return path
        snapshots = [each for each in (path / "snapshots").iterdir() if each.is_dir()]
    except OSError:
        return path
    if not snapshots:
        return path
    main = _main_of(path)
    return next((each for each in snapshots if each.name == main), None) or max(snapshots, key=_age)


def model_title(folder: Path) -> str:
    """What to call a model: its folder's name, or the name that it has in the Hugging Face cache."""
    folder = Path(os.path.realpath(folder))
    cached = folder.parent.parent.name if folder.parent.name == "snapshots" else folder.name
    return cached.rpartition("--")[2] if cached.startswith(_CACHED) else folder.name


def _main_of(path: Path) -> str:
    try:
        return (path / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _age(folder: Path) -> tuple[float, str]:
    try:
        return folder.stat().st_mtime, folder.name
    except OSError:
        return 0.0, folder.name
