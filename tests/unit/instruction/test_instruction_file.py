"""Instruction files: exact round trips, crashes, and everything a broken or hostile file may hold."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.file import (
    load_instruction,
    read_header,
    read_thumbnail,
    save_instruction,
)
from instructbrush.core.instruction.instruction import (
    Blend,
    Instruction,
    InstructionInfo,
    WeightedInstruction,
)


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
    keys, values = ({"a.attn2": torch.randn(5, 3, width, generator=generator)} for _ in range(2))
    return Instruction(keys, values, torch.randn(12, 4, generator=generator), 1, info)


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


def test_an_existing_file_is_not_replaced_silently(tmp_path: Path) -> None:
    path = save_instruction(make_instruction(0), tmp_path / "x.safetensors")
    with pytest.raises(
        InstructionError, match=r"exists already\. Choose another name, or allow it to be overwritten"
    ):
        save_instruction(make_instruction(1), path)
    save_instruction(make_instruction(1), path, overwrite=True)
    assert load_instruction(path).info.settings["seed"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_newer_writers_unknown_fields_are_ignored(tmp_path: Path) -> None:
    path = rewritten(
        tmp_path,
        lambda header: header["__metadata__"].update(
            {"instructbrush.info": with_info(header, colour="blue")}
        ),
    )
    assert load_instruction(path).info.init_text == "make it snow"


def with_info(header: dict, **changes: object) -> str:
    return json.dumps({**json.loads(header["__metadata__"]["instructbrush.info"]), **changes})


def rewritten(folder: Path, change: object) -> Path:
    """A saved file whose header was changed."""
    path = save_instruction(make_instruction(), folder / "file.safetensors", overwrite=True)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h: h["__metadata__"].update({"instructbrush.version": "3"}),
            r"has format 3, this version reads up to 2\. Update InstructBrush",
        ),
        (
            lambda h: h["__metadata__"].update({"instructbrush.version": "2"}),
            r"its header is damaged \(not 1 to 16 parts\)",
        ),
        (
            lambda h: h["__metadata__"].update({"instructbrush.info": with_info(h, space="text")}),
            r"format 1 does not know the space of text",
        ),
        (lambda h: h.update({"rows": h.pop("values.a.attn2")}), r"unexpected or missing tensor 'rows'"),
        (
            lambda h: h["context"].update({"shape": [48]}),
            r"'context' is F32 \[48\], expected F32 \[rows, width\]",
        ),
        (
            lambda h: h["context"].pop("shape"),
            r"its header describes tensor 'context' wrongly, so it is damaged",
        ),
        (
            lambda h: h["__metadata__"].update({"more": 1}),
            r"its header is damaged \(its metadata is no table of texts\)",
        ),
        (
            lambda h: h["__metadata__"].pop("instructbrush.version"),
            r"is a safetensors file but no instruction",
        ),
        (lambda h: h["__metadata__"].update({"instructbrush.info": "{"}), r"its header is damaged"),
        (
            lambda h: h["__metadata__"].update({"instructbrush.info": with_info(h, tokens=0)}),
            r"its header is damaged",
        ),
        (
            lambda h: h["__metadata__"].update({"instructbrush.info": with_info(h, segments=4)}),
            r"is F32 \[5, 3, 8\], expected F32 \[4, 3, width\]",
        ),
        (lambda h: h.update({"lora.up": h.pop("values.a.attn2")}), r"unexpected or missing tensor 'lora.up'"),
        (
            lambda h: h["keys.a.attn2"].update({"dtype": "F16", "shape": [5, 3, 16]}),
            r"is F16 \[5, 3, 16\], expected F32",
        ),
        (
            lambda h: h["context"].update({"data_offsets": [h["context"]["data_offsets"][0], 10**9]}),
            r"describes tensor 'context' wrongly, so it is damaged",
        ),
    ],
)
def test_changed_headers_are_refused(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        load_instruction(rewritten(tmp_path, change))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": float("inf")}, r"Infinity is no finite number"),
        ({"segments": 5.0}, r"segments is 5\.0"),
        ({"tokens": True}, r"tokens is True"),
        ({"steps": 2**70}, r"steps is a number out of range"),
        ({"pairs": -1}, r"pairs or steps out of range"),
        ({"final_loss": "low"}, r"final_loss is 'low'"),
        ({"losses": [0.1, None]}, r"losses is None"),
        ({"losses": [0.1] * 10_001}, r"10001 losses, at most 10000 are expected"),
        ({"title": ["x"]}, r"title is a list"),
        ({"init_text": "x" * 100_001}, r"init_text has more than 100000 characters"),
        ({"family": "\ud800"}, r"surrogates not allowed"),
        ({"settings": []}, r"settings is a list"),
        ({"settings": {"seed": "many"}}, r"seed is 'many'"),
        ({"settings": {"more": {"deep": 1}}}, r"setting more is no plain value"),
        (
            {"settings": {str(number): 1 for number in range(1001)}},
            r"1001 settings, at most 1000 are expected",
        ),
    ],
)
def test_fields_of_the_wrong_kind_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = rewritten(
        tmp_path,
        lambda header: header["__metadata__"].update({"instructbrush.info": with_info(header, **changes)}),
    )
    for read in (load_instruction, read_header):
        with pytest.raises(
            InstructionError, match=r"'file\.safetensors': its header is damaged \(.*" + message
        ):
            read(path)


def encoded_image(kind: str, size: tuple[int, int] = (256, 128), mode: str = "RGB") -> str:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("thumbnail", "message"),
    [
        ("data:image/jpeg;base64,AAAAA", r"Invalid base64"),
        ("data:image/jpeg;base64,AAAA", r"it is no sound JPEG, PNG or WebP"),
        (encoded_image("PNG")[:-200], r""),
        (encoded_image("GIF"), r"it is no sound JPEG, PNG or WebP"),
        (encoded_image("PNG", (13000, 13000), "1"), r"it is 13000 x 13000"),
        ("data:image/png;base64," + "A" * (9 * 2**20), r"it takes 9 MB"),
    ],
)
def test_a_thumbnail_that_cannot_be_shown_leaves_the_instruction_sound(
    tmp_path: Path, thumbnail: str, message: str
) -> None:
    path = rewritten(
        tmp_path, lambda header: header["__metadata__"].update({"modelspec.thumbnail": thumbnail})
    )
    assert load_instruction(path).info.init_text == "make it snow"
    with pytest.raises(
        InstructionError,
        match=rf"'file\.safetensors': its thumbnail cannot be shown \({message}.*\)\. Save the instruction again for a new one",
    ):
        read_thumbnail(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_thumbnails_of_other_tools_are_shown(tmp_path: Path, kind: str) -> None:
    path = rewritten(
        tmp_path, lambda header: header["__metadata__"].update({"modelspec.thumbnail": encoded_image(kind)})
    )
    assert read_thumbnail(path).size == (256, 128)


def test_a_context_that_is_not_finite_is_refused() -> None:
    instruction = make_instruction()
    with pytest.raises(InstructionError, match=r"its context holds values that are not finite"):
        replace(instruction, context=torch.full_like(instruction.context, float("inf")))


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


def assert_same(first: Instruction, second: Instruction) -> None:
    assert (
        first.info == second.info
        and first.start == second.start
        and torch.equal(first.context, second.context)
    )
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
    told = metadata_of(path)
    assert told["instructbrush.version"] == "2" and told["modelspec.title"] == "text 0"


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
    told = metadata_of(path)
    assert (
        told["modelspec.title"] == "three"
        and told["modelspec.description"]
        == "Blend of 3 instructions: 0.5 make it snow + -1.25 text 2 + 2 make it snow."
    )


def test_a_scaled_instruction_keeps_its_weight_and_parts_may_share_memory(tmp_path: Path) -> None:
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


def test_what_format_1_can_hold_is_written_as_format_1(tmp_path: Path) -> None:
    instruction = make_instruction()
    path = save_instruction(instruction, tmp_path / "one.safetensors")
    assert metadata_of(path)["instructbrush.version"] == "1"
    assert {name.partition(".")[0] for name in load_file(path)} == {"keys", "values", "context"}
    # Its settings do not tell that the start-of-text row was learned.
    odd = save_instruction(replace(instruction, start=0), tmp_path / "odd.safetensors")
    assert metadata_of(odd)["instructbrush.version"] == "2" and load_instruction(odd).start == 0


def test_the_example_of_format_1_is_read(repository: Path) -> None:
    path = next((repository / "example_workflows" / "models" / "instructions").glob("light*.safetensors"))
    assert metadata_of(path)["instructbrush.version"] == "1"
    loaded, raw = load_instruction(path), load_file(path)
    assert isinstance(loaded, Instruction) and loaded.info.space == "attention" and loaded.start == 1
    assert torch.equal(loaded.context, raw["context"]) and all(
        torch.equal(raw[name], tensor) for name, tensor in loaded.learned().items()
    )


def rewritten_blend(folder: Path, change: object) -> Path:
    """A saved blend of an attention and a text instruction whose header was changed: ``change(header, parts)``."""
    path = save_instruction(
        Blend(
            (WeightedInstruction(0.5, make_instruction()), WeightedInstruction(1.0, make_text_instruction()))
        ),
        folder / "file.safetensors",
    )
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    told = json.loads(header["__metadata__"]["instructbrush.info"])
    change(header, told["parts"])
    header["__metadata__"]["instructbrush.info"] = json.dumps(told)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, p: p.clear(), r"its header is damaged \(not 1 to 16 parts\)"),
        (lambda h, p: p.extend(p * 9), r"its header is damaged \(not 1 to 16 parts\)"),
        (lambda h, p: p.pop(), r"unexpected or missing tensor '1\.context'"),
        (lambda h, p: p.append(p[0]), r"unexpected or missing tensor '2\.context'"),
        (lambda h, p: p[0].update(weight=float("nan")), r"its header is damaged \(NaN is no finite number\)"),
        (lambda h, p: p[0].update(weight="much"), r"its header is damaged \(weight is 'much'\)"),
        (lambda h, p: p[1].update(start=2), r"its header is damaged \(its first row is neither 0 nor 1\)"),
        (lambda h, p: p[1]["info"].update(space="sound"), r"its header is damaged \(space is 'sound'\)"),
        (lambda h, p: p[1]["info"].update(space="attention"), r"unexpected or missing tensor '1\.rows'"),
        (lambda h, p: p[0]["info"].update(space="text"), r"unexpected or missing tensor '0\.keys\.a\.attn2'"),
        (lambda h, p: p[1].pop("info"), r"its header is damaged \(info is missing\)"),
        (
            lambda h, p: p[1]["info"].update(segments=3),
            r"'1\.rows' is F32 \[2, 3, 4\], expected F32 \[3, 3, width\]",
        ),
        (lambda h, p: h.update({"1.extra": h.pop("1.rows")}), r"unexpected or missing tensor '1\.extra'"),
        (
            lambda h, p: h["1.rows"].update(shape=[2, 3, 2, 2]),
            r"'1\.rows' is F32 \[2, 3, 2, 2\], expected F32",
        ),
    ],
)
def test_changed_headers_of_blends_are_refused(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        load_instruction(rewritten_blend(tmp_path, change))


def test_blends_too_large_for_a_file_are_refused(tmp_path: Path) -> None:
    blended = Blend(tuple(WeightedInstruction(1.0, make_text_instruction(seed)) for seed in range(17)))
    with pytest.raises(
        InstructionError, match=r"a blend of 17 instructions is too large for one file\. Blend at most 16"
    ):
        save_instruction(blended, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_instruction_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(
        InstructionError,
        match=r"'x.safetensors': it cannot be opened in .* \(No such file or directory\)\. Check its name and folder",
    ):
        load_instruction(path)
    good = save_instruction(make_instruction(), tmp_path / "good.safetensors").read_bytes()
    for content, message in (
        (
            b"",
            r"'x.safetensors': the file is cut short \(0 bytes, its header alone needs 8\)\. Download or copy it again",
        ),
        (good[:-16], r"the file is cut short: tensor '.*' ends at byte \d+ of its data"),
        (good[:40], r"the file is cut short \(40 bytes"),
        ((2**62).to_bytes(8, "little") + good[8:], r"not a safetensors file \(its header would be \d+ bytes"),
        (
            (8).to_bytes(8, "little") + b"not json" + b"0" * 100,
            r"not a safetensors file \(its header is not JSON",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(InstructionError, match=message):
            load_instruction(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InstructionError, match=r"is a safetensors file but no instruction"):
        load_instruction(path)


def test_values_that_are_not_finite_are_refused() -> None:
    instruction = make_instruction()
    broken = {"a.attn2": torch.full((5, 3, 8), float("nan"))}
    with pytest.raises(InstructionError, match=r"keys\.a\.attn2 holds values that are not finite"):
        replace(instruction, keys=broken)
