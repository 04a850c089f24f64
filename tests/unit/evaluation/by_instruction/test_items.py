"""Runs on items of a small MagicBrush: edits, metrics of a session, stopped and killed runs."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.clip import image_features
from instructbrush.core.encoders.dino import DinoModel
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_instruction.datasets.magicbrush import read_magicbrush
from instructbrush.core.evaluation.by_instruction.items import Item, Turn, editor_input
from instructbrush.core.evaluation.by_instruction.methods import ITEM_METHODS, ItemEditor, ItemMethod
from instructbrush.core.evaluation.by_instruction.results import ItemFolder, Score
from instructbrush.core.evaluation.by_instruction.run import ItemRunSettings
from instructbrush.core.evaluation.by_instruction.tables import (
    MAGICBRUSH,
    method_figures,
    summary,
    text_table,
)
from instructbrush.core.evaluation.metrics import quantized
from instructbrush.core.evaluation.runner import run
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support.tiny_benchmarks import (
    SESSIONS,
    magicbrush_rows,
    mask_of,
    pixels,
    write_dino,
    write_magicbrush_folder,
    write_shards,
)

pytestmark = pytest.mark.slow  # edits or trains for real

TINY = ItemRunSettings(sampling=SamplingSettings(2), side=64)


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [
        ((500, 500), 512, (512, 512)),
        ((640, 480), 512, (512, 384)),
        ((480, 640), 512, (384, 512)),
        ((1024, 1024), 512, (512, 512)),
        ((1000, 300), 512, (640, 192)),
        ((64, 64), 64, (64, 64)),
        ((70, 50), None, (72, 48)),
    ],
)
def test_scales_images_as_instructpix2pix_does(
    size: tuple[int, int], side: int | None, wanted: tuple[int, int]
) -> None:
    image = torch.rand(size[1], size[0], 3)
    found = editor_input(image, side)
    assert (found.shape[1], found.shape[0]) == wanted
    if side is not None:
        # The arithmetic of the published scripts.
        factor = side / max(size)
        factor = np.ceil(min(size) * factor / 64) * 64 / min(size)
        assert wanted == tuple(int((length * factor + 1e-6) // 64) * 64 for length in size)
    assert editor_input(found, side) is found


def test_edits_sources_and_previous_outputs(editor: DiffusersEditor) -> None:
    seen: list[tuple[str, Any, int]] = []

    def edit(editor: ItemEditor, turn: Turn, image: torch.Tensor, seed: int) -> torch.Tensor:
        seen.append((turn.words, image, seed))
        return image * 0.5

    turns = tuple(
        Turn(f"turn {index}", torch.full((64, 64, 3), 0.2 * index + 0.2), torch.zeros(64, 64, 3))
        for index in range(3)
    )
    item = Item("a", "3 turns", turns)
    item_editor = ItemEditor(editor, SamplingSettings(), 64)
    made = item_editor.edit(item, ItemMethod("half", "", "", edit), 1)
    assert [words for words, _, _ in seen] == ["turn 0", "turn 1", "turn 2", "turn 1", "turn 2"]
    torch.testing.assert_close(
        [float(image.mean()) for _, image, _ in seen], [0.2, 0.4, 0.6, 0.1, 0.05], rtol=0, atol=2e-3
    )
    torch.testing.assert_close(
        [float(image.mean()) for image in made], [0.1, 0.2, 0.3, 0.05, 0.025], rtol=0, atol=2e-3
    )
    seeds = [seed for _, _, seed in seen]
    assert seeds[:3] == [seeds[0] + index for index in range(3)] and seeds[3:] == seeds[1:3], (
        "the noise of a turn does not depend on its input"
    )
    assert [item.turn_of(number) for number in range(5)] == [0, 1, 2, 1, 2]


def score(
    item: str,
    turns: int,
    l1: tuple[float, ...],
    seed: int = 0,
    clip_t: tuple[float | None, ...] | None = None,
) -> Score:
    return Score(
        item,
        f"{turns} turns",
        "words",
        seed,
        turns,
        l1,
        l1,
        l1,
        None,
        clip_t or (None,) * len(l1),
        (None,) * len(l1),
    )


def test_single_turn_averages_turns_and_multi_turn_averages_last_images() -> None:
    scores = [score("a", 3, (0.1, 0.2, 0.3, 0.5, 0.9)), score("b", 1, (0.4,), clip_t=(0.25,))]
    single = method_figures(scores, MAGICBRUSH, "words", "single")
    multi = method_figures(scores, MAGICBRUSH, "words", "multi")
    assert single is not None and single["l1"].mean == pytest.approx((0.1 + 0.2 + 0.3 + 0.4) / 4)
    assert multi is not None and multi["l1"].mean == pytest.approx((0.9 + 0.4) / 2)
    assert single["clip_t"].mean == multi["clip_t"].mean == 0.25, "turns without words do not count"
    lines = text_table(scores, MAGICBRUSH, ["A remark."]).splitlines()
    assert lines[0] == "Results on MagicBrush"
    assert (
        lines[2].split()
        == "Datasets Method L1 ↓ L2 ↓ CLIP-I ↑ DINO ↑ CLIP-T ↑ | L1 ↓ L2 ↓ CLIP-I ↑ DINO ↑ CLIP-T ↑".split()
    )
    assert (
        lines[3].split()
        == "Single-turn IP2P 0.2500 0.2500 0.2500 - 0.2500 | 0.1122 0.0371 0.8524 0.7428 0.2764".split()
    )
    assert (
        lines[4].split()
        == "Multi-turn IP2P 0.6500 0.6500 0.6500 - 0.2500 | 0.1584 0.0598 0.7924 0.6177 0.2726".split()
    )
    assert len({line.index("|") for line in lines[1:5]}) == 1
    assert lines[6:] == [
        "Means over 2 items, 1 seed.",
        "A remark.",
        "DINO was not measured: no model was given (--dino).",
    ]
    two = [*scores, score("a", 3, (0.2,) * 5, 1), score("b", 1, (0.2,), 1)]
    found = summary(two, MAGICBRUSH)["single"]["words"]
    assert found["l1"] == pytest.approx((0.25 + 0.2) / 2) and found["dino"] is None
    assert found["l1_ci95"] == pytest.approx(12.706 * 0.05 / 2, rel=1e-4) and "dino_ci95" not in found


def test_figures_match_magicbrush_formulas(tmp_path: Path) -> None:
    """Compares a run with MagicBrush's evaluation, written again with PIL and numpy."""
    source = read_magicbrush(write_magicbrush_folder(tmp_path / "test")).items[0]
    big = [pixels("139", state, 128) for state in range(4)]
    for state, name in enumerate(["input", "output1", "output2", "output3"]):
        big[state].save(tmp_path / "test" / "images" / "139" / f"139-{name}.png")
    for turn in (1, 2, 3):
        mask_of(turn, 128).save(tmp_path / "test" / "images" / "139" / f"139-mask{turn}.png")
    folder = ItemFolder(tmp_path / "out")
    (found,) = run([source], TINY, folder, data="test")
    clip = pocket_clip()

    def unit(features: torch.Tensor) -> np.ndarray:
        values = features[0].double().numpy()
        return values / np.sqrt((values**2).sum())

    for index, state in enumerate((1, 2, 3, 2, 3)):
        file = folder.image("139", "words", 0, index)
        with Image.open(file) as opened:
            made = opened.convert("RGB")
        assert made.size == (64, 64), "edited at --size"
        scaled = np.asarray(made.resize((128, 128)), np.float64) / 255
        difference = scaled - np.asarray(big[state], np.float64) / 255
        assert found.l1[index] == pytest.approx(np.abs(difference).mean(), abs=1e-6)
        assert found.l2[index] == pytest.approx((difference**2).mean(), abs=1e-6)
        output = unit(clip.encode_images(from_image(made)[None]))
        truth = unit(clip.encode_images(from_image(big[state])[None]))
        assert found.clip_i[index] == pytest.approx(output @ truth, abs=1e-5)
        assert found.clip_t[index] == pytest.approx(
            output @ unit(clip.encode_texts([f"block {state}"])), abs=1e-5
        )
    assert found.dino is None and found.clip_dir == (None,) * 5


def test_rejects_invalid_settings() -> None:
    for change, message in [
        (
            {"methods": ("visii",)},
            "Method 'visii' cannot run on this benchmark, which has no pairs to learn from. "
            "Choose from words, region, instruction",
        ),
        ({"methods": ()}, "Method '' cannot run"),
        (
            {"methods": ("instruction",)},
            "the method 'instruction' needs a learned instruction. Add --instruction FILE.",
        ),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"side": 32}, "side is 32; it must be at least 64"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            ItemRunSettings(**change)
    assert set(ITEM_METHODS) == {"words", "region", "instruction", "explain", "encode", "encode_blind"}


def test_region_method_keeps_the_image_outside(editor: DiffusersEditor) -> None:
    image, mask = torch.rand(64, 128, 3, generator=torch.Generator().manual_seed(4)), torch.zeros(64, 128)
    mask[:, 96:] = 1
    item_editor = ItemEditor(editor, SamplingSettings(4), 128)
    turn = Turn("make it night", image, mask=mask)
    made = {name: ITEM_METHODS[name].edit(item_editor, turn, image, 5) for name in ("words", "region")}
    unedited = quantized(editor.decode(editor.scale(editor.encode_images(image[None]))))[0]
    # The decoder's receptive field is a few latents.
    torch.testing.assert_close(made["region"][:, :32], unedited[:, :32], rtol=0, atol=0.01)
    assert not torch.allclose(made["words"][:, :32], unedited[:, :32], atol=0.1)
    assert not torch.allclose(made["region"][:, 104:], unedited[:, 104:], atol=0.1)
    assert torch.equal(
        ITEM_METHODS["region"].edit(item_editor, Turn("make it night", image), image, 5), made["words"]
    )


def plain(scores: list[Score]) -> list[dict[str, Any]]:
    """Returns the scores without their time."""
    return [{**asdict(one), "seconds": 0} for one in scores]


def test_stopped_run_resumes_with_the_same_figures(tmp_path: Path) -> None:
    sources = read_magicbrush(write_shards(tmp_path / "hub", magicbrush_rows(), "dev")).items
    whole = run(sources, TINY, ItemFolder(tmp_path / "whole"), data="test")
    assert [one.key for one in whole] == [("words", name, 0) for name in SESSIONS] and [
        len(one.l1) for one in whole
    ] == [5, 1, 3]

    def stop(one: Score, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    folder = ItemFolder(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        run(sources, TINY, folder, data="test", on_outcome=stop)
    assert len(folder.finished()) == 2
    (folder.path / "items" / "139" / "words-0.json").write_text('{"item": "1')
    seen: list[str] = []
    resumed = run(
        sources, TINY, folder, data="test", on_outcome=lambda one, done, total: seen.append(one.item)
    )
    assert seen == ["139", "30"] and plain(resumed) == plain(whole)
    assert text_table(resumed, MAGICBRUSH) == text_table(whole, MAGICBRUSH)
    with pytest.raises(EvaluationError, match="holds results of another run: side was 64, now it is 128."):
        run(sources, ItemRunSettings(sampling=SamplingSettings(2), side=128), folder, data="test")


def command(data: Path, out: Path, *more: str) -> list[str]:
    options = ["--sampling-steps", "2", "--size", "64", "--device", "cpu", "--out", str(out)]
    return ["bench", "--benchmark", "magicbrush", "--data", str(data), *options, *more]


def test_command_prints_a_table_when_its_time_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_magicbrush_folder(tmp_path / "test"), tmp_path / "out"
    assert main(command(data, out, "--seconds", "0.001")) == 3
    printed = capsys.readouterr()
    assert "Means over 1 item, 1 seed." in printed.out and not (out / "report.html").exists()
    assert "stopped after 0.001 s with 1 of 3 results, which are kept" in printed.err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_magicbrush_folder(tmp_path / "test"), tmp_path / "out"
    assert main(command(data, out, "--effects", "30", "2047")) == 0
    printed = capsys.readouterr().out
    assert "[1/2] 2047 words: L1 0." in printed and "Single-turn  IP2P" in printed and "Multi-turn" in printed
    assert "3 sessions with 6 turns." in printed and "Means over 2 items, 1 seed." in printed
    page = (out / "report.html").read_text("utf-8")
    for part in page.split('src="')[1:]:
        assert (out / part.split('"')[0]).is_file()
    # 30: two sources, truths and outputs, and a chain of two. 2047: one of each and no chain.
    assert page.count("<img") == 2 + 2 + 2 + 2 + 1 + 1 + 1 and "one after the other" in page
    content = json.loads((out / "results.json").read_text())
    assert (
        set(content["parts"]) == {"single", "multi"}
        and content["benchmark"] == "MagicBrush"
        and len(content["outcomes"]) == 2
    )
    rows = (out / "results.csv").read_text().splitlines()
    assert rows[0] == "item,scope,method,seed,picture,l1,l2,clip_i,dino,clip_t,seconds"
    assert [row.split(",")[4] for row in rows[1:]] == ["turn 1", "turn 1", "turn 2", "turn 2 after 1"]
    with Image.open(out / "grid.png") as grid:
        assert grid.height > 3 * 128
    assert not list(out.rglob("*.part"))
    for more, message in [
        (["--lpips", "x"], "--lpips does nothing with --benchmark magicbrush. Leave it out."),
        (["--effects", "7"], "Effect '7' does not exist here. Choose from 139, 2047, 30."),
        (
            ["--methods", "visii"],
            "which has no pairs to learn from. "
            "Choose from words, region, instruction, explain, encode, encode_blind.",
        ),
        (["--dino", str(tmp_path)], ": config.json is missing. Put facebook/dino-vits16"),
    ]:
        assert main(command(data, out, *more)) == 1 and message in capsys.readouterr().err
    assert main(["bench", "--data", str(data), "--split", "dev"]) == 1
    assert "--split does nothing with --benchmark top-bench." in capsys.readouterr().err


def test_learned_instruction_edits_every_item_and_dino_fills_its_column(
    tmp_path: Path, write_pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = write_magicbrush_folder(tmp_path / "test"), tmp_path / "swap.safetensors"
    pairs = write_pairs(tmp_path / "pairs", 2, size=(64, 64))
    assert (
        main(
            [
                "learn",
                "--pairs",
                str(pairs),
                "--out",
                str(file),
                "--init",
                "swap colors",
                "--steps",
                "2",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    dino = write_dino(tmp_path / "dino")
    out = tmp_path / "out"
    more = [
        "--methods",
        "words",
        "instruction",
        "--instruction",
        str(file),
        "--dino",
        str(dino),
        "--effects",
        "30",
    ]
    assert main(command(data, out, *more)) == 0
    printed = capsys.readouterr().out
    assert "DINO was not measured" not in printed and "             Instruction  0." in printed
    scores = ItemFolder(out).finished()
    words = scores["words", "30", 0]
    learned = scores["instruction", "30", 0]
    assert (
        words.l1 != learned.l1 and len(learned.dino) == 3 and all(-1 <= value <= 1 for value in learned.dino)
    )
    model = DinoModel(dino)
    made = from_image(Image.open(ItemFolder(out).image("30", "instruction", 0, 2)))
    first, second = image_features(model, [made, from_image(pixels("30", 2))]).double().numpy()
    assert learned.dino[2] == pytest.approx(first @ second, abs=1e-5)
    assert main(command(data, out, *more[:3], "--methods", "instruction", "--effects", "30")) == 1
    assert (
        "the method 'instruction' needs a learned instruction. Add --instruction FILE."
        in capsys.readouterr().err
    )
