"""Word lists of Unique Phrases, and their features, computed once for each model and list."""

import hashlib
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ...encoders.clip import POCKET_NAME, ClipModel, text_features
from ...errors import LearningError, ModelError, StorageError
from ...progress import Progress
from ...storage.files import read_tensor, write_tensors

logger = logging.getLogger(__name__)

POCKET = "pocket"
INTERROGATOR = ("flavors", "mediums", "movements", "artists", "trending")
LISTS = (*INTERROGATOR, POCKET)
DEFAULT_LISTS = ("flavors", "mediums", "movements")
"""The paper's vocabulary, without names of artists and sites."""

CHUNK = 2048
"""Phrases that are ranked at a time: clip-interrogator's size, which its ranking depends on."""

# The sites of clip-interrogator's trending list, which clip-interrogator has in its code.
_SITES = (
    "Artstation", "behance", "cg society", "cgsociety", "deviantart", "dribble", "flickr", "instagram",
    "pexels", "pinterest", "pixabay", "pixiv", "polycount", "reddit", "shutterstock", "tumblr", "unsplash",
    "zbrush central",
)  # fmt: skip


def lists_for(clip: ClipModel) -> tuple[str, ...]:
    """The default lists of a model: the pocket editor's for the pocket CLIP, the paper's for others."""
    return (POCKET,) if clip.name == POCKET_NAME else DEFAULT_LISTS


def check_lists(names: Sequence[str]) -> None:
    """Checks the names of lists.

    Raises:
        LearningError: there is no name, or a list does not exist.
    """
    if not names:
        raise LearningError("Unique Phrases: no word list was chosen. Choose at least one.")
    unknown = next((name for name in names if name not in LISTS), None)
    if unknown is not None:
        raise LearningError(f"Word list '{unknown}' does not exist. Choose from {', '.join(LISTS)}.")


def missing_lists(names: Sequence[str]) -> list[str]:
    """Those of the lists that cannot be read, because their package is not installed."""
    if find_spec("clip_interrogator") is not None:
        return []
    return [name for name in names if name in INTERROGATOR and name != "trending"]


def read_list(name: str) -> list[str]:
    """The phrases of one list, in its order.

    Args:
        name: ``flavors``, ``mediums``, ``movements``, ``artists`` or ``trending`` (clip-interrogator's), or
            ``pocket``.

    Raises:
        LearningError: the list does not exist.
        ModelError: the list is part of the package clip-interrogator, which is not installed.
    """
    if name == POCKET:
        return _lines(Path(__file__).parent / "vocabulary_pocket.txt")
    if name == "trending":
        return [
            form.format(site)
            for form in ("{}", "trending on {}", "featured on {}", "{} contest winner")
            for site in _SITES
        ]
    check_lists((name,))
    # The files are read without importing the package, which would load captioning models.
    spec = find_spec("clip_interrogator")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"Word list '{name}' comes with the package clip-interrogator, which is not installed. Run: pip "
            "install --no-deps clip-interrogator. Or choose the list 'pocket'."
        )
    lines = _lines(Path(spec.submodule_search_locations[0]) / "data" / f"{name}.txt")
    return (
        [f"{by} {artist}" for by in ("by", "inspired by") for artist in lines] if name == "artists" else lines
    )


def encode_phrases(
    clip: ClipModel, phrases: Sequence[str], progress: Progress | None = None, chunk: int = 256
) -> Tensor:
    """Normalized features of phrases, fp32 [N, P], computed ``chunk`` at a time.

    Args:
        clip: the model.
        phrases: N phrases.
        progress: called after every chunk; its exceptions are passed on.
        chunk: phrases of a batch.
    """
    done: list[Tensor] = []
    for start in range(0, len(phrases), chunk):
        part = phrases[start : start + chunk]
        done.append(text_features(clip, part))
        if progress:
            progress(start + len(part), len(phrases))
    return torch.cat(done)


def list_features(
    clip: ClipModel, name: str, cache: Path | None = None, progress: Progress | None = None
) -> tuple[list[str], Tensor]:
    """The phrases of a list and their normalized features, fp16 [N, P] on the CPU, as in clip-interrogator.

    Args:
        clip: the model.
        name: as in ``read_list``.
        cache: folder for computed features, by model and list; None always computes them. A damaged file is
            replaced.
        progress: called after every chunk that is computed.

    Raises:
        LearningError, ModelError: as in ``read_list``.
    """
    phrases = read_list(name)
    digest = hashlib.sha256("\n".join(phrases).encode()).hexdigest()
    file = cache / f"{name}-{digest[:12]}-{clip.fingerprint[:12]}.safetensors" if cache else None
    key = {"list": digest, "model": clip.fingerprint}
    found = _read(file, key, (len(phrases), clip.text_projection.shape[1])) if file else None
    if found is None:
        found = encode_phrases(clip, phrases, progress).half().cpu()
        if file:
            try:
                write_tensors({"features": found.contiguous()}, file, key)
            except StorageError as error:
                logger.warning("%s The features of its phrases are computed again.", error)
    return phrases, found


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.strip() for line in file]


def _read(file: Path, key: dict[str, str], shape: tuple[int, int]) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            features = read_tensor(opened, "features")
    except (OSError, SafetensorError):
        return None
    fits = (
        all(metadata.get(name) == value for name, value in key.items())
        and tuple(features.shape) == shape
        and features.dtype == torch.float16
    )
    return features if fits and bool(torch.isfinite(features).all()) else None
