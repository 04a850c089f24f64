"""Instruction files with changed headers, damaged thumbnails, or other contents."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.file import load_instruction, read_thumbnail, save_instruction
from instructbrush.core.instruction.file_header import read_header
from instructbrush.core.instruction.instruction import (
    Blend,
    Instruction,
    InstructionInfo,
    WeightedInstruction,
)
from instructbrush.tests.unit.instruction.test_instruction_file import make_instruction, make_text_instruction


def with_info(header: dict, **changes: object) -> str:
    return json.dumps({**json.loads(header["__metadata__"]["instructbrush.info"]), **changes})


def empty(shape: list[int]) -> dict:
    """The entry of a tensor that takes no bytes."""
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}


def rewritten(folder: Path, change: Callable[[dict], object]) -> Path:
    """Saves an instruction and changes the header of its file."""
    path = save_instruction(make_instruction(), folder / "file.safetensors", overwrite=True)
    return rewrite_header(path, change)


def rewrite_header(path: Path, change: Callable[[dict], object]) -> Path:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])
    return path


def test_ignores_unknown_fields(tmp_path: Path) -> None:
    path = rewritten(
        tmp_path,
        lambda header: header["__metadata__"].update(
            {"instructbrush.info": with_info(header, colour="blue")}
        ),
    )
    assert load_instruction(path).info.init_text == "make it snow"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h: h["__metadata__"].update({"instructbrush.version": "4"}),
            r"has format 4; this version reads up to 3\. Update InstructBrush",
        ),
        (
            lambda h: h["__metadata__"].update({"instructbrush.version": "2"}),
            r"its header is damaged \(not 1 to 16 parts\)",
        ),
        (
            lambda h: h["__metadata__"].update({"instructbrush.info": with_info(h, space="text")}),
            r"format 1 does not know text space",
        ),
        (lambda h: h.update({"rows": h.pop("values.a.attn2")}), r"unexpected or missing tensor 'rows'"),
        (
            lambda h: h["context"].update({"shape": [48]}),
            r"'context' is F32 \[48\], expected F32 or F16 \[rows, width\]",
        ),
        (
            lambda h: h["context"].pop("shape"),
            r"its header describes tensor 'context' wrongly, so it is damaged",
        ),
        (
            lambda h: h["__metadata__"].update({"more": 1}),
            r"its header is damaged \(its metadata is not a table of texts\)",
        ),
        (
            lambda h: h["__metadata__"].pop("instructbrush.version"),
            r"is a safetensors file but not an instruction",
        ),
        (lambda h: h["__metadata__"].update({"instructbrush.info": "{"}), r"its header is damaged"),
        (
            lambda h: h["__metadata__"].update({"instructbrush.info": with_info(h, tokens=0)}),
            r"its header is damaged",
        ),
        (
            lambda h: h["__metadata__"].update({"instructbrush.info": with_info(h, segments=4)}),
            r"is F32 \[5, 3, 8\], expected F32 or F16 \[4, 3, width\]",
        ),
        (lambda h: h.update({"lora.up": h.pop("values.a.attn2")}), r"unexpected or missing tensor 'lora.up'"),
        (
            lambda h: h["keys.a.attn2"].update({"dtype": "BF16", "shape": [5, 3, 16]}),
            r"is BF16 \[5, 3, 16\], expected F32 or F16",
        ),
        (
            lambda h: h.update({"keys.a.attn3": empty([5, 3, 0]), "values.a.attn3": empty([5, 3, 0])}),
            r"'keys\.a\.attn3' is F32 \[5, 3, 0\], expected F32 or F16 \[5, 3, width\]",
        ),
        (
            lambda h: h["context"].update({"data_offsets": [h["context"]["data_offsets"][0], 10**9]}),
            r"describes tensor 'context' wrongly, so it is damaged",
        ),
    ],
)
def test_rejects_changed_headers(tmp_path: Path, change: Callable, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        load_instruction(rewritten(tmp_path, change))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": float("inf")}, r"Infinity is not a finite number"),
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
        ({"settings": {"more": {"deep": 1}}}, r"setting more is not a plain value"),
        (
            {"settings": {str(number): 1 for number in range(1001)}},
            r"1001 settings, at most 1000 are expected",
        ),
    ],
)
def test_rejects_fields_of_the_wrong_type(tmp_path: Path, changes: dict, message: str) -> None:
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
        ("data:image/jpeg;base64,AAAA", r"it is not a valid JPEG, PNG or WebP"),
        (encoded_image("PNG")[:-200], r""),
        (encoded_image("GIF"), r"it is not a valid JPEG, PNG or WebP"),
        (encoded_image("PNG", (13000, 13000), "1"), r"it is 13000 x 13000"),
        ("data:image/png;base64," + "A" * (9 * 2**20), r"it takes 9 MB"),
    ],
)
def test_loads_an_instruction_with_a_damaged_thumbnail(tmp_path: Path, thumbnail: str, message: str) -> None:
    path = rewritten(
        tmp_path, lambda header: header["__metadata__"].update({"modelspec.thumbnail": thumbnail})
    )
    assert load_instruction(path).info.init_text == "make it snow"
    with pytest.raises(
        InstructionError,
        match=(
            rf"'file\.safetensors': its thumbnail cannot be shown \({message}.*\)\. Save the instruction "
            r"again for a new one"
        ),
    ):
        read_thumbnail(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_reads_thumbnails_of_other_tools(tmp_path: Path, kind: str) -> None:
    path = rewritten(
        tmp_path, lambda header: header["__metadata__"].update({"modelspec.thumbnail": encoded_image(kind)})
    )
    assert read_thumbnail(path).size == (256, 128)


def rewritten_blend(folder: Path, change: Callable[[dict, list], object]) -> Path:
    """Saves a blend of both spaces and changes its file with ``change(header, parts)``."""
    attention = WeightedInstruction(0.5, make_instruction())
    text = WeightedInstruction(1.0, make_text_instruction())
    path = save_instruction(Blend((attention, text)), folder / "file.safetensors")

    def change_parts(header: dict) -> None:
        info = json.loads(header["__metadata__"]["instructbrush.info"])
        change(header, info["parts"])
        header["__metadata__"]["instructbrush.info"] = json.dumps(info)

    return rewrite_header(path, change_parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, p: p.clear(), r"its header is damaged \(not 1 to 16 parts\)"),
        (lambda h, p: p.extend(p * 9), r"its header is damaged \(not 1 to 16 parts\)"),
        (lambda h, p: p.pop(), r"unexpected or missing tensor '1\.context'"),
        (lambda h, p: p.append(p[0]), r"unexpected or missing tensor '2\.context'"),
        (
            lambda h, p: p[0].update(weight=float("nan")),
            r"damaged \(NaN is not a finite number\)",
        ),
        (lambda h, p: p[0].update(weight="much"), r"its header is damaged \(weight is 'much'\)"),
        (lambda h, p: p[1].update(start=2), r"its header is damaged \(its first row is neither 0 nor 1\)"),
        (lambda h, p: p[1]["info"].update(space="sound"), r"its header is damaged \(space is 'sound'\)"),
        (lambda h, p: p[1]["info"].update(space="attention"), r"unexpected or missing tensor '1\.rows'"),
        (lambda h, p: p[0]["info"].update(space="text"), r"unexpected or missing tensor '0\.keys\.a\.attn2'"),
        (lambda h, p: p[1].pop("info"), r"its header is damaged \(info is missing\)"),
        (
            lambda h, p: p[1]["info"].update(segments=3),
            r"'1\.rows' is F32 \[2, 3, 4\], expected F32 or F16 \[3, 3, width\]",
        ),
        (lambda h, p: h.update({"1.extra": h.pop("1.rows")}), r"unexpected or missing tensor '1\.extra'"),
        (
            lambda h, p: h["1.rows"].update(shape=[2, 3, 2, 2]),
            r"'1\.rows' is F32 \[2, 3, 2, 2\], expected F32 or F16",
        ),
    ],
)
def test_rejects_changed_headers_of_blends(tmp_path: Path, change: Callable, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        load_instruction(rewritten_blend(tmp_path, change))


@pytest.mark.parametrize(
    ("rank", "width", "fits"), [(4096, 1, True), (4097, 1, False), (100_000, 0, False), (0, 4, False)]
)
def test_rejects_adapters_of_sizes_that_no_setting_gives(
    tmp_path: Path, rank: int, width: int, fits: bool
) -> None:
    info = {"family": "pocket", "fingerprint": "", "segments": 5, "tokens": 0, "space": "adapter"}
    tensors = {
        "0.context": torch.zeros(4, 4),
        "0.adapter.a.attn2.q.down": torch.zeros(1, rank, width),
        "0.adapter.a.attn2.q.up": torch.zeros(1, rank, width),
    }
    parts = [{"weight": 1.0, "start": 1, "info": info}]
    metadata = {"instructbrush.version": "3", "instructbrush.info": json.dumps({"parts": parts})}
    save_file(tensors, path := tmp_path / "x.safetensors", metadata)
    if fits:
        loaded = load_instruction(path)
        assert save_instruction(loaded, path, overwrite=True) == path
        return
    message = (
        rf"is F32 \[1, {rank}, {width}\], expected F32 or F16 \[1 or 5, rank up to 4096, width\]\. The file "
    )
    with pytest.raises(InstructionError, match=message):
        load_instruction(path)


def test_saves_no_adapter_that_could_not_be_read(tmp_path: Path) -> None:
    info = InstructionInfo("pocket", "", 1, 0, "adapter")
    adapter = {"a.attn2.q.down": torch.zeros(1, 4097, 1), "a.attn2.q.up": torch.zeros(1, 4097, 1)}
    large = Instruction({}, {}, torch.zeros(4, 4), 1, info, adapter=adapter)
    with pytest.raises(
        InstructionError, match=r"^Save instruction: an adapter of rank 4097 is too large for "
    ):
        save_instruction(large, tmp_path / "x.safetensors")


def test_rejects_files_that_are_no_instruction(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(
        InstructionError,
        match=(
            r"'x.safetensors': it cannot be opened in .* \(No such file or directory\)\. Check its name, "
            r"folder and permissions"
        ),
    ):
        load_instruction(path)
    good = save_instruction(make_instruction(), tmp_path / "good.safetensors").read_bytes()
    for content, message in (
        (
            b"",
            r"'x.safetensors': the file is cut short \(0 bytes, its header alone needs 8\)\. Download or "
            r"copy it again",
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
    with pytest.raises(InstructionError, match=r"is a safetensors file but not an instruction"):
        load_instruction(path)
