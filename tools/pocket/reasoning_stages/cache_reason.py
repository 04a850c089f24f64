"""Reason stage 2: draw the pairs that connector and editor are tuned on, encode them, and keep the frozen reader's states of every chat.

    python -m tools.pocket.reasoning_stages.cache_reason --shards 32
    python -m tools.pocket.reasoning_stages.cache_reason --shards 48 --wishes

Of every image there is an indirect wish, the direct instruction that fulfils it, and other direct instructions with other results. The states of a
image come before those of words, which cannot change them, so they are kept once for all its chats. Of more images there are a wish's states alone, and
which instruction fulfils it: what the connector learns first.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.mllm import Mllm, load_mllm

from ..models.reader import IMAGE_TOKENS
from ..stages.cache_latents import VALIDATION
from ..stages.training_run import WORK
from ..wishes.explicit_edits import drawn
from ..wishes.wishes import holds_unseen, sample_wish
from ..world.effects import TONE, sample_edit, tone_edit
from ..world.photos import Photos
from .train_reader import READER_TARGET, said_otherwise

IMAGES, BATCH = 250, 10
WISHES, WISH_BATCH = 1000, 25
"""In a shard of wishes alone, and read together."""
OTHERS = 2
"""Direct instructions of each image beside the one that fulfils its wish."""
PHOTO_SHARE = 0.06
START = 1 + IMAGE_TOKENS
"""Positions of a chat before its words."""
Chat = tuple[str, str, int]
"""Words, kind of edit and which result they ask for."""


def draw(
    rng: np.random.Generator, photos: Photos, held_out: bool = False
) -> tuple[list[np.ndarray], list[Chat], bool]:
    """Images (before, then 1 + OTHERS results), chats about the first, the wish first, and whether that wish is an indirect one."""
    if rng.random() < PHOTO_SHARE and not held_out:
        before = photos.crop(rng)
        images, chats = [before], []
        for number, kind in enumerate(rng.permutation(TONE)[: 1 + OTHERS], 1):
            words, change, _ = tone_edit(str(kind), rng)
            images.append(np.clip(change(before), 0, 1).astype(np.float32))
            chats.append((words, str(kind), number))
        return images, chats, False
    wish = sample_wish(rng, held_out=held_out)
    kind = wish.meaning[0] if wish.meaning else ""
    images, chats = [wish.before, wish.after], [(wish.words, kind, 1), (wish.instruction, kind, 1)]
    while len(images) < 2 + OTHERS:
        made = sample_edit(wish.scene, rng)
        if not holds_unseen(made.scene) or held_out:
            chats.append((made.words, made.kind, len(images)))
            images.append(drawn(made.scene, wish.light, *made.filters))
    return images, chats, True


def shard_path(index: int) -> Path:
    """Where shard `index` is kept."""
    return WORK / "reason" / f"{index:04d}.pt"


def make_shard(index: int, editor: DiffusersEditor, reader: Mllm, photos: Photos) -> None:
    """Draw, encode and write one shard.

    `latents` [IMAGES, 2 + OTHERS, 4, 16, 16], `starts` [IMAGES, START, D] and, for every chat in turn, `states` (fp16 [positions, D]), `words`, `kinds`
    and `rows` (image, result, whether it is an indirect wish). The validation shard has held-out wordings and combinations.
    """
    rng = np.random.default_rng((43, index))
    latents, starts, states, words, kinds, rows = [], [], [], [], [], []
    for first in range(0, IMAGES, BATCH):
        groups = [draw(rng, photos, index == VALIDATION) for _ in range(BATCH)]
        sides = torch.from_numpy(np.stack([image for images, _, _ in groups for image in images]))
        latents.append(editor.encode_images(sides).half().cpu().unflatten(0, (BATCH, -1)))
        chats = [
            (number, indirect and place == 0, chat)
            for number, (_, several, indirect) in enumerate(groups)
            for place, chat in enumerate(several)
        ]
        hidden, mask = reader.states(
            [torch.from_numpy(groups[number][0][0]) for number, _, _ in chats],
            [chat[0] for _, _, chat in chats],
        )
        for place, (number, indirect, (text, kind, result)) in enumerate(chats):
            if not rows or rows[-1][0] != first + number:
                starts.append(hidden[place, :START].half().cpu())
            states.append(hidden[place, START : int(mask[place].sum())].half().cpu().clone())
            words.append(text)
            kinds.append(kind)
            rows.append((first + number, result, int(indirect)))
    shard = {
        "latents": torch.cat(latents),
        "starts": torch.stack(starts),
        "states": states,
        "words": words,
        "kinds": kinds,
        "rows": rows,
    }
    _write(shard_path(index), {**shard, "reader": reader.fingerprint})


def wishes_path(index: int) -> Path:
    """Where the wishes of shard `index` are kept."""
    return WORK / "reason" / f"wishes_{index:04d}.pt"


def make_wishes(index: int, reader: Mllm) -> None:
    """Draw and read wishes: `states` (fp16 [positions, D]), their `words` and the instruction that is `meant`."""
    rng = np.random.default_rng((44, index))
    states, words, meant = [], [], []
    for _ in range(0, WISHES, WISH_BATCH):
        wishes = [sample_wish(rng) for _ in range(WISH_BATCH)]
        texts = [said_otherwise(rng, wish.words) for wish in wishes]
        hidden, mask = reader.states([torch.from_numpy(wish.before) for wish in wishes], texts)
        states += [hidden[row, : int(mask[row].sum())].half().cpu().clone() for row in range(WISH_BATCH)]
        words += texts
        meant += [wish.instruction for wish in wishes]
    _write(
        wishes_path(index), {"states": states, "words": words, "meant": meant, "reader": reader.fingerprint}
    )


def _write(path: Path, shard: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(shard, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_shard(path: Path, reader: str) -> dict:
    """Read one shard. Raises ValueError where it is of another reader than the one of that fingerprint."""
    shard = torch.load(path, weights_only=True)
    if shard["reader"] != reader:
        raise ValueError(
            f"{path}: these are another reader's states. Delete {path.parent} and run cache_reason again."
        )
    return shard


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--wishes", action="store_true", help="wishes alone, for what the connector learns first"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mllm, wanted = (
        load_mllm(READER_TARGET, options.device),
        range(options.start, options.start + options.shards),
    )
    if options.wishes:
        missing, make = (
            [number for number in wanted if not wishes_path(number).exists()],
            partial(make_wishes, reader=mllm),
        )
    else:
        missing = [number for number in [VALIDATION, *wanted] if not shard_path(number).exists()]
        make = partial(
            make_shard, editor=load_editor(device=options.device), reader=mllm, photos=Photos(WORK / "photos")
        )
    for number in missing:
        began = time.monotonic()
        make(number)
        print(f"shard {number}: {time.monotonic() - began:.0f} s", flush=True)
