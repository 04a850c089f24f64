"""Guidance scales on the command line: ``learn --guidance``, and what ``apply`` uses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.editing.scale_search import CANDIDATES
from instructbrush.core.instruction.file import load_instruction, save_instruction
from instructbrush.core.instruction.instruction import own_scales
from instructbrush.core.storage.image_tensors import to_image


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs (darker)."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    image = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    for index in range(2):
        image = image.flip(index).repeat_interleave(8, 0).repeat_interleave(8, 1)[:32, :32]
        to_image(image).save(folder / f"{index}_0.png")
        to_image(image * 0.5).save(folder / f"{index}_1.png")
    return folder


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def learned(pairs: Path, *options: object) -> Path:
    out = pairs.parent / "dark.safetensors"
    common = ["--pairs", pairs, "--out", out, "--overwrite", "--init", "make it darker"]
    run("learn", *common, "--steps", 3, "--set", "batch=12", *options)
    return out


def test_learning_stores_the_scales_and_inspect_shows_them(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = learned(pairs)
    scales = own_scales(load_instruction(file))
    assert scales in CANDIDATES
    shown = f"s_T {scales[0]:g}, s_I {scales[1]:g}"
    assert (
        f"3 steps, loss {load_instruction(file).info.final_loss:.4f}, guidance {shown}"
        in capsys.readouterr().out
    )
    run("inspect", file)
    assert f"guidance: {shown}" in capsys.readouterr().out


def test_search_can_be_left_out(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = learned(pairs, "--guidance", "default")
    assert own_scales(load_instruction(file)) is None and "guidance" not in capsys.readouterr().out


def test_apply_takes_the_scales_of_the_file(pairs: Path, repository: Path) -> None:
    example = next((repository / "example_workflows" / "models" / "instructions").glob("light*.safetensors"))
    plain = load_instruction(example)
    scaled = replace(plain, info=replace(plain.info, text_scale=1.0, image_scale=1.2))
    files = {
        "plain": save_instruction(plain, pairs.parent / "plain.safetensors"),
        "scaled": save_instruction(scaled, pairs.parent / "scaled.safetensors"),
    }

    def edited(name: str, *options: object) -> bytes:
        out = pairs.parent / "out"
        run(
            "apply",
            "--instruction",
            files[name],
            "--images",
            pairs / "0_0.png",
            "--out",
            out,
            "--steps",
            2,
            *options,
        )
        return Image.open(out / "0_0.png").tobytes()

    assert edited("scaled") == edited("plain", "--text-scale", 1, "--image-scale", 1.2)
    assert edited("scaled", "--image-scale", 1.5) == edited("plain") != edited("scaled")
    # At strength 0 the file does not act, so the words edit as without it.
    assert edited("scaled", "--strength", 0) == edited("plain", "--strength", 0)
