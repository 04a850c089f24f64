"""``python -m instructbrush`` from end to end, on the built-in model."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.instruction.file import load_instruction, save_instruction
from instructbrush.core.instruction.instruction import Blend, WeightedInstruction
from instructbrush.core.storage.image_tensors import to_image


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """pairs/ with two pairs (darker), images/ with two images of odd sizes."""
    (tmp_path / "pairs").mkdir()
    (tmp_path / "images").mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(2):
        image = torch.rand(4, 4, 3, generator=generator).repeat_interleave(16, 0).repeat_interleave(16, 1)
        to_image(image).save(tmp_path / "pairs" / f"{index}_0.png")
        to_image(image * 0.5).save(tmp_path / "pairs" / f"{index}_1.png")
    Image.new("RGB", (70, 50), "green").save(tmp_path / "images" / "one.jpg")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "images" / "two.png")
    return tmp_path


def run(command: str, *arguments: object, **options: object) -> int:
    """Runs a command; ``text_scale=2`` stands for ``--text-scale 2``."""
    words = [command, *map(str, arguments)]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return main(words)


def test_learn_apply_edit_inspect(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folders / "dark.safetensors"
    assert run("learn", pairs=folders / "pairs", out=file, init="make it darker", steps=3, seed=5) == 0
    assert sorted(path.name for path in folders.iterdir()) == ["dark.safetensors", "images", "pairs"], (
        "no checkpoint stays behind"
    )
    info = load_instruction(file).info
    assert (info.steps, info.pairs, info.init_text, info.settings["seed"], info.title) == (
        3,
        2,
        "make it darker",
        5,
        "dark",
    )
    assert run("apply", instruction=file, images=folders / "images", out=folders / "out", steps=2) == 0
    assert run("edit", words="make it darker", images=folders / "images", out=folders / "words", steps=2) == 0
    for out in ("out", "words"):
        assert {path.name: Image.open(path).size for path in (folders / out).iterdir()} == {
            "one.png": (70, 50),
            "two.png": (64, 64),
        }
    assert run("inspect", file) == 0
    printed = capsys.readouterr().out
    assert "'make it darker'" in printed and "5 segments x 16 tokens" in printed


def test_learns_text_states_from_phrases_with_the_direction(folders: Path) -> None:
    file = folders / "dark.safetensors"
    assert run("learn", pairs=folders / "pairs", out=file, space="text", begin="phrases", steps=2) == 0
    learned = load_instruction(file)
    assert learned.info.space == "text" and learned.info.settings["direction_weight"] > 0
    assert run("apply", instruction=file, images=folders / "images", out=folders / "out", steps=2) == 0


def test_inspect_prints_every_part_of_a_blend(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = next((repository / "example_workflows" / "models" / "instructions").glob("light*.safetensors"))
    learned = load_instruction(example)
    whole = Blend(
        (
            WeightedInstruction(0.5, learned),
            WeightedInstruction(-1.0, replace(learned, info=replace(learned.info, title="another"))),
        )
    )
    assert run("inspect", save_instruction(whole, tmp_path / "both.safetensors")) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert "weight: 0.5" in first and "weight: -1" in second and "title: another" in second


def test_strength_0_matches_empty_words(folders: Path) -> None:
    file = folders / "dark.safetensors"
    assert run("learn", pairs=folders / "pairs", out=file, steps=2, begin="words") == 0
    assert (
        run("apply", instruction=file, images=folders / "images", out=folders / "off", steps=2, strength=0)
        == 0
    )
    assert run("edit", words="", images=folders / "images", out=folders / "none", steps=2) == 0
    for name in ("one.png", "two.png"):
        assert Image.open(folders / "off" / name).tobytes() == Image.open(folders / "none" / name).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learn", "--pairs", "nowhere", "--out", "x.safetensors"], "Pairs folder 'nowhere' does not exist"),
        (
            ["apply", "--instruction", "nothing.safetensors", "--images", ".", "--out", "o"],
            "'nothing.safetensors': it cannot be opened",
        ),
        (
            ["edit", "--words", "x", "--images", "nowhere", "--out", "o"],
            "Images folder 'nowhere' does not exist",
        ),
        (["edit", "--words", "x", "--images", ".", "--out", "o"], "holds no images"),
        (
            ["edit", "--words", "x", "--images", "images", "--out", "images"],
            "would be written among the inputs",
        ),
        (
            [
                "learn",
                "--pairs",
                "pairs",
                "--out",
                "x.safetensors",
                "--begin",
                "caption",
                "--clip",
                "ViT-L-14/openai",
            ],
            "ViT-L-14-openai.safetensors",
        ),
        (["inspect", "images/two.png"], "not a safetensors file"),
        (["edit", "--words", "x", "--images", "images", "--out", "o", "--model", "nowhere"], "nowhere"),
        (
            ["edit", "--words", "\udce9", "--images", "images", "--out", "o"],
            "The words '\\udce9' are not valid UTF-8. Type them again in a terminal",
        ),
        (
            ["learn", "--pairs", "pairs", "--out", "x.safetensors", "--init", "a\ud83d"],
            "are not valid UTF-8",
        ),
        (
            ["learn", "--pairs", "pairs", "--out", "x.safetensors", "--seed", "1e3"],
            "--seed is 1e3; it must be a whole number between 0 and 18446744073709551615.",
        ),
        (
            ["learn", "--pairs", "pairs", "--out", "x.safetensors", "--seed", "-1"],
            "--seed is -1; it must be a whole number between 0 and",
        ),
        (
            ["learn", "--pairs", "pairs", "--out", "x.safetensors", "--size", "100000"],
            "Size: 100000 x 100000 pixels are not possible.",
        ),
    ],
)
def test_prints_errors_in_one_line_and_exits_with_1(
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folders)
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert message in printed and printed.startswith("instructbrush: ") and printed.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [("--steps", "0"), ("--steps", "-1"), ("--size", "0"), ("--text-scale", "nan"), ("--image-scale", "inf")],
)
def test_rejects_numbers_out_of_range(
    folders: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("edit", "--words", "x", "--images", folders / "images", "--out", folders / "o", *option)
    assert f"argument {option[0]}: {option[1]} is no" in capsys.readouterr().err
    assert not (folders / "o").exists()


def test_reads_words_as_utf_8_without_a_locale(folders: Path) -> None:
    bytes_of_words = "ét\u00e9 雪".encode().decode("ascii", "surrogateescape")
    run("learn", pairs=folders / "pairs", out=folders / "x.safetensors", steps=1, init=bytes_of_words)
    assert load_instruction(folders / "x.safetensors").info.init_text == "ét\u00e9 雪"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(("stream", "code"), [("2>/dev/full", 0), ("| true", 141)])
def test_finishes_when_nobody_reads_its_output(folders: Path, stream: str, code: int) -> None:
    learning = "-m instructbrush learn --pairs pairs --out x.safetensors --steps 1 --init dark"
    command = f"{shlex.quote(sys.executable)} {learning} {stream}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=folders, capture_output=True, text=True)
    assert (ended.returncode, "Error" in ended.stderr) == (code, False), ended.stderr
    assert (folders / "x.safetensors").exists()


def test_rejects_two_images_of_one_name_and_existing_results(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(folders / "images" / "two.jpg")
    assert run("edit", words="x", images=folders / "images", out=folders / "o") == 1
    assert "two images named 'two'" in capsys.readouterr().err
    (folders / "x.safetensors").write_bytes(b"")
    assert run("learn", pairs=folders / "pairs", out=folders / "x.safetensors") == 1
    assert "exists already" in capsys.readouterr().err


def test_starts_by_its_path_in_an_isolated_python(tmp_path: Path) -> None:
    """ComfyUI's portable Python neither looks into the working folder nor at PYTHONPATH."""
    pack = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-I", str(pack), "inspect", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "header of an instruction file" in done.stdout, done.stderr
