"""Headers of safetensors files, sound and damaged."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import save

from instructbrush.core.errors import InstructionError, ModelError
from instructbrush.core.models.weights import Weights, read_header
from instructbrush.core.storage.safetensors_header import TensorEntry, content_digest, read_tensor_header
from instructbrush.tools.torture import mutations

SOUND = save({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float16)}, {"format": "pt"})


def written(folder: Path, header: bytes, data: bytes = bytes(12)) -> Path:
    path = folder / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def entry(begin: int = 0, end: int = 12, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [3], "data_offsets": [begin, end], **changes}


class TestHeaders:
    def test_reads_a_sound_file(self, tmp_path: Path) -> None:
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
            (b'{"a":NaN}', r"not a safetensors file \(its header is not JSON: NaN is not a finite number"),
            (b'{"a":{},"a":{}}', r"not a safetensors file \(its header is not JSON: a key appears twice"),
            (
                json.dumps({"__metadata__": {"a": 1}}).encode(),
                r"its header is damaged \(its metadata is not a table of texts\)",
            ),
            (
                json.dumps({"__metadata__": []}).encode(),
                r"its header is damaged \(its metadata is not a table of texts\)",
            ),
            (
                json.dumps({"a": entry(dtype="F4", shape=[24])}).encode(),
                r"tensor 'a' is stored in F4, which is not supported\. Take the file in fp16, bf16 or fp32",
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
    def test_rejects_damaged_headers(self, tmp_path: Path, header: bytes, message: str) -> None:
        with pytest.raises(InstructionError, match="^It: " + message):
            read_tensor_header(written(tmp_path, header), "It", InstructionError)

    def test_rejects_what_is_not_a_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, reason in (
            ("none", "No such file"),
            ("", "it is not a file"),
            ("pipe", "it is not a file"),
            ("x\0", "embedded null byte"),
            ("x" * 300, "too long"),
        ):
            with pytest.raises(
                ModelError,
                match=f"^It: it cannot be opened in .*{reason}.* Check its name, folder and permissions",
            ):
                read_tensor_header(tmp_path / name, "It", ModelError)

    def test_accepts_a_sound_file_that_begins_like_a_pickle(self, tmp_path: Path) -> None:
        header = json.dumps({"a": entry()}).encode().ljust(128)
        assert header and written(tmp_path, header).read_bytes()[:1] == b"\x80"
        assert read_header(tmp_path / "x.safetensors").shapes == {"a": (3,)}

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(mutations.of_tensors(SOUND))
    def test_accepts_only_files_that_safetensors_reads(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
        path.write_bytes(content)
        try:
            header = read_tensor_header(path, "It", ModelError)
        except ModelError:
            return
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
            assert shapes == {name: tensor.shape for name, tensor in header.tensors.items()}
        assert len(dict(Weights([read_header(path)]).tensors())) == len(header.tensors)


def test_the_digest_of_a_file_depends_on_its_contents_alone(tmp_path: Path) -> None:
    def digest(*texts: str, data: bytes = bytes(12)) -> str:
        header = {"__metadata__": {text: text for text in texts}, "x": entry()}
        return content_digest(written(tmp_path, json.dumps(header).encode(), data), "It", ModelError)

    assert digest("a", "b") == digest("b", "a")
    assert len({digest("a", "b"), digest("a"), digest("a", "b", data=b"x" * 12)}) == 3
