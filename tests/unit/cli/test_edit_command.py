"""``apply`` and ``edit`` on real folders: unreadable images, repeated runs, large images, full disks."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.cli import edit as command
from instructbrush.cli.main import main
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.storage.image_files import read_image
from instructbrush.core.storage.image_tensors import fit_to_multiple, to_image


@pytest.fixture
def images(tmp_path: Path, write_pairs: Callable[..., Path]) -> Path:
    """A folder of four images, 64 x 64."""
    return write_pairs(tmp_path / "in", 2, size=(64, 64))


def edit(images: Path, *options: object) -> int:
    out = (images if images.is_dir() else images.parent).parent / "out"
    given = ["edit", "--words", "make it night", "--images", images, "--out", out, "--steps", 1, *options]
    return main([str(each) for each in given])


def results(folder: Path) -> dict[str, int]:
    """Name -> time of the last change."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def test_skips_and_counts_unreadable_images(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "0_1.png").write_bytes((images / "0_1.png").read_bytes()[:400])
    (images / "gone.png").symlink_to(images / "nowhere.png")
    assert edit(images) == 1
    printed = capsys.readouterr().err
    assert "instructbrush: Image '0_1.png' cannot be read (it is cut short: " in printed
    assert (
        "instructbrush: Image 'gone.png' cannot be read (No such file or directory). "
        "Save it again as PNG or JPEG. It is skipped.\n" in printed
    )
    assert printed.endswith(
        "out: 3 of 5 images edited, 2 skipped. "
        "Repair or remove the skipped images and run the same command again: it edits only what is missing.\n"
    )
    assert list(results(images.parent / "out")) == ["0_0.png", "1_0.png", "1_1.png"]


def test_draws_a_sheet_of_images_before_and_after(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    # Its result of an earlier run stays.
    assert edit(images) == 0
    (images / "0_1.png").write_bytes(b"")
    assert edit(images, "--sheet", sheet) == 1
    assert str(sheet) in capsys.readouterr().out
    drawn = np.asarray(Image.open(sheet).convert("RGB"), dtype=float)
    # Three images in two rows, each before and after in columns of 384 pixels.
    step = 384 + 6
    assert drawn.shape[1] == 6 + 4 * step and 2 * step < drawn.shape[0] < 3 * step
    top = drawn.shape[0] - 2 * step
    for place, name in enumerate(("0_0.png", "1_0.png", "1_1.png")):
        column, row = divmod(place, 2)
        for side, folder in enumerate((images, tmp_path / "out")):
            with Image.open(folder / name) as image:
                truth = image.convert("RGB").resize((384, 384), Image.Resampling.LANCZOS)
            left, above = 6 + (2 * column + side) * step, top + row * step
            shown = drawn[above : above + 384, left : left + 384]
            assert np.abs(shown - np.asarray(truth, dtype=float)).mean() < 2


@pytest.mark.parametrize("name", ["sheet.jpg", "in/0_0.png"])
def test_refuses_a_sheet_that_is_no_png_or_one_of_the_images(
    images: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(images)
    assert edit(images, "--sheet", tmp_path / name) == 1
    assert "must be a .png file that is none of the images" in capsys.readouterr().err
    assert results(images) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_ignores_pipes_and_folders(images: Path) -> None:
    os.mkfifo(images / "pipe.png")
    (images / "folder.png").mkdir()
    assert edit(images) == 0
    assert list(results(images.parent / "out")) == ["0_0.png", "0_1.png", "1_0.png", "1_1.png"]


def test_strict_stops_at_the_first_unreadable_image(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "0_0.png").write_bytes(b"")
    assert edit(images, "--strict", "--batch", 1) == 1
    printed = capsys.readouterr().err
    assert printed.endswith(
        "instructbrush: Image '0_0.png' cannot be read (it is empty). Save it again as PNG or JPEG.\n"
    )
    assert list((images.parent / "out").iterdir()) == []


def test_same_command_edits_only_what_is_missing_or_changed(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = images.parent / "out"
    assert edit(images) == 0
    assert capsys.readouterr().out == f"{out}: 4 of 4 images edited\n"
    first = results(out)
    (out / "0_1.png").unlink()
    Image.new("RGB", (64, 64), "red").save(out / "1_0.png")
    Image.new("RGB", (64, 64), "blue").save(images / "1_1.png")
    assert edit(images, "--batch", 1) == 0
    assert capsys.readouterr().out == f"{out}: 3 of 4 images edited, 1 done before\n"
    assert [name for name, time in results(out).items() if time == first[name]] == ["0_0.png"]
    assert edit(images) == 0 and "0 of 4 images edited, 4 done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "other",
    [
        ["--steps", 2],
        ["--seed", 3],
        ["--text-scale", 3],
        ["--image-scale", 2],
        ["--size", 32],
        ["--overwrite"],
    ],
)
def test_other_settings_edit_again(images: Path, other: list[object]) -> None:
    out = images.parent / "out"
    assert edit(images / "0_0.png") == 0
    first = results(out)
    assert edit(images / "0_0.png", *other) == 0
    assert list(results(out)) == list(first) == ["0_0.png"] and results(out) != first


def test_changed_instruction_file_edits_again(images: Path) -> None:
    out, file = images.parent / "out", images.parent / "a.safetensors"
    written = []
    for seed in (0, 1):
        given = [
            "learn",
            "--pairs",
            images,
            "--out",
            file,
            "--overwrite",
            "--init",
            "make it snow",
            "--steps",
            1,
            "--seed",
            seed,
        ]
        assert main([str(each) for each in given]) == 0
        given = ["apply", "--instruction", file, "--images", images / "0_0.png", "--out", out, "--steps", 1]
        assert main([str(each) for each in given]) == 0
        written.append(results(out))
    assert written[0] != written[1]


def test_accepts_a_single_image_with_any_suffix(images: Path) -> None:
    (images / "0_0.png").rename(images / "scan.dat")
    assert edit(images / "scan.dat") == 0
    assert list(results(images.parent / "out")) == ["scan.png"]


def test_scales_large_images_down_and_says_so_once(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.jpg"):
        Image.open(images / "0_0.png").resize((400, 300)).save(images / name, exif=exif)
    assert edit(images) == 0
    printed = capsys.readouterr().err
    message = (
        "instructbrush: 'a.jpg' is 300 x 400: images of more than 256 x 256 pixels are edited at that many "
        "and scaled back. Change it with --size.\n"
    )
    assert printed.count("scaled back") == 1 and message in printed
    with Image.open(images.parent / "out" / "a.png") as result:
        assert result.size == (300, 400)
    assert edit(images, "--size", 400) == 0 and "scaled back" not in capsys.readouterr().err


def test_edits_small_images_at_their_size(images: Path, editor: DiffusersEditor) -> None:
    Image.open(images / "0_0.png").resize((70, 50)).save(images / "odd.png")
    assert edit(images / "odd.png", "--seed", 5) == 0
    image = fit_to_multiple(read_image(images / "odd.png"))[None]
    made = editor.edit(image, "make it night", SamplingSettings(1, text_scale=2.0, image_scale=1.5, seed=5))
    expected = to_image(made[0]).resize((70, 50), Image.Resampling.LANCZOS)
    with Image.open(images.parent / "out" / "odd.png") as result:
        assert np.array_equal(np.asarray(result), np.asarray(expected))


def test_prints_remarks_on_images(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(images / "moving.gif", save_all=True, append_images=frames[1:])
    assert edit(images / "moving.gif") == 0
    assert (
        "instructbrush: Image 'moving.gif' holds several frames or pages; the first one is taken.\n"
        in capsys.readouterr().err
    )


def test_checks_the_output_folder_before_it_loads_the_model(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (images.parent / "file").touch()
    monkeypatch.setattr(command, "load_chosen_editor", lambda _: pytest.fail("the model was loaded"))
    assert edit(images, "--out", images.parent / "file") == 1
    printed = capsys.readouterr().err
    assert re.fullmatch(
        r"instructbrush: '0_0\.png' cannot be written to .*file: .*\. "
        r"Check that the folder exists and is writable\.\n",
        printed,
    )


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="permissions do not bind this user")
def test_reports_a_folder_that_cannot_be_listed(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images.chmod(0)
    try:
        assert edit(images) == 1
    finally:
        images.chmod(0o700)
    assert (
        f"Images folder '{images}' cannot be listed: Permission denied. Check its permissions."
        in capsys.readouterr().err
    )


def test_out_of_memory_message_names_a_remedy(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DiffusersEditor, "edit", fail)
    assert edit(images) == 1
    assert (
        "Memory ran out with one image at a time. Give a --size below 256, or another --device. "
        "Finished images are kept." in capsys.readouterr().err
    )


def test_apply_acts_in_a_range_and_with_a_strength_for_each_segment(images: Path, repository: Path) -> None:
    instruction = repository / "example_workflows/models/instructions/light_from_the_right.safetensors"
    given = ["apply", "--instruction", instruction, "--images", images / "0_0.png", "--steps", 2]

    def edited(name: str, *options: object) -> bytes:
        assert main([str(each) for each in [*given, "--out", images.parent / name, *options]]) == 0
        return Image.open(images.parent / name / "0_0.png").tobytes()

    plain, half, off = edited("plain"), edited("half", "--strength", 0.5), edited("off", "--strength", 0)
    assert edited("plain", "--segment-strengths", "1,1,1,1,1") == plain
    assert edited("plain", "--segment-strengths", ".5,.5,.5,.5,.5") == half
    assert edited("range", "--start", 0) == off and edited("range", "--start", 1000) == plain
    # The steps are at timesteps 999 and 0: each lies in a segment of its own.
    assert edited("plain", "--segment-strengths", "0,0,0,0,1") not in (plain, half, off)
    bad = ["--out", images.parent / "bad", "--segment-strengths", "1,1"]
    assert main([str(each) for each in [*given, *bad]]) == 1
