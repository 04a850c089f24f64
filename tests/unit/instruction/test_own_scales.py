"""The guidance scales that an instruction carries: in files, in sums, in reports."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.algebra import (
    blend,
    compose,
    scale,
    with_segments,
    with_words,
)
from instructbrush.core.instruction.file import load_instruction, save_instruction
from instructbrush.core.instruction.file_header import read_header
from instructbrush.core.instruction.inspect import facts
from instructbrush.core.instruction.instruction import Instruction, own_scales
from instructbrush.tests.unit.instruction.test_damaged_instruction_files import rewrite_header, with_info
from instructbrush.tests.unit.instruction.toy_instructions import CONDITIONING, add, interpolate, make, negate


def scaled(seed: int, text_scale: float, image_scale: float) -> Instruction:
    instruction = make(seed)
    info = replace(instruction.info, text_scale=text_scale, image_scale=image_scale)
    return replace(instruction, info=info)


def test_files_keep_the_scales(tmp_path: Path) -> None:
    path = save_instruction(scaled(0, 2.0, 1.5), tmp_path / "one.safetensors")
    assert own_scales(load_instruction(path)) == (2.0, 1.5)
    assert (read_header(path)[0].info.text_scale, read_header(path)[0].info.image_scale) == (2.0, 1.5)
    both = save_instruction(add(scaled(0, 2.0, 1.5), scaled(1, 1.0, 1.0)), tmp_path / "two.safetensors")
    assert own_scales(load_instruction(both)) == (1.5, 1.25)


def test_files_without_scales_are_written_as_before(tmp_path: Path) -> None:
    path = save_instruction(make(0), tmp_path / "none.safetensors")
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    written = json.loads(json.loads(header[8 : 8 + length])["__metadata__"]["instructbrush.info"])
    assert "text_scale" not in written and "image_scale" not in written
    assert own_scales(load_instruction(path)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_scale": 2.0}, "one of text_scale and image_scale without the other"),
        ({"text_scale": 1e9, "image_scale": 1.0}, "outside of 0 to 100"),
        ({"text_scale": -1.0, "image_scale": 1.0}, "outside of 0 to 100"),
        ({"text_scale": "2", "image_scale": 1.0}, "text_scale is '2'"),
        ({"text_scale": [2], "image_scale": 1.0}, "text_scale is a list"),
    ],
)
def test_rejects_damaged_scales(tmp_path: Path, changes: dict, message: str) -> None:
    path = save_instruction(make(0), tmp_path / "file.safetensors")
    rewrite_header(path, lambda h: h["__metadata__"].update({"instructbrush.info": with_info(h, **changes)}))
    with pytest.raises(InstructionError, match=f"its header is damaged .*{message}"):
        load_instruction(path)


def test_scaling_and_negating_keep_the_scales() -> None:
    instruction = scaled(0, 2.0, 1.5)
    for changed in (scale(instruction, 0.5), negate(instruction), with_segments(instruction, 10)):
        assert own_scales(changed) == (2.0, 1.5)
    assert own_scales(scale(instruction, 0.0)) is None


def test_interpolation_leads_from_one_pair_of_scales_to_the_other() -> None:
    first, second = scaled(0, 1.0, 1.0), scaled(1, 2.0, 1.5)
    found = [own_scales(interpolate(first, second, t)) for t in (0.0, 0.5, 1.0)]
    assert found == [(1.0, 1.0), (1.5, 1.25), (2.0, 1.5)]


def test_sums_with_an_unknown_part_have_no_scales() -> None:
    assert own_scales(add(scaled(0, 1.0, 1.0), make(1))) is None
    # A part of weight 0 does not act.
    assert own_scales(blend([(1.0, scaled(0, 1.0, 1.0)), (0.0, make(1))])) == (1.0, 1.0)


def test_compositions_keep_scales_that_agree() -> None:
    assert own_scales(compose(scaled(0, 1.0, 1.0), scaled(1, 1.0, 1.0))) == (1.0, 1.0)
    assert own_scales(compose(scaled(0, 1.0, 1.0), scaled(1, 2.0, 1.5))) is None
    assert own_scales(compose(scaled(0, 1.0, 1.0), make(1))) is None


def test_added_words_need_the_guidance_of_the_model() -> None:
    """The scales were found for the learned rows alone."""
    instruction = scaled(0, 1.0, 1.0)
    assert own_scales(with_words(instruction, CONDITIONING, 2)[0]) is None
    assert own_scales(with_words(instruction, CONDITIONING, 0)[0]) == (1.0, 1.0)


def test_facts_name_the_scales() -> None:
    assert facts(scaled(0, 2.0, 1.5).info)["guidance"] == "s_T 2, s_I 1.5"
    assert facts(make(0).info)["guidance"] == "the model's default"
