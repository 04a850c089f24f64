"""Saving and loading instructions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.file import load_instruction, read_thumbnail, save_instruction
from instructbrush.core.instruction.file_header import read_header
from instructbrush.core.instruction.instruction import (
    Blend,
    Instruction,
    InstructionInfo,
    WeightedInstruction,
)
from instructbrush.tests.unit.storage.mapped_files import assert_not_mapped


def make_instruction(seed: int = 0, width: int = 8) -> Instruction:
    generator = torch.Generator().manual_seed(seed)
    info = InstructionInfo(
        "pocket",
        "f" * 64,
        5,
        3,
        init_text="make it snow",
        losses=(0.5, 0.25),
        settings={"seed": seed, "include_bos": False},
    )
    keys = {"a.attn2": torch.randn(5, 3, width, generator=generator)}
    values = {"a.attn2": torch.randn(5, 3, width, generator=generator)}
    return Instruction(keys, values, torch.randn(12, 4, generator=generator), 1, info)


def make_text_instruction(seed: int = 0, start: int = 1) -> Instruction:
    generator = torch.Generator().manual_seed(seed)
    info = InstructionInfo(
        "pocket", "f" * 64, 2, 3, "text", title=f"text {seed}", created="2026-11-21T10:00:00+00:00"
    )
    return Instruction(
        {},
        {},
        torch.randn(12, 4, generator=generator),
        start,
        info,
        torch.randn(2, 3, 4, generator=generator),
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    instruction = make_instruction()
    path = save_instruction(
        instruction,
        tmp_path / "sub" / "snow.safetensors",
        thumbnail=Image.new("RGB", (256, 128), "red"),
        extra={"workflow": "{}"},
    )
    loaded = load_instruction(path)
    assert loaded.info == instruction.info and loaded.start == 1
    assert torch.equal(loaded.keys["a.attn2"], instruction.keys["a.attn2"]) and torch.equal(
        loaded.values["a.attn2"], instruction.values["a.attn2"]
    )
    assert torch.equal(loaded.context, instruction.context)
    assert [(part.weight, part.start, part.info) for part in read_header(path)] == [
        (1.0, 1, instruction.info)
    ]
    assert read_thumbnail(path).size == (256, 128)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert (
        header["workflow"] == "{}"
        and header["modelspec.sai_model_spec"] == "1.0.1"
        and header["ss_base_model_version"] == "pocket"
    )
    assert header["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")


def test_refuses_to_replace_an_existing_file(tmp_path: Path) -> None:
    path = save_instruction(make_instruction(0), tmp_path / "x.safetensors")
    with pytest.raises(
        InstructionError, match=r"exists already\. Choose another name, or allow it to be overwritten"
    ):
        save_instruction(make_instruction(1), path)
    save_instruction(make_instruction(1), path, overwrite=True)
    assert load_instruction(path).info.settings["seed"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_rejects_a_context_that_is_not_finite() -> None:
    instruction = make_instruction()
    with pytest.raises(InstructionError, match=r"its context holds values that are not finite"):
        replace(instruction, context=torch.full_like(instruction.context, float("inf")))


def assert_same(first: Instruction, second: Instruction) -> None:
    assert first.info == second.info and first.start == second.start
    assert torch.equal(first.context, second.context)
    assert set(first.learned()) == set(second.learned())
    assert all(torch.equal(tensor, second.learned()[name]) for name, tensor in first.learned().items())


def metadata_of(path: Path) -> dict[str, str]:
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("start", [0, 1])
def test_text_instructions_round_trip(tmp_path: Path, start: int) -> None:
    instruction = make_text_instruction(start=start)
    path = save_instruction(instruction, tmp_path / "x.safetensors")
    assert_same(load_instruction(path), instruction)
    metadata = metadata_of(path)
    assert metadata["instructbrush.version"] == "2" and metadata["modelspec.title"] == "text 0"


def test_blends_round_trip_in_one_file(tmp_path: Path) -> None:
    blended = Blend(
        (
            WeightedInstruction(0.5, make_instruction(1)),
            WeightedInstruction(-1.25, make_text_instruction(2, 0)),
            WeightedInstruction(2.0, make_instruction(3)),
        )
    )
    path = save_instruction(
        blended, tmp_path / "three.safetensors", thumbnail=Image.new("RGB", (256, 128), "red")
    )
    loaded = load_instruction(path)
    assert [part.weight for part in loaded.parts] == [0.5, -1.25, 2.0]
    for part, original in zip(loaded.parts, blended.parts, strict=True):
        assert_same(part.instruction, original.instruction)
    assert [(part.weight, part.info) for part in read_header(path)] == [
        (part.weight, part.instruction.info) for part in blended.parts
    ]
    assert read_thumbnail(path).size == (256, 128)
    metadata = metadata_of(path)
    assert metadata["modelspec.title"] == "three"
    assert (
        metadata["modelspec.description"]
        == "Blend of 3 instructions: 0.5 make it snow + -1.25 text 2 + 2 make it snow."
    )


def test_keeps_the_weight_and_accepts_parts_that_share_memory(tmp_path: Path) -> None:
    instruction = make_instruction()
    loaded = load_instruction(
        save_instruction(Blend((WeightedInstruction(0.5, instruction),)), tmp_path / "half.safetensors")
    )
    assert isinstance(loaded, Blend) and loaded.parts[0].weight == 0.5
    other = replace(instruction, context=instruction.context + 1)
    loaded = load_instruction(
        save_instruction(
            Blend((WeightedInstruction(1.0, instruction), WeightedInstruction(1.0, other))),
            tmp_path / "both.safetensors",
        )
    )
    assert_same(loaded.parts[1].instruction, other)


def test_writes_format_1_if_it_suffices(tmp_path: Path) -> None:
    instruction = make_instruction()
    path = save_instruction(instruction, tmp_path / "one.safetensors")
    assert metadata_of(path)["instructbrush.version"] == "1"
    assert {name.partition(".")[0] for name in load_file(path)} == {"keys", "values", "context"}
    # The settings do not say that the start-of-text row was learned.
    odd = save_instruction(replace(instruction, start=0), tmp_path / "odd.safetensors")
    assert metadata_of(odd)["instructbrush.version"] == "2" and load_instruction(odd).start == 0


def test_reads_format_1(repository: Path) -> None:
    path = next((repository / "example_workflows" / "models" / "instructions").glob("light*.safetensors"))
    assert metadata_of(path)["instructbrush.version"] == "1"
    loaded, raw = load_instruction(path), load_file(path)
    assert isinstance(loaded, Instruction) and loaded.info.space == "attention" and loaded.start == 1
    assert torch.equal(loaded.context, raw["context"]) and all(
        torch.equal(raw[name], tensor) for name, tensor in loaded.learned().items()
    )


def test_refuses_to_save_a_blend_of_too_many_parts(tmp_path: Path) -> None:
    blended = Blend(tuple(WeightedInstruction(1.0, make_text_instruction(seed)) for seed in range(17)))
    with pytest.raises(
        InstructionError, match=r"a blend of 17 instructions is too large for one file\. Blend at most 16"
    ):
        save_instruction(blended, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_rejects_learned_values_that_are_not_finite() -> None:
    instruction = make_instruction()
    broken = {"a.attn2": torch.full((5, 3, 8), float("nan"))}
    with pytest.raises(InstructionError, match=r"keys\.a\.attn2 holds values that are not finite"):
        replace(instruction, keys=broken)


def test_loaded_file_can_be_replaced(tmp_path: Path) -> None:
    path = save_instruction(make_instruction(), tmp_path / "snow.safetensors", half=False)
    loaded = load_instruction(path)
    assert isinstance(loaded, Instruction) and loaded.context.dtype == torch.float32
    assert_not_mapped(path)
