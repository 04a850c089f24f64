"""Finds models in the Hugging Face cache, ``models--owner--name/snapshots/<revision>``."""

import os
import re
from pathlib import Path

_CACHED = "models--"
# Names that people give, without case and signs -> the model's name on the hub.
_KNOWN = {
    "instructpix2pix": "timbrooks/instruct-pix2pix",
    "ip2p": "timbrooks/instruct-pix2pix",
    "cosxl": "stabilityai/cosxl",
    "ultraedit": "BleachNick/SD3_UltraEdit_w_mask",
}


def model_folder(path: str | Path) -> Path:
    """Returns the folder that holds a model's files.

    In a cache folder this is the snapshot that ``refs/main`` names, or else the newest one. Any other folder
    or file is returned as it is. Never raises; whoever reads the folder reports what is missing.
    """
    path = Path(path)
    try:
        # Not by "snapshots" alone: a model's own folder may hold snapshots of its training.
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
    """Returns a model's name for messages: its folder's name, or its name in the Hugging Face cache."""
    folder = Path(os.path.realpath(folder))
    cached = folder.parent.parent.name if folder.parent.name == "snapshots" else folder.name
    return cached.rpartition("--")[2] if cached.startswith(_CACHED) else folder.name


def how_to_download(name: str) -> str:
    """Tells how to get a model by its name on the Hugging Face hub; empty if the name cannot be one."""
    is_hub_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)
    hub = name if is_hub_name else _KNOWN.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    if hub is None:
        return ""
    folder = hub.partition("/")[2]
    return (
        f"If you mean {hub} on the Hugging Face hub, download it first (hf download {hub} --local-dir "
        f"{folder}), and give that folder."
    )


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
