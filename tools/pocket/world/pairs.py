"""Training pairs of the editor: an image, several edits of it, and all their words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .effects import sample_edit
from .photos import Photos
from .scenes import caption, render, sample_scene
from .tone_effects import TONE, tone_edit

PHOTO_SHARE = 0.2


@dataclass(frozen=True)
class Group:
    """One image and several edits of it. Images are float32 [128, 128, 3] in 0..1."""

    before: np.ndarray
    caption: str
    afters: tuple[np.ndarray, ...]
    words: tuple[str, ...]
    captions: tuple[str, ...]
    kinds: tuple[str, ...]


def sample_group(
    rng: np.random.Generator, photos: Photos, edits: int, photo_share: float = PHOTO_SHARE
) -> Group:
    """Draws an image and `edits` different edits of it.

    The image is a scene or, with probability `photo_share`, a photograph, which gets tone effects only.
    """
    afters: list[np.ndarray] = []
    words: list[str] = []
    captions: list[str] = []
    kinds: list[str] = []
    if rng.random() < photo_share:
        before = photos.crop(rng)
        name = str(rng.choice(["a photo", "a photograph"]))
        for kind in rng.permutation(TONE)[:edits]:
            instruction, change, phrase = tone_edit(str(kind), rng)
            afters.append(change(before).astype(np.float32))
            words.append(instruction)
            captions.append(f"{name} {phrase}")
            kinds.append(str(kind))
        return Group(before, name, tuple(afters), tuple(words), tuple(captions), tuple(kinds))
    scene = sample_scene(rng)
    while len(afters) < edits:
        made = sample_edit(scene, rng)
        if made.words in words:
            continue
        afters.append(made.render())
        words.append(made.words)
        captions.append(made.caption(rng))
        kinds.append(made.kind)
    return Group(
        render(scene), caption(scene, rng), tuple(afters), tuple(words), tuple(captions), tuple(kinds)
    )
