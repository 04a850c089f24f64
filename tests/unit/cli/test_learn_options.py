"""Options of ``learn`` that choose settings, init text and noise, and ``--fixed-noise`` of ``apply``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from instructbrush.cli import init_text
from instructbrush.cli.main import main
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.instruction import file
from instructbrush.core.instruction.file import load_instruction
from instructbrush.core.instruction.instruction import InstructionInfo
from instructbrush.core.learning.init_text import vocabulary
from instructbrush.core.learning.init_text.captions import caption_images
from instructbrush.core.learning.init_text.phrases import PhraseSettings, unique_phrases
from instructbrush.core.pairs.pairs import EditPairs, load_pairs
from instructbrush.core.storage.image_tensors import to_image

Learn = Callable[..., InstructionInfo]


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs (darker)."""
    folder = tmp_path_factory.mktemp("pairs")
    generator = torch.Generator().manual_seed(0)
    for index in range(2):
        image = torch.rand(4, 4, 3, generator=generator).repeat_interleave(16, 0).repeat_interleave(16, 1)
        to_image(image).save(folder / f"{index}_0.png")
        to_image(image * 0.5).save(folder / f"{index}_1.png")
    return folder


@pytest.fixture
def learn(pair_folder: Path, tmp_path: Path) -> Learn:
    """Learns with options as ``"--steps 2"`` for a step, and returns the header of the file."""

    def run(*options: object) -> InstructionInfo:
        out = tmp_path / "learned.safetensors"
        common = ["--pairs", pair_folder, "--out", out, "--steps", 1, "--overwrite"]
        assert main(["learn", *map(str, [*common, *options])]) == 0
        return load_instruction(out).info

    return run


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        (["--learning-rate", 1e-4, "--preset", "paper"], (1e-4, 1e-4)),
        (["--learning-rate", 1e-3], (1e-3, 1e-4)),
        (["--learning-rate", 1e-3, "--final-learning-rate", 5e-4], (1e-3, 5e-4)),
        (["--set", "learning_rate=1e-3"], (1e-3, 1e-4)),
    ],
)
def test_final_rate_follows_the_rate(learn: Learn, options: list[object], rates: tuple[float, float]) -> None:
    settings = learn("--init", "dark", *options).settings
    assert (settings["learning_rate"], settings["final_learning_rate"]) == pytest.approx(rates)


def test_takes_the_papers_other_reading_and_single_settings(learn: Learn) -> None:
    settings = learn(
        "--init", "dark", "--preset", "paper_guided", "--set", "weight_decay=0.01", "include_bos=true"
    ).settings
    assert (settings["objective"], settings["text_scale"], settings["image_scale"]) == ("guided", 7.5, 1.5)
    assert (settings["weight_decay"], settings["include_bos"], settings["weighting"]) == (0.01, True, "none")


@pytest.mark.parametrize(("precision", "fits"), [("fp16", True), ("fp32", False)])
def test_a_result_that_no_file_holds_is_refused_before_it_is_learned(
    pair_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    fits: bool,
) -> None:
    out = tmp_path / "large.safetensors"
    monkeypatch.setattr(file, "MAX_FILE_BYTES", 800_000)
    given = ["--pairs", str(pair_folder), "--out", str(out), "--steps", "1", "--init", "dark"]
    assert main(["learn", *given, "--file-precision", precision]) == (0 if fits else 1)
    assert out.exists() == fits and len(list(tmp_path.iterdir())) == fits
    if not fits:
        said = capsys.readouterr().err
        assert "too large for one file" in said and "learning:" not in said


def test_a_repeated_option_adds_to_the_first(learn: Learn) -> None:
    settings = learn("--set", "weight_decay=0.5", "include_bos=true", "--set", "clip_norm=2").settings
    assert (settings["weight_decay"], settings["include_bos"], settings["clip_norm"]) == (0.5, True, 2)


def test_refuses_a_rate_that_would_not_act(learn: Learn, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = ["--space", "adapter", "--learning-rate", 1e-3]
    assert learn(*adapter).settings["learning_rate"] == 1e-3
    with pytest.raises(AssertionError):
        learn(*adapter, "--set", "tokens=0")
    assert "tokens=0 leaves none. Use --set adapter_rate=RATE" in capsys.readouterr().err


def test_refuses_a_preset_of_another_space(pair_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pairs", str(pair_folder), "--out", "x.safetensors", "--space", "text"]
    assert main(["learn", *options, "--preset", "paper_guided"]) == 1
    assert "the text space has no preset 'paper_guided'. Choose from auto, pocket" in capsys.readouterr().err


def test_begins_with_phrases_by_default_and_says_so(
    learn: Learn, pair_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "features"
    info = learn("--eta", -1, "--lists", "pocket", "--cache", cache)
    pairs = load_pairs(pair_folder)
    expected = unique_phrases(pocket_clip("cpu"), pairs, PhraseSettings(eta=-1.0)).init_text
    assert info.init_text == expected and expected.startswith("turn ")
    assert f"learning starts from '{expected}' (unique phrases, eta -1)" in capsys.readouterr().err
    assert len(list(cache.glob("pocket-*.safetensors"))) == 1


def test_says_which_words_it_begins_with(learn: Learn, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn("--init", "make it dark").init_text == "make it dark"
    assert "learning starts from 'make it dark' (--init)" in capsys.readouterr().err
    assert learn("--begin", "words").init_text == ""
    assert "learning starts from no words\n" in capsys.readouterr().err


def test_begins_with_a_caption_in_the_text_space(
    learn: Learn, pair_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    afters = [pair.after for pair in load_pairs(pair_folder)]
    assert learn("--space", "text").init_text == caption_images(pocket_clip("cpu"), afters).text
    assert "(a caption of the images after)" in capsys.readouterr().err


def options_with(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"init": None, "begin": None, "eta": None, "lists": None, "cache": None, "space": "attention"}
        | changes
    )


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (None, "learning starts from no words: finding them takes a CLIP. Give words with --init, or a CLIP"),
        (SimpleNamespace(name="ViT-L-14/openai"), "the word lists flavors, mediums, movements come with the"),
    ],
)
def test_begins_without_words_if_they_cannot_be_found(
    pair_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    clip: Any,
    reason: str,
) -> None:
    monkeypatch.setattr(vocabulary, "find_spec", lambda name: None)
    assert init_text.find_init_text(options_with(), load_pairs(pair_folder), clip) == ""
    assert reason in capsys.readouterr().err


def test_refuses_options_of_phrases_for_another_beginning(pair_folder: Path) -> None:
    pairs: EditPairs = load_pairs(pair_folder)
    with pytest.raises(
        InstructBrushError, match="--eta is for unique phrases, but learning starts from words"
    ):
        init_text.find_init_text(options_with(init="dark", eta=0.1), pairs, None)
    with pytest.raises(
        InstructBrushError, match="--lists is for unique phrases, .* from a caption. Leave it"
    ):
        init_text.find_init_text(options_with(begin="caption", lists=["pocket"]), pairs, None)


def test_says_that_the_direction_loss_is_left_out(
    learn: Learn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn("--space", "text", "--init", "dark").settings["losses"] == "noise, direction"
    assert "left out" not in capsys.readouterr().err
    # As on a full-size model without --clip.
    monkeypatch.setattr(init_text, "chosen_clip", lambda options, editor: None)
    assert learn("--space", "text", "--init", "dark").settings["losses"] == "noise"
    error = capsys.readouterr().err
    assert "The direction loss (weight 0.1) is left out" in error and "there is no CLIP" in error


def test_applies_with_the_noise_of_learning(
    learn: Learn, pair_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def apply(name: str, *options: str) -> int:
        files = ["--instruction", str(tmp_path / "learned.safetensors"), "--out", str(tmp_path / name)]
        image = str(pair_folder / "0_0.png")
        return main(["apply", *files, "--images", image, "--steps", "2", *options])

    def pixels(name: str) -> bytes:
        return Image.open(tmp_path / name / "0_0.png").tobytes()

    learn("--init", "dark", "--noise", "fixed", "--seed", 5)
    assert apply("fixed", "--fixed-noise") == apply("again", "--fixed-noise", "--seed", "9") == 0
    assert apply("fresh", "--seed", "5") == 0
    assert pixels("fixed") == pixels("again") != pixels("fresh")
    learn("--init", "dark")
    assert apply("refused", "--fixed-noise") == 1
    assert (
        "was not learned with one fixed noise. Learn it with noise set to 'fixed'" in capsys.readouterr().err
    )
