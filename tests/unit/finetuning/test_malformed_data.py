"""What the command ``finetune`` says about data and models that it cannot train with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructbrush.cli.main import main
from instructbrush.tests.support import seeded, tiny_edits
from instructbrush.tests.support.tiny_benchmarks import png

Change = Callable[[dict[str, Any]], object]


def error_of(capsys: pytest.CaptureFixture[str], folder: Path, data: Path, model: Path | str) -> str:
    """Runs the command, which must fail with one line. Returns the line."""
    options = ("--resolution", 64, "--batch", 1, "--steps", 1, "--precision", "no", "--pictures-every", 0)
    places = ("--model", model, "--data", data, "--out", folder / "run")
    assert main([str(part) for part in ("finetune", *places, *options)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("instructbrush: ")]
    return lines[-1].removeprefix("instructbrush: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.pop("edit_prompt"),
            "'t.parquet' has no column 'edit_prompt'; its columns are source_image, edited_image, mask_image",
        ),
        (lambda row: row.pop("source_image"), "'t.parquet' has no column 'source_image'"),
        (
            lambda row: row.update(source_image="0.png"),
            "'t.parquet': its column 'source_image' holds string, not images. Each cell needs the bytes",
        ),
        (
            lambda row: row.update(edited_image={"path": "0.png"}),
            "'t.parquet': its column 'edited_image' holds struct<path: string>, not images",
        ),
        (lambda row: row.update(mask_image=[1, 2]), "its column 'mask_image' holds list<"),
        (
            lambda row: row.update(edit_prompt=7),
            "'t.parquet': its column 'edit_prompt' holds int64, not text. Write instructions into it",
        ),
        (lambda row: row.update(reasoning=0.5), "its column 'reasoning' holds double, not text"),
    ],
)
def test_names_the_column_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, message: str
) -> None:
    (row,) = tiny_edits.rows(1)
    change(row)
    data = tiny_edits.write_table(tmp_path / "t.parquet", [row])
    assert message in error_of(capsys, tmp_path, data, "nowhere"), "the data is checked before the model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.update(source_image={"bytes": None}),
            "Image 't.parquet row 0 source_image' is missing: the cell holds no bytes of an image.",
        ),
        (
            lambda row: row.update(edited_image={"bytes": b"<html>404"}),
            "Image 't.parquet row 0 edited_image' cannot be read",
        ),
        (
            lambda row: row.update(edited_image=png(tiny_edits.images(0, 32, 64)[1])),
            "before is 64 x 64, after is 64 x 32, which is another aspect ratio",
        ),
        (lambda row: row.update(edit_prompt=""), "Pair 't.parquet row 0' has no words. Describe the edit"),
        (lambda row: row.update(mask_image=row["edited_image"]), "is a colored image without transparency"),
    ],
)
def test_names_the_row_if_no_row_can_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, message: str
) -> None:
    (row,) = tiny_edits.rows(1)
    change(row)
    data = tiny_edits.write_table(tmp_path / "t.parquet", [row])
    error = error_of(capsys, tmp_path, data, "pocket")
    assert error.startswith("Data: none of the 1 pairs can be used. ")
    assert message in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.parquet", b"PAR1", "'cut.parquet' cannot be read as parquet"),
        ("pairs.json", b'{"before": "a.png"}', "pairs.json of 'data' must be a list of {\"before\": file,"),
        ("pairs.json", b'[{"before": "a.png"}]', "pairs.json of 'data', entry 0 lacks 'after'"),
        (
            "pairs.json",
            json.dumps([{"before": "a.png", "after": "b.png", "words": "x"}]).encode(),
            "pairs.json of 'data': 'a.png' does not exist.",
        ),
        ("a_before.png", b"", "Image 'a_before.png' has no partner: the after image of pair 'a' is missing."),
        ("notes.txt", b"", "data' holds neither .parquet files nor pairs. Fine-tuning needs words: write"),
    ],
)
def test_names_the_fault_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    assert message in error_of(capsys, tmp_path, tmp_path / "data", "nowhere")


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (
            9,
            "sd: its UNet has 9 input channels and cannot be widened to 8. Start from plain Stable Diffusion "
            "(4 channels) or an InstructPix2Pix model (8).",
        ),
        (12, "sd: its UNet has 12 input channels and cannot be widened to 8. Start from plain"),
    ],
)
def test_names_models_with_other_inputs(
    region_data: Path,
    write_plain_model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    channels: int,
    message: str,
) -> None:
    folder = write_plain_model(tmp_path / "sd", channels)
    assert error_of(capsys, tmp_path, region_data, folder).startswith(message)


def test_names_models_that_are_no_folder(
    region_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = seeded.native_unet(seeded.unet_shapes(seeded.SMALL_SD15))
    file = seeded.write_hollow(tmp_path / "one.safetensors", unet)
    error = error_of(capsys, tmp_path, region_data, file)
    assert error.startswith("one.safetensors: only a diffusers folder can be widened and fine-tuned")
