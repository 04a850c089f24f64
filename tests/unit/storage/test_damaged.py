"""Files that are damaged: the check of headers, the reader of JSON, and some damage of every kind into every reader."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import save

from instructbrush.core.errors import InstructionError, ModelError
from instructbrush.core.models.weights import Weights, read_header
from instructbrush.core.storage.json_text import parse_json, read_record
from instructbrush.core.storage.safetensors_header import TensorEntry, read_tensor_header
from instructbrush.tools.torture import files, mutations
from instructbrush.tools.torture.readers import CASES, Case

SOUND = save({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float16)}, {"format": "pt"})


def written(folder: Path, header: bytes, data: bytes = bytes(12)) -> Path:
    path = folder / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def entry(begin: int = 0, end: int = 12, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [3], "data_offsets": [begin, end], **changes}


class TestHeaders:
    def test_what_a_sound_file_says(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(SOUND)
        header = read_tensor_header(path, "x", ModelError)
        assert header.metadata == {"format": "pt"}
        assert header.tensors == {
            "a": TensorEntry("F32", (2, 3), 0, 24),
            "b": TensorEntry("F16", (4,), 24, 32),
        }

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"", r"not a safetensors file \(its header is not JSON"),
            (b"[]", r"not a safetensors file \(its header is not a table of tensors\)"),
            (b"\xff\xfe{}", r"not a safetensors file \(its header is not JSON: 'utf-8' codec"),
            (b"[" * 100_000, r"not a safetensors file \(its header is not JSON: it is nested too deeply\)"),
            (
                b'{"a":' + b"9" * 5000 + b"}",
                r"not a safetensors file \(its header is not JSON: Exceeds the limit",
            ),
            (b'{"a":NaN}', r"not a safetensors file \(its header is not JSON: NaN is no finite number"),
            (b'{"a":{},"a":{}}', r"not a safetensors file \(its header is not JSON: a key is there twice"),
            (
                json.dumps({"__metadata__": {"a": 1}}).encode(),
                r"its header is damaged \(its metadata is no table of texts\)",
            ),
            (
                json.dumps({"__metadata__": []}).encode(),
                r"its header is damaged \(its metadata is no table of texts\)",
            ),
            (
                json.dumps({"a": entry(dtype="F4", shape=[24])}).encode(),
                r"tensor 'a' is stored in F4, which is not read\. Take the file in fp16, bf16 or fp32",
            ),
            (
                json.dumps({"a": entry(0, 4, shape=[1]), "b": entry(8, 12, shape=[1])}).encode(),
                r"its header is damaged: tensor 'b' begins at byte 8 of its data instead of 4",
            ),
            (
                json.dumps({"a": entry(), "b": entry()}).encode(),
                r"its header is damaged: tensor 'b' begins at byte 0 of its data instead of 12",
            ),
            (
                json.dumps({"a": entry(0, 8, shape=[2])}).encode(),
                r"its header is damaged: its tensors end at byte 8 of its data, the file holds 12",
            ),
            (
                json.dumps({"a": entry(0, 16, shape=[4])}).encode(),
                r"the file is cut short: tensor 'a' ends at byte 16 of its data, the file holds 12",
            ),
            *(
                (
                    json.dumps({"a": wrong}).encode(),
                    r"its header describes tensor 'a' wrongly, so it is damaged\. Download or copy it again",
                )
                for wrong in (
                    None,
                    [],
                    entry(more=1),
                    entry(shape=[3.0]),
                    entry(shape=[True, 3]),
                    entry(shape="3"),
                    entry(shape=[-3]),
                    entry(shape=[4]),
                    entry(shape=[1] * 65),
                    entry(0, 0, shape=[0, 2**62]),
                    entry(data_offsets=[0]),
                    entry(data_offsets=[12, 0]),
                    entry(data_offsets=[0, 10**400]),
                    entry(dtype="F33"),
                    entry(dtype=["F32"]),
                )
            ),
        ],
    )
    def test_damaged_headers_are_refused(self, tmp_path: Path, header: bytes, message: str) -> None:
        with pytest.raises(InstructionError, match="^It: " + message):
            read_tensor_header(written(tmp_path, header), "It", InstructionError)

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, reason in (
            ("none", "No such file"),
            ("", "it is no file"),
            ("pipe", "it is no file"),
            ("x\0", "embedded null byte"),
            ("x" * 300, "too long"),
        ):
            with pytest.raises(
                ModelError,
                match=f"^It: it cannot be opened in .*{reason}.* Check its name and folder, and that it may be read",
            ):
                read_tensor_header(tmp_path / name, "It", ModelError)

    def test_a_sound_file_may_begin_like_a_pickle(self, tmp_path: Path) -> None:
        header = json.dumps({"a": entry()}).encode().ljust(128)
        assert header and written(tmp_path, header).read_bytes()[:1] == b"\x80"
        assert read_header(tmp_path / "x.safetensors").shapes == {"a": (3,)}

    @settings(max_examples=300, deadline=None)
    @given(mutations.of_tensors(SOUND))
    def test_what_passes_is_read(self, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
        path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
        path.write_bytes(content)
        try:
            header = read_tensor_header(path, "It", ModelError)
        except ModelError:
            return
        with safe_open(path, framework="pt") as file:
            assert {name: tuple(file.get_tensor(name).shape) for name in file.keys()} == {
                name: each.shape for name, each in header.tensors.items()
            }  # noqa: SIM118
        assert len(dict(Weights([read_header(path)]).tensors())) == len(header.tensors)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff", "'utf-8' codec can't decode"),
        ("[" * 100_000, "it is nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("[1e999]", "1e999 is no finite number"),
        ("[-Infinity]", "-Infinity is no finite number"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('{"\\uDC00": 1}', "surrogates not allowed"),
    ],
)
def test_json_that_cannot_be_read(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_as_people_have_it() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00", "a": 2}') == {"a": 2}
    assert parse_json("[Infinity, 1e999]", finite=False) == [float("inf")] * 2


@dataclass(frozen=True)
class Plain:
    name: str
    kind: Literal["one", "two"] = "one"
    number: int = 0
    share: float | None = None
    parts: tuple[float, ...] = ()
    on: bool = False


def test_records_are_read_with_their_types() -> None:
    assert read_record(Plain, {"name": "x", "share": 1, "parts": [1, 0.5], "more": 3}) == Plain(
        "x", share=1.0, parts=(1.0, 0.5)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it is no table"),
        ({}, "name is missing"),
        ({"name": None}, "name is None"),
        ({"name": "x" * 1_000_001}, "name is 'xxx"),
        ({"name": "x", "kind": "three"}, "kind is 'three'"),
        ({"name": "x", "number": 1.0}, r"number is 1\.0"),
        ({"name": "x", "number": True}, "number is True"),
        ({"name": "x", "number": 10**5000}, "number is a number out of range"),
        ({"name": "x", "share": "much"}, "share is 'much'"),
        ({"name": "x", "share": float("nan")}, "share is nan"),
        ({"name": "x", "parts": 0.5}, r"parts is 0\.5"),
        ({"name": "x", "parts": [[0.5]]}, "parts is a list"),
        ({"name": "x", "on": 1}, "on is 1"),
    ],
)
def test_records_with_other_types_are_refused(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read_record(Plain, content)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_damage_is_read_or_refused(case: Case) -> None:
    counts = files.run(30 if case.share < 0.1 else 150, 1, (case,))
    assert counts["tried"] and counts["valid"] + counts["refused"] == counts["tried"]


def test_what_escapes_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def write(folder: Path) -> Path:
        (folder / "x").write_bytes(b"sound")
        return folder / "x"

    def read(file: Path) -> None:
        if file.read_bytes() != b"sound":
            raise KeyError("it was not sound")

    counts = files.run(20, 0, (Case("text", write, read, mutations.of_bytes),))
    assert counts["escaped"] > 5 and counts["escaped"] + counts["valid"] == counts["tried"] == 20
    assert capsys.readouterr().err.count("KeyError: 'it was not sound'") == 5
