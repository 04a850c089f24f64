"""Reason stage 2 draws and encodes the training pairs of connector and editor, with the reader's states.

    python -m tools.pocket.reasoning_stages.cache_reason --shards 32
    python -m tools.pocket.reasoning_stages.cache_reason --shards 48 --wishes

Every image has an indirect wish, the direct instruction that fulfills it, and other direct instructions with
other results. In a causal model words cannot change the states of the image before them, so these states are
stored once for all chats of the image. With `--wishes`, shards contain only states of wishes and the
instructions that fulfill them. The connector learns from these first.
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
from ..stages.cache_latents import VALIDATION, write_shard
from ..stages.training_run import WORK
from ..wishes.explicit_edits import draw_filtered
from ..wishes.wishes import holds_unseen, sample_wish
from ..world.effects import sample_edit
from ..world.photos import Photos
from ..world.tone_effects import TONE, tone_edit
from .train_reader import READER_TARGET, vary_words

# Images in a shard of pairs, and in a batch of it.
IMAGES = 250
BATCH = 10
# Wishes in a shard of wishes, and in a batch of it.
WISHES = 1000
WISH_BATCH = 25
# Direct instructions per image, without the one that fulfills the wish.
OTHERS = 2
PHOTO_SHARE = 0.06
# Positions of a chat before its words.
START = 1 + IMAGE_TOKENS
# Words, kind of edit, and index of the image that results.
Chat = tuple[str, str, int]


def draw(
    rng: np.random.Generator, photos: Photos, held_out: bool = False
) -> tuple[list[np.ndarray], list[Chat], bool]:
    """Draws images (before, then 1 + OTHERS results), chats, and whether the first chat is a wish."""
    if rng.random() < PHOTO_SHARE and not held_out:
        before = photos.crop(rng)
        images: list[np.ndarray] = [before]
        chats: list[Chat] = []
        for number, kind in enumerate(rng.permutation(TONE)[: 1 + OTHERS], 1):
            words, change, _ = tone_edit(str(kind), rng)
            images.append(np.clip(change(before), 0, 1).astype(np.float32))
            chats.append((words, str(kind), number))
        return images, chats, False
    wish = sample_wish(rng, held_out=held_out)
    kind = wish.meaning[0] if wish.meaning else ""
    images = [wish.before, wish.after]
    chats = [(wish.words, kind, 1), (wish.instruction, kind, 1)]
    while len(images) < 2 + OTHERS:
        edit = sample_edit(wish.scene, rng)
        if not holds_unseen(edit.scene) or held_out:
            chats.append((edit.words, edit.kind, len(images)))
            images.append(draw_filtered(edit.scene, wish.light, *edit.filters))
    return images, chats, True


def shard_path(index: int) -> Path:
    """Returns the path of shard `index`."""
    return WORK / "reason" / f"{index:04d}.pt"


def make_shard(index: int, editor: DiffusersEditor, reader: Mllm, photos: Photos) -> None:
    """Draws, encodes and writes one shard.

    It contains `latents` [IMAGES, 2 + OTHERS, 4, 16, 16], `starts` [IMAGES, START, D] and, for every chat,
    `states` (fp16 [positions, D]), `words`, `kinds` and `rows` (image, result, whether it is an indirect
    wish). The validation shard uses held-out wordings and combinations.
    """
    rng = np.random.default_rng((43, index))
    latents: list[torch.Tensor] = []
    starts: list[torch.Tensor] = []
    states: list[torch.Tensor] = []
    words: list[str] = []
    kinds: list[str] = []
    rows: list[tuple[int, int, int]] = []
    for first in range(0, IMAGES, BATCH):
        groups = [draw(rng, photos, index == VALIDATION) for _ in range(BATCH)]
        sides = torch.from_numpy(np.stack([image for images, _, _ in groups for image in images]))
        latents.append(editor.encode_images(sides).half().cpu().unflatten(0, (BATCH, -1)))
        chats = [
            (number, indirect and place == 0, chat)
            for number, (_, image_chats, indirect) in enumerate(groups)
            for place, chat in enumerate(image_chats)
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
    write_shard(shard_path(index), {**shard, "reader": reader.fingerprint})


def wishes_path(index: int) -> Path:
    """Returns the path of shard `index` of wishes."""
    return WORK / "reason" / f"wishes_{index:04d}.pt"


def make_wishes(index: int, reader: Mllm) -> None:
    """Draws wishes, reads them and writes one shard of wishes.

    It contains `states` (fp16 [positions, D]), their `words`, and the instructions that are `meant`.
    """
    rng = np.random.default_rng((44, index))
    states: list[torch.Tensor] = []
    words: list[str] = []
    meant: list[str] = []
    for _ in range(0, WISHES, WISH_BATCH):
        wishes = [sample_wish(rng) for _ in range(WISH_BATCH)]
        texts = [vary_words(rng, wish.words) for wish in wishes]
        hidden, mask = reader.states([torch.from_numpy(wish.before) for wish in wishes], texts)
        states += [hidden[row, : int(mask[row].sum())].half().cpu().clone() for row in range(WISH_BATCH)]
        words += texts
        meant += [wish.instruction for wish in wishes]
    shard = {"states": states, "words": words, "meant": meant, "reader": reader.fingerprint}
    write_shard(wishes_path(index), shard)


def load_shard(path: Path, reader: str) -> dict:
    """Reads one shard. Raises ValueError if it was made with another reader."""
    shard = torch.load(path, weights_only=True)
    if shard["reader"] != reader:
        raise ValueError(
            f"{path} was made with another reader. Delete {path.parent} and run cache_reason again."
        )
    return shard


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--wishes", action="store_true", help="make shards of wishes, from which the connector learns first"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mllm = load_mllm(READER_TARGET, options.device)
    numbers = range(options.start, options.start + options.shards)
    if options.wishes:
        missing = [number for number in numbers if not wishes_path(number).exists()]
        make = partial(make_wishes, reader=mllm)
    else:
        missing = [number for number in [VALIDATION, *numbers] if not shard_path(number).exists()]
        pocket_editor = load_editor(device=options.device)
        make = partial(make_shard, editor=pocket_editor, reader=mllm, photos=Photos(WORK / "photos"))
    for number in missing:
        began = time.monotonic()
        make(number)
        print(f"shard {number}: {time.monotonic() - began:.0f} s", flush=True)
