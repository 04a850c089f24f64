"""Every reader of the package, with a sound file of its kind and the damage that suits it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from instructbrush.core.editing.loading import describe, load_editor
from instructbrush.core.encoders.mllm import check_folder, stored_bits, stored_dtype
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_example.results import EffectFolder, Outcome
from instructbrush.core.evaluation.by_example.top_bench import read_top_bench
from instructbrush.core.evaluation.by_instruction.datasets.emu_edit import read_emu_edit
from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.evaluation.by_instruction.results import ItemFolder, Score
from instructbrush.core.evaluation.preference.ratings import Study, StudyItem
from instructbrush.core.finetuning.pair_states import INDEX, MllmIdentity, PairStates
from instructbrush.core.instruction.file import load_instruction, read_thumbnail, save_instruction
from instructbrush.core.instruction.instruction import (
    Blend,
    Instruction,
    InstructionInfo,
    WeightedInstruction,
)
from instructbrush.core.learning.checkpoint import load_checkpoint, save_checkpoint
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.settings import LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.models.builtin import POCKET_FOLDER, POCKET_READER_FOLDER
from instructbrush.core.models.hub_folders import model_folder
from instructbrush.core.models.tokenizer import tokenizer_from_folder
from instructbrush.core.models.weights import Weights, read_header
from instructbrush.core.pairs.pairs import load_pairs
from instructbrush.core.reasoning.connector import (
    ConnectorConfig,
    load_connector,
    new_connector,
    save_connector,
)
from instructbrush.core.reasoning.explain import parse_answer
from instructbrush.core.reasoning.state_cache import StateStore
from instructbrush.core.regions.mask_files import read_mask
from instructbrush.core.storage.image_files import read_image

from . import mutations
from .mutations import Damaged


@dataclass(frozen=True)
class Case:
    """One kind of file.

    Attributes:
        name: of the kind.
        write: writes a sound one, with all that it needs, into an empty folder, and returns the file that will be damaged.
        read: reads it.
        damage: makes strategies of its damage from the sound bytes.
        share: how many of all trials it gets, relative to the others: more for what takes less time.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], object]
    damage: Callable[[bytes], Damaged]
    share: float = 1


def _image(side: int = 32, mode: str = "RGB") -> Image.Image:
    levels = (
        np.random.default_rng(0)
        .integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
        .repeat(4, 0)
        .repeat(4, 1)
    )
    return Image.fromarray(levels).convert(mode)


def _instruction(number: int = 0) -> Instruction:
    draw = torch.Generator().manual_seed(number)
    info = InstructionInfo(
        "pocket",
        "f" * 64,
        2,
        3,
        title=f"snow {number}",
        init_text="make it snow",
        losses=(0.5, 0.25),
        settings={"seed": 1, "noise": "fresh"},
    )
    sites = {f"{way}_blocks.0.attn2": torch.randn(2, 3, 4, generator=draw) for way in ("down", "up")}
    return Instruction(sites, sites, torch.randn(12, 8, generator=draw), 1, info)


def _write_instruction(folder: Path) -> Path:
    return save_instruction(_instruction(), folder / "x.safetensors", extra={"workflow": "{}"})


def _write_blend(folder: Path) -> Path:
    return save_instruction(
        Blend((WeightedInstruction(0.5, _instruction(1)), WeightedInstruction(-1.0, _instruction(2)))),
        folder / "x.safetensors",
    )


def _write_thumbnail(folder: Path) -> Path:
    return save_instruction(_instruction(), folder / "x.safetensors", thumbnail=_image())


@cache
def _trainer() -> Trainer:
    editor = load_editor()
    context, null = editor.encode_text(["make it snow", ""])
    draw = torch.Generator().manual_seed(0)
    before, after = (list(torch.randn(1, 4, 8, 8, generator=draw)) for _ in range(2))
    latents = PairLatents(before, after)
    chosen = LearningSettings(
        space="text", tokens=2, segments=1, steps=3, objective="plain", parametrisation="separate"
    )
    init_text = InitText("make it snow", context, 3)
    trainer = Trainer(LearningRequest(editor.denoiser, latents, init_text, null, chosen))
    trainer.step()
    return trainer


def _write_weights(folder: Path) -> Path:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    tensors = {
        "conv_in.weight": torch.zeros(4, 8, 3, 3),
        "down_blocks.0.resnets.0.conv1.weight": torch.zeros(4, 4, 3, 3),
    }
    tensors |= {f"{layer}.{name}.weight": torch.zeros(8, 128) for name in ("to_k", "to_v")}
    save_file(tensors, folder / "x.safetensors", {"format": "pt"})
    return folder / "x.safetensors"


def _read_weights(file: Path) -> None:
    described = None
    with contextlib.suppress(InstructBrushError):
        described = describe(file)
    list(Weights([read_header(file)]).tensors())
    if described is None:
        describe(file)


def _write_connector(folder: Path) -> Path:
    return save_connector(
        new_connector(ConnectorConfig("pocket", 8, 6, 2, 1, 2, 8)), folder / "x.safetensors"
    )


_KEY = "0" * 64


def _write_state(folder: Path) -> Path:
    StateStore(folder).put(_KEY, torch.ones(3, 4))
    return next(folder.glob("*.safetensors"))


def _write_list(folder: Path) -> Path:
    PairStates(
        folder, MllmIdentity("reader", "f" * 64, 4, "float32", None, "What?"), {"a" * 40: _KEY}, ("d" * 64,)
    ).write()
    return folder / INDEX


def _read_list(file: Path) -> None:
    found = PairStates.read(file.parent)
    if found is not None:
        store = StateStore(file.parent)
        for key in found.keys.values():
            store.has(key)


def _write_pairs(folder: Path) -> Path:
    for side in range(2):
        _image().save(folder / f"{side}.png")
    entries = [
        {
            "before": "0.png",
            "after": "1.png",
            "name": "first",
            "words": "make it snow",
            "reasoning": ["it is cold"],
        }
    ]
    (folder / "pairs.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder / "pairs.json"


_RUN = {"data": "somewhere", "seeds": [0, 1], "text_scale": 7.5, "lpips": None}


def _write_run(folder: Path) -> Path:
    EffectFolder(folder).begin(_RUN)
    return folder / "run.json"


def _write_outcome(folder: Path) -> Path:
    outcome = Outcome("snow", "global", "words", 0, (20.0, 21.0), (0.5, 0.6), None, 0.3, (0.9, 0.8))
    return _written(folder / "effects" / "snow" / "words-0.json", asdict(outcome))


def _write_score(folder: Path) -> Path:
    score = Score("first", "1 turn", "words", 0, 1, (0.1,), (0.01,), (0.9,), None, (None,), (0.2,))
    return _written(folder / "items" / "first" / "words-0.json", asdict(score))


def _written(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def _write_study(folder: Path) -> Path:
    images = {"a": torch.zeros(16, 16, 3), "b": torch.ones(16, 16, 3)}
    study = Study.begin(folder, [StudyItem(str(number), images, "make it snow") for number in range(2)])
    study.judge(0, "left")
    study.undo()
    study.judge(1, "tie")
    return folder / "study.jsonl"


def _read_study(file: Path) -> None:
    study = Study.open(file.parent, images=False)
    _ = study.pending, study.judgements


def _write_answer(folder: Path) -> Path:
    answer = '<think>Maybe {"instruction": "make it night"} …</think>```json\n{"instruction": "add snow", "reason": "it is cold"}\n```'
    (folder / "answer.txt").write_text(answer, encoding="utf-8")
    return folder / "answer.txt"


def _write_bare_answer(folder: Path) -> Path:
    return _written(folder / "answer.json", {"instruction": "add snow", "reason": "it is cold"})


def _read_answer(file: Path) -> None:
    parse_answer(file.read_bytes().decode("utf-8", "replace"))


def _write_reason(folder: Path) -> Path:
    for side in range(2):
        _image().save(folder / f"{side}.png")
    return _written(
        folder / "reason.json",
        [
            {
                "before": "0.png",
                "after": "1.png",
                "words": "add snow",
                "reasoning": "it is cold",
                "caption": "snow",
            }
        ],
    )


def _write_effects(folder: Path) -> Path:
    return _written(folder / "effects.json", {"glow": {"instruction": "make it glow", "scope": "global"}})


def _read_effects(file: Path) -> None:
    # There are no effects beside their list, so it is always refused after it was read.
    with contextlib.suppress(InstructBrushError):
        read_top_bench(file.parent)


def _cell() -> dict[str, Any]:
    content = io.BytesIO()
    _image().save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def _write_table(rows: list[dict[str, Any]], name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
        return folder / name

    return write


_EMU = {
    "instruction": "add snow",
    "image": _cell(),
    "task": "add",
    "split": "test",
    "idx": 0,
    "hash": "a1",
    "input_caption": "a",
    "output_caption": "b",
}
_REASON = {"before": _cell(), "after": _cell(), "words": "add snow", "reasoning": "it is cold"}


def _write_image(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image = (
            Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64)
            if mode == "I;16"
            else _image(mode=mode)
        )
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(
            folder / "x.png", kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}), **options
        )
        return folder / "x.png"

    return write


def _read_mask_file(file: Path) -> None:
    read_mask(io.BytesIO(file.read_bytes()), file.name)


def _linked_folder(source: Path, name: str) -> Callable[[Path], Path]:
    """Writes a folder whose files are links to those of a sound one, but for one that is a copy."""

    def write(folder: Path) -> Path:
        for file in source.iterdir():
            if file.name == name:
                (folder / name).write_bytes(file.read_bytes())
            else:
                (folder / file.name).symlink_to(file)
        return folder / name

    return write


def _read_mllm_folder(file: Path) -> None:
    check_folder(file.parent)
    stored_bits(file.parent)
    stored_dtype(file.parent)


def _write_reference(folder: Path) -> Path:
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    return folder / "refs" / "main"


CASES = (
    Case("instruction", _write_instruction, load_instruction, mutations.of_tensors, 6),
    Case("blend", _write_blend, load_instruction, mutations.of_tensors, 4),
    Case("thumbnail", _write_thumbnail, read_thumbnail, mutations.of_thumbnail("modelspec.thumbnail"), 4),
    Case(
        "checkpoint",
        lambda folder: save_checkpoint(_trainer(), folder / "x"),
        lambda file: load_checkpoint(_trainer(), file),
        mutations.of_tensors,
        2,
    ),
    Case("weights", _write_weights, _read_weights, mutations.of_tensors, 6),
    Case("connector", _write_connector, load_connector, mutations.of_tensors, 3),
    Case("state", _write_state, lambda file: StateStore(file.parent).get(_KEY), mutations.of_tensors, 2),
    Case("list of states", _write_list, _read_list, mutations.of_table, 2),
    Case("pairs.json", _write_pairs, lambda file: load_pairs(file.parent), mutations.of_table, 1.5),
    Case("run.json", _write_run, lambda file: EffectFolder(file.parent).begin(_RUN), mutations.of_table, 3),
    Case(
        "outcome",
        _write_outcome,
        lambda file: EffectFolder(file.parents[2]).finished(),
        mutations.of_table,
        3,
    ),
    Case("score", _write_score, lambda file: ItemFolder(file.parents[2]).finished(), mutations.of_table, 2),
    Case("study", _write_study, _read_study, mutations.of_lines, 5),
    Case("answer", _write_answer, _read_answer, mutations.of_bytes, 3),
    Case("bare answer", _write_bare_answer, _read_answer, mutations.of_table, 3),
    Case("reason.json", _write_reason, lambda file: read_reason(file.parent), mutations.of_table, 1),
    Case("effects.json", _write_effects, _read_effects, mutations.of_table, 2),
    Case(
        "Emu Edit table",
        _write_table([_EMU], "test-00000-of-00001.parquet"),
        read_emu_edit,
        mutations.of_bytes,
        2,
    ),
    Case("reasoning table", _write_table([_REASON] * 2, "test.parquet"), read_reason, mutations.of_bytes, 2),
    *(
        Case(f"image {name}", _write_image(kind, mode), read_image, mutations.of_bytes, 1)
        for name, kind, mode in (
            ("PNG", "PNG", "RGBA"),
            ("PNG 16", "PNG", "I;16"),
            ("PNG palette", "PNG", "P"),
            ("JPEG", "JPEG", "RGB"),
            ("JPEG CMYK", "JPEG", "CMYK"),
            ("WEBP", "WEBP", "RGBA"),
            ("GIF", "GIF", "P"),
            ("BMP", "BMP", "RGB"),
            ("TIFF", "TIFF", "RGB"),
            ("TIFF 16", "TIFF", "I;16"),
            ("TIFF float", "TIFF", "F"),
        )
    ),
    Case("mask", _write_image("PNG", "L"), _read_mask_file, mutations.of_bytes, 1),
    Case(
        "settings of an MLLM",
        _linked_folder(POCKET_READER_FOLDER, "config.json"),
        _read_mllm_folder,
        mutations.of_table,
        0.3,
    ),
    Case(
        "vocabulary",
        _linked_folder(POCKET_FOLDER / "tokenizer", "vocab.json"),
        lambda file: tokenizer_from_folder(file.parent),
        mutations.of_table,
        0.02,
    ),
    Case(
        "merges",
        _linked_folder(POCKET_FOLDER / "tokenizer", "merges.txt"),
        lambda file: tokenizer_from_folder(file.parent),
        mutations.of_bytes,
        0.02,
    ),
    Case(
        "reference of a cache",
        _write_reference,
        lambda file: model_folder(file.parents[1]),
        mutations.of_bytes,
        0.5,
    ),
)
