"""Small benchmarks with random images: MagicBrush, Emu Edit Test and reasoning instructions."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

# img_id -> number of turns.
SESSIONS = {"139": 3, "2047": 1, "30": 2}
SIDE = 64


def pixels(img_id: str, state: int, side: int = SIDE) -> Image.Image:
    """Draws a session's image after `state` turns: colored blocks, of which every turn changes one."""
    draw = np.random.default_rng(int(img_id))
    blocks = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    for turn in range(state):
        blocks[turn, turn] = 255 - blocks[turn, turn]
    return Image.fromarray(blocks.repeat(side // 4, 0).repeat(side // 4, 1))


def mask_of(turn: int, side: int = SIDE) -> Image.Image:
    """Returns the mask of a turn, white where the image changes."""
    grid = np.zeros((4, 4), np.uint8)
    grid[turn - 1, turn - 1] = 255
    return Image.fromarray(grid.repeat(side // 4, 0).repeat(side // 4, 1))


def erased(img_id: str, turn: int) -> Image.Image:
    """Returns a mask as in MagicBrush's parquet files: the source, transparent where the image changes."""
    image = pixels(img_id, turn - 1).convert("RGBA")
    image.putalpha(mask_of(turn).point(lambda value: 255 - value))
    return image


def words_of(img_id: str, turn: int) -> str:
    return f"turn block {turn} of {img_id} upside down"


def png(image: Image.Image) -> dict[str, Any]:
    """Returns an image as a parquet cell."""
    content = BytesIO()
    image.save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def magicbrush_rows() -> list[dict[str, Any]]:
    return [
        {
            "img_id": img_id,
            "turn_index": turn,
            "source_img": png(pixels(img_id, turn - 1)),
            "mask_img": png(erased(img_id, turn)),
            "instruction": words_of(img_id, turn),
            "target_img": png(pixels(img_id, turn)),
        }
        for img_id, turns in SESSIONS.items()
        for turn in range(1, turns + 1)
    ]


def emu_rows() -> list[dict[str, Any]]:
    """Returns usable rows, rows with equal or missing captions, and one row of another split."""
    captions = [
        ("a red block", "a blue block"),
        ("a wall", "a wall in the snow"),
        ("A train station in city", "a train station in city."),
        ("a Wall", "a wall "),
        ("", "a wall"),
        ("a green wall", "a drawing of a green wall"),
        ("a wall and a door", "a wall"),
    ]
    rows = [
        {
            "instruction": f"do thing {index}",
            "image": png(pixels(str(index), index % 3)),
            "task": ("local", "style", "remove")[index % 3],
            "split": "test",
            "idx": index,
            "hash": f"{index:02}ab",
            "input_caption": before,
            "output_caption": after,
        }
        for index, (before, after) in enumerate(captions)
    ]
    return [*rows, {**rows[0], "hash": "other", "split": "validation"}]


def write_parquet(path: Path, rows: list[dict[str, Any]], group: int = 2) -> Path:
    """Writes a table with small row groups, so that a session spans several groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def write_shards(folder: Path, rows: list[dict[str, Any]], split: str) -> Path:
    """Writes two files of a split to data/, as they are downloaded."""
    for number, part in enumerate((rows[:3], rows[3:])):
        write_parquet(folder / "data" / f"{split}-{number:05}-of-00002-0123456789abcdef.parquet", part)
    return folder


def captions() -> dict[str, dict[str, str]]:
    return {
        img_id: {f"{img_id}-output{turn}.png": f"block {turn}" for turn in range(1, turns + 1)}
        for img_id, turns in SESSIONS.items()
    }


def write_magicbrush_folder(folder: Path, words: bool = True) -> Path:
    """Writes the layout of MagicBrush's test archive. `words`: with local descriptions."""
    sessions: dict[str, list[dict[str, str]]] = {}
    for img_id, turns in SESSIONS.items():
        home = folder / "images" / img_id
        home.mkdir(parents=True)
        names = [f"{img_id}-input.png", *[f"{img_id}-output{turn}.png" for turn in range(1, turns + 1)]]
        for state, name in enumerate(names):
            pixels(img_id, state).save(home / name)
        for turn in range(1, turns + 1):
            mask_of(turn).save(home / f"{img_id}-mask{turn}.png")
        sessions[img_id] = [
            {
                "input": names[turn - 1],
                "mask": f"{img_id}-mask{turn}.png",
                "output": names[turn],
                "instruction": words_of(img_id, turn),
            }
            for turn in range(1, turns + 1)
        ]
    (folder / "edit_sessions.json").write_text(json.dumps(sessions))
    (folder / "edit_turns.json").write_text(
        json.dumps([turn for turns in sessions.values() for turn in turns])
    )
    if words:
        (folder / "local_descriptions.json").write_text(json.dumps(captions()))
    return folder


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def write_dino(folder: Path, kind: str = "vit") -> Path:
    """Writes a tiny DINO: a ViT without pooler, or a DINOv2."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    torch.manual_seed(3)
    model: Any
    if kind == "vit":
        model = ViTModel(ViTConfig(image_size=56, patch_size=8, **_SMALL), add_pooling_layer=False)
    else:
        model = Dinov2Model(
            Dinov2Config(image_size=56, patch_size=14, mlp_ratio=2, **{**_SMALL, "intermediate_size": None})
        )
    model.save_pretrained(folder)
    return folder


REASONING_COUNT = 4
# The one wish that the tiny model is trained on, for the first image, and its answer.
KNOWN_WISH = "night falls"
KNOWN_ANSWER = '{"instruction": "make it night", "reason": "the day ends"}'


def reasoning_entries() -> list[dict[str, Any]]:
    """Returns entries of four images; the second one has no caption."""
    wishes = {
        "night": KNOWN_WISH,
        "red": "it should be warmer there",
        "grey": "let hours go by",
        "sharp": "find the glasses",
    }
    entries: list[dict[str, Any]] = [
        {"words": f"make it {word}", "reasoning": wish} for word, wish in wishes.items()
    ]
    for number in (0, 2, 3):
        entries[number]["caption"] = f" wall {number} "
    return entries


def write_reasoning_folder(folder: Path, change: Callable[[list[dict[str, Any]]], Any] | None = None) -> Path:
    """Writes reason.json, with images in a folder below it. `change` may damage the entries."""
    (folder / "images").mkdir(parents=True)
    entries = reasoning_entries()
    for number, entry in enumerate(entries):
        for state, side in enumerate(("before", "after")):
            entry[side] = f"images/{number}_{side}.png"
            pixels(str(number), state).save(folder / entry[side])
    if change is not None:
        change(entries)
    (folder / "reason.json").write_text(json.dumps(entries))
    return folder


def reasoning_rows() -> list[dict[str, Any]]:
    """Returns the same entries as rows of a table."""
    rows = []
    for number, entry in enumerate(reasoning_entries()):
        images = {"before": png(pixels(str(number), 0)), "after": png(pixels(str(number), 1))}
        rows.append({"caption": None, **entry, **images})
    return rows
