"""Images made elsewhere as rows: names, checks before the run, and a run through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.stored_images import StoredImages, parse_stored
from instructbrush.tests.support.tiny_benchmarks import emu_rows, write_shards

SIZES = [(32, 16), (32, 16)]


def cut(file: Path, part: float) -> None:
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])


def turn(file: Path) -> None:
    """Says in the EXIF that the image is to be shown turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        image.copy().save(file, exif=exif)


def write(
    folder: Path,
    name: str = "sdedit",
    seed: int = 0,
    effect: str = "0000001",
    value: int = 90,
    noisy: bool = False,
) -> Path:
    for index in range(2):
        file = folder / effect / f"{name}-{seed}-{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(-40, 41, (16, 32, 3)) if noisy else 0
        Image.fromarray((np.full((16, 32, 3), value + index) + pixels).astype(np.uint8)).save(file)
    return folder


@pytest.mark.parametrize("within", ["", "effects", "items"])
def test_reads_images_beside_each_other_or_in_a_run(tmp_path: Path, within: str) -> None:
    write(write(tmp_path / within), seed=2)
    (stored,) = parse_stored([f"sdedit={tmp_path}"], ["words"])
    assert stored.seeds == {0, 2}
    stored.check("0000001", 0, SIZES)
    first, second = stored.read("0000001", 2, 2)
    assert first.shape == (16, 32, 3) and round(float(first[0, 0, 0] * 255)) == 90
    assert round(float(second.mean() * 255)) == 91


def test_a_longer_name_is_another_method(tmp_path: Path) -> None:
    write(tmp_path, "sd")
    digest = StoredImages("sd", str(tmp_path)).digest()
    for longer in ("sd-edit", "sd-0", "sd-0-0"):
        write(tmp_path, longer, seed=1)
    stored = StoredImages("sd", str(tmp_path))
    assert stored.seeds == {0} and stored.digest() == digest


def test_digest_follows_the_images(tmp_path: Path) -> None:
    first = StoredImages("sdedit", str(write(tmp_path / "a"))).digest()
    assert first == StoredImages("sdedit", str(write(tmp_path / "b"))).digest()
    assert first != StoredImages("sdedit", str(write(tmp_path / "c", value=91))).digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdedit", "--stored 'sdedit' is not NAME=FOLDER, such as sdedit=results/sdedit."),
        ("=x", "is not NAME=FOLDER"),
        ("a/b={}", "the name 'a/b' cannot be used. Use at most 64 letters"),
        ("..={}", "the name '..' cannot be used"),
        ("words={}", "'words' is a method of the benchmark. Give the stored results another name"),
        ("sdedit={}/nowhere", "of 'sdedit' does not exist."),
        ("hive={}", "holds no images of 'hive'. They must be in a folder for each effect or item, as in"),
    ],
)
def test_rejects_options_that_name_no_images(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EvaluationError) as refused:
        parse_stored([text.format(write(tmp_path))], ["words"])
    assert message in str(refused.value)


def test_rejects_a_name_that_appears_twice(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(EvaluationError, match="'sdedit' appears twice. Give each folder a name of its own"):
        parse_stored([f"sdedit={tmp_path}"] * 2, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "is missing. '0000001' has 2 test images; each needs its result as"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: file.write_text("hello"), "cannot be read"),
        (lambda file: Image.new("RGB", (16, 32)).save(file), "is 16 x 32, the test image is 32 x 16. Save"),
        (turn, "is 16 x 32, the test image is 32 x 16. Save"),
        (lambda file: cut(file, 1 / 3), "cannot be read"),
        # Files that lack their last rows are read elsewhere, with a remark.
        (lambda file: cut(file, 0.9), "cannot be read"),
    ],
)
def test_rejects_images_that_do_not_fit(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    stored = StoredImages("sdedit", str(write(tmp_path, noisy=True)))
    stored.check("0000001", 0, SIZES)
    change(stored.file("0000001", 0, 1))
    with pytest.raises(EvaluationError) as refused:
        stored.check("0000001", 0, SIZES)
    assert message in str(refused.value) and "sdedit-0-1.png" in str(refused.value)


def data_set(folder: Path) -> Path:
    """Writes two directions of InstructPix2Pix with two pairs each."""
    for direction in range(2):
        home = folder / f"{direction:07}"
        home.mkdir(parents=True)
        prompt = {"input": "a red wall", "edit": "make it blue", "output": "a blue wall"}
        (home / "prompt.json").write_text(json.dumps(prompt))
        for seed in (7, 8):
            for side in range(2):
                pixels = np.random.default_rng([direction, seed, side]).integers(
                    0, 256, (64, 64, 3), np.uint8
                )
                Image.fromarray(pixels).save(home / f"{seed}_{side}.jpg")
    return folder


def test_a_run_has_the_stored_row_and_checks_it_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images, out = data_set(tmp_path / "data"), tmp_path / "images", tmp_path / "out"
    command = ["bench", "--benchmark", "clean-ip2p", "--data", str(data), "--size", "64", "--device", "cpu"]
    command += ["--methods", "words", "--sampling-steps", "1", "--seeds", "2", "--out", str(out)]
    stored = ["--stored", f"sdedit={images}"]
    for direction in range(2):
        file = images / f"{direction:07}" / "sdedit-0-0.png"
        file.parent.mkdir(parents=True)
        if direction == 0:
            Image.new("RGB", (64, 64), "blue").save(file)
    assert main([*command, *stored]) == 1
    assert "'0000001' has 1 test images" in capsys.readouterr().err and not out.exists()
    Image.new("RGB", (64, 64), "blue").save(file)
    assert main([*command, *stored]) == 0
    printed = capsys.readouterr().out
    # Words run with both seeds; the stored images have seed 0 only.
    assert "[6/6]" in printed and "sdedit: images made elsewhere" in printed
    row = next(line for line in printed.splitlines() if line.split()[:1] == ["sdedit"])
    assert row.split("|")[1].split() == ["-"] * 4
    content = json.loads((out / "results.json").read_text())
    assert content["benchmark"] == "Clean-InstructPix2Pix" and set(content["methods"]) == {"words", "sdedit"}
    similarities = content["similarities"]["words"]
    assert set(similarities) >= {"image_similarity", "direction_similarity", "visual_similarity"}
    assert None not in similarities.values()
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<svg") == 3 and "sdedit: mean" in page
    for part in page.split('src="')[1:]:
        assert (out / part.split('"')[0]).is_file()
    # Other images make the row anew, and only with the user's consent.
    Image.new("RGB", (64, 64), "red").save(file)
    assert main([*command, *stored]) == 1
    assert "holds results of another run: sdedit: images was" in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_of_items_has_the_stored_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_shards(tmp_path / "hub", emu_rows(), "test")
    command = ["bench", "--benchmark", "emu-edit", "--data", str(data), "--size", "64", "--device", "cpu"]
    command += ["--effects", "00ab", "01ab", "--sampling-steps", "1", "--out", str(tmp_path / "out")]
    command += ["--stored", f"hive={tmp_path / 'images'}"]
    for item, side in (("00ab", 64), ("01ab", 32)):
        file = tmp_path / "images" / item / "hive-0-0.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (side, side), "blue").save(file)
    assert main(command) == 1
    assert "is 32 x 32, the test image is 64 x 64" in capsys.readouterr().err
    Image.new("RGB", (64, 64), "blue").save(file)
    assert main(command) == 0
    assert "[4/4]" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {outcome["method"] for outcome in content["outcomes"]} == {"words", "hive"}
    assert "images made elsewhere" in (tmp_path / "out" / "report.html").read_text("utf-8")
    # Images of another method come later; those that are there are kept.
    for item in ("00ab", "01ab"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "images" / item / "sd-0-0.png")
    command.append(f"sd={tmp_path / 'images'}")
    assert main(command) == 0
    assert "[3/6]" not in (printed := capsys.readouterr().out) and "[6/6]" in printed
    Image.new("RGB", (64, 64), "green").save(file)
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "holds results of another run: hive: images was" in told
    assert told.endswith("Give another --out folder, or delete this one.\n")


def test_options_of_one_data_set_are_refused_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for benchmark, option in (
        ("top-bench", "--held-out"),
        ("ppr10k", "--directions"),
        ("emu-edit", "--set"),
    ):
        command = ["bench", "--benchmark", benchmark, "--data", str(tmp_path), option, "0"]
        assert main(command) == 1
        assert f"{option} does nothing with --benchmark {benchmark}" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["visii_2", "lora_r4"])
def test_methods_of_more_pairs_need_directions_with_more_pairs(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "--benchmark", "clean-ip2p", "--data", str(data_set(tmp_path / "data"))]
    assert main([*command, "--methods", "words", method, "--out", str(tmp_path / "out")]) == 1
    assert "has 3 pairs (2 for training, 1 for testing)" in capsys.readouterr().err
