"""Writes intact safetensors files of every kind, to be damaged, and reads them."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from instructbrush.core.editing.loading import describe, load_editor
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.finetuning.reasoning.pair_states import INDEX, MllmIdentity, PairStates
from instructbrush.core.instruction.file import save_instruction
from instructbrush.core.instruction.instruction import (
    Blend,
    Instruction,
    InstructionInfo,
    WeightedInstruction,
)
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.settings import LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.models.weights import Weights, read_header
from instructbrush.core.reasoning.connector import (
    ConnectorConfig,
    new_connector,
    save_connector,
)
from instructbrush.core.reasoning.state_cache import StateStore

from .intact_files import make_image


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


def write_instruction(folder: Path) -> Path:
    return save_instruction(_instruction(), folder / "x.safetensors", extra={"workflow": "{}"})


def write_blend(folder: Path) -> Path:
    return save_instruction(
        Blend((WeightedInstruction(0.5, _instruction(1)), WeightedInstruction(-1.0, _instruction(2)))),
        folder / "x.safetensors",
    )


def write_thumbnail(folder: Path) -> Path:
    return save_instruction(_instruction(), folder / "x.safetensors", thumbnail=make_image())


@cache
def make_trainer() -> Trainer:
    """Returns a trainer after one step. Checkpoints are written from it and loaded into it."""
    editor = load_editor()
    context, null = editor.encode_text(["make it snow", ""])
    draw = torch.Generator().manual_seed(0)
    before = list(torch.randn(1, 4, 8, 8, generator=draw))
    after = list(torch.randn(1, 4, 8, 8, generator=draw))
    latents = PairLatents(before, after)
    settings = LearningSettings(
        space="text", tokens=2, segments=1, steps=3, objective="plain", parametrisation="separate"
    )
    init_text = InitText("make it snow", context, 3)
    trainer = Trainer(LearningRequest(editor.denoiser, latents, init_text, null, settings))
    trainer.step()
    return trainer


def write_weights(folder: Path) -> Path:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    tensors = {
        "conv_in.weight": torch.zeros(4, 8, 3, 3),
        "down_blocks.0.resnets.0.conv1.weight": torch.zeros(4, 4, 3, 3),
    }
    tensors |= {f"{layer}.{name}.weight": torch.zeros(8, 128) for name in ("to_k", "to_v")}
    save_file(tensors, folder / "x.safetensors", {"format": "pt"})
    return folder / "x.safetensors"


def read_weights(file: Path) -> None:
    """Describes the model and reads its tensors, even if the description fails."""
    described = None
    with contextlib.suppress(InstructBrushError):
        described = describe(file)
    list(Weights([read_header(file)]).tensors())
    if described is None:
        describe(file)


def write_connector(folder: Path) -> Path:
    return save_connector(
        new_connector(ConnectorConfig("pocket", 8, 6, 2, 1, 2, 8)), folder / "x.safetensors"
    )


STATE_KEY = "0" * 64


def write_state(folder: Path) -> Path:
    StateStore(folder).put(STATE_KEY, torch.ones(3, 4))
    return next(folder.glob("*.safetensors"))


def write_states_list(folder: Path) -> Path:
    PairStates(
        folder,
        MllmIdentity("reader", "f" * 64, 4, "float32", None, "What?"),
        {"a" * 40: STATE_KEY},
        ("d" * 64,),
    ).write()
    return folder / INDEX


def read_states_list(file: Path) -> None:
    found = PairStates.read(file.parent)
    if found is not None:
        store = StateStore(file.parent)
        for key in found.keys.values():
            store.has(key)
