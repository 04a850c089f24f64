"""What the gallery shows of instruction files. Only headers are read, once for each state of a file."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ....core.errors import InstructBrushError, InstructionError
from ....core.instruction.file_header import PartHeader, checked_header, parts_in
from ....core.instruction.inspect import facts
from ....core.learning.checkpoint import IDENTITY_KEY
from ....core.models.families import FAMILIES
from ....core.storage.json_text import parse_json
from ....core.storage.safetensors_header import read_tensor_header
from . import examples, listing, paths
from .model_folders import SUFFIX

_MOST_WORDS = 300
_MOST_FACT = 2000


class _Read(NamedTuple):
    state: str
    shown: dict[str, Any]


_cache: dict[Path, _Read] = {}


def gallery() -> dict[str, Any]:
    """Returns everything that the gallery lists: cards, unfinished runs, and the known families."""
    cards = [_card(name) for name in names()]
    runs = [_run(stem) for stem in unfinished_names()]
    _forget_removed()
    families = {
        family.name: {"title": family.title, "width": family.context_width, "side": family.side}
        for family in FAMILIES.values()
    }
    return {"cards": cards, "unfinished": runs, "families": families}


def names() -> list[str]:
    """Returns the names of all instruction files but those of unfinished runs."""
    return [name for name in paths.instruction_names() if not name.startswith(f"{paths.UNFINISHED}/")]


def unfinished_names() -> list[str]:
    """Returns the names of unfinished runs, without suffix. A killed run may have only its checkpoint."""
    files = listing.entries(paths.unfinished()).files
    return sorted({Path(file).stem for file in files if file.endswith((SUFFIX, paths.CHECKPOINT))})


def listed_path(name: str) -> Path:
    """Returns the file of a card or an unfinished run.

    Raises:
        InstructionError: the gallery does not list the name.
    """
    if name not in paths.instruction_names():
        raise InstructionError(f"Instruction {_quoted(name)} is not in the gallery any more. Open it again.")
    return paths.instruction_path(name)


def can_change(path: Path) -> bool:
    """Whether a file belongs to the user; the pack's examples stay."""
    return examples.FOLDER not in path.parents


def graph_of(name: str) -> dict[str, Any]:
    """Returns the graph in a file's header: ``workflow``, or ``prompt`` (API format) if it has no workflow.

    Raises:
        InstructionError: the gallery does not list the name, or the file has no readable graph.
    """
    metadata = checked_header(listed_path(name)).metadata
    for key in ("workflow", "prompt"):
        try:
            found = _for_browsers(parse_json(metadata.get(key, "null"), finite=False))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return {key: found}
    raise InstructionError(f"Instruction {_quoted(name)} holds no workflow that can be opened.")


def version(path: Path) -> str:
    """Returns a short text that changes when the file changes, for addresses of thumbnails."""
    return hashlib.sha256(paths.file_state(path).encode(errors="surrogateescape")).hexdigest()[:16]


def _for_browsers(content: Any) -> Any:
    """Makes NaN and infinities null. ComfyUI writes them (``is_changed``), but browsers refuse them."""
    return json.loads(json.dumps(content), parse_constant=lambda _name: None)


def _card(name: str) -> dict[str, Any]:
    try:
        path = paths.instruction_path(name)
    except InstructionError as error:  # removed meanwhile
        return {"name": name, "error": str(error)}
    return {"name": name, "changeable": can_change(path), **_shown(path)}


def _run(stem: str) -> dict[str, Any]:
    path = paths.unfinished() / f"{stem}{SUFFIX}"
    name = f"{paths.UNFINISHED}/{path.name}"
    if os.path.isfile(path):
        return {"name": name, "stem": stem, **_shown(path)}
    return {"name": name, "stem": stem, **_shown(path.with_suffix(paths.CHECKPOINT))}


def _shown(path: Path) -> dict[str, Any]:
    state = paths.file_state(path)
    read = _cache.get(path)
    if read is None or read.state != state:
        try:
            facts_read = _checkpoint(path) if path.suffix == paths.CHECKPOINT else _instruction(path)
        except InstructBrushError as error:
            facts_read = {"error": str(error)}
        read = _cache[path] = _Read(state, {**facts_read, **_file_facts(path)})
    return read.shown


def _instruction(path: Path) -> dict[str, Any]:
    header = checked_header(path)
    parts, _ = parts_in(header, path)
    infos = [part.info for part in parts]
    metadata = header.metadata
    return {
        "title": metadata.get("modelspec.title", infos[0].title)[:_MOST_WORDS],
        "words": " + ".join(dict.fromkeys(info.init_text for info in infos if info.init_text))[:_MOST_WORDS],
        "parts": [{"family": info.family[:40], "space": info.space} for info in infos],
        "segments": infos[0].segments if len({info.segments for info in infos}) == 1 else 1,
        "steps": max(info.steps for info in infos),
        "total": max(_steps_wanted(info.settings) for info in infos),
        "pairs": max(info.pairs for info in infos),
        "created": max(info.created for info in infos)[:40],
        "thumbnail": "base64," in metadata.get("modelspec.thumbnail", "")[:64],
        "workflow": bool({"workflow", "prompt"} & set(metadata)),
        "facts": [_facts(part) for part in parts],
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    """Facts of a run that was killed before it could write its instruction."""
    what = f"Checkpoint '{path.name}'"
    header = read_tensor_header(path, what, InstructionError)
    try:
        identity = parse_json(header.metadata.get(IDENTITY_KEY, "{}"))
    except ValueError as error:
        raise InstructionError(f"{what} is damaged ({error}).") from error
    words = identity.get("words", "") if isinstance(identity, dict) else ""
    return {"words": str(words)[:_MOST_WORDS], "workflow": False, "thumbnail": False}


def _facts(part: PartHeader) -> dict[str, str]:
    return {key: text[:_MOST_FACT] for key, text in facts(part.info, part.weight).items()}


def _steps_wanted(settings: Any) -> int:
    steps = settings.get("steps")
    return steps if isinstance(steps, int) else 0


def _file_facts(path: Path) -> dict[str, Any]:
    try:
        status = os.stat(path)
    except OSError:
        return {"size": 0, "modified": 0, "version": ""}
    return {"size": status.st_size, "modified": status.st_mtime, "version": version(path)}


def _forget_removed() -> None:
    for path in [path for path in list(_cache) if not os.path.exists(path)]:
        _cache.pop(path, None)


def _quoted(name: str) -> str:
    shown = ascii(name)
    return shown if len(shown) <= 80 else f"{shown[:77]}...'"
