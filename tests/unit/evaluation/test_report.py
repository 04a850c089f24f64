"""Tables and reports of outcomes, compared with worked examples."""

import csv
import math
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.evaluation.by_example.effects import Effect
from instructbrush.core.evaluation.by_example.report import write_report
from instructbrush.core.evaluation.by_example.results import EffectFolder, Outcome
from instructbrush.core.evaluation.by_example.tables import (
    PAPER,
    TABLES,
    method_figures,
    summary,
    text_tables,
)
from instructbrush.core.evaluation.reports.figures import interval
from instructbrush.core.pairs.pairs import EditPairs, make_pairs
from instructbrush.core.storage.json_text import parse_json
from instructbrush.tools.benchmarks.pocket_bench import PocketEffect
from instructbrush.tools.pocket.world.held_out_effects import DEVELOPMENT, EFFECTS, TEST, UNNAMED


def outcome(
    effect: str,
    scope: str,
    method: str,
    psnr: tuple[float, ...],
    seed: int = 0,
    lpips: tuple[float, ...] | None = (0.2, 0.4),
) -> Outcome:
    return Outcome(
        effect,
        scope,
        method,
        seed,
        psnr,
        (0.5, 0.7),
        lpips,
        0.25,
        (0.9, 0.8),
        init_text="turn <it> into & snow",
        final_loss=0.5,
        seconds=3.0,
    )


THREE = [
    outcome("a", "global", "words", (10.0, 20.0)),
    outcome("b", "global", "words", (20.0, 20.0)),
    outcome("c", "local", "words", (30.0, 31.0)),
    outcome("a", "global", "instructbrush", (25.0, 26.0)),
]


def test_averages_each_effect_first() -> None:
    assert method_figures(THREE, "words", "global")["psnr"].mean == pytest.approx(17.5)
    assert method_figures(THREE, "words", "local")["psnr"].mean == pytest.approx(30.5)
    assert method_figures(THREE, "words")["psnr"].mean == pytest.approx((15 + 20 + 30.5) / 3)
    assert method_figures(THREE, "words")["lpips"].mean == pytest.approx(0.3)
    assert method_figures(THREE, "visii") is None and method_figures(THREE, "instructbrush", "local") is None


def test_intervals_use_students_t() -> None:
    assert interval([7.0]).half_width is None
    # Deviation of 1, 2, 3 is 1; t of 2 degrees of freedom is 4.303.
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-4)
    assert found.show(2) == "2.00 ±2.48" and interval([math.nan]).show(2) == "-"
    assert interval([0.0, 1.0] * 10).half_width == pytest.approx(
        2.0930 * math.sqrt(20 / 19 / 4) / math.sqrt(20), rel=1e-4
    )


def test_intervals_are_over_effects_with_seeds_averaged_first() -> None:
    two = [
        *THREE,
        *[
            outcome("abc"[index], "global", "words", (value,), seed=1)
            for index, value in enumerate((20.0, 20.0, 20.0))
        ],
    ]
    found = method_figures(two, "words")["psnr"]
    assert found == interval([17.5, 20.0, 25.25]) and found.half_width is not None
    assert set(summary(two)["words"]) == {
        "psnr",
        "ssim",
        "lpips",
        "direction",
        "psnr_ci95",
        "ssim_ci95",
        "lpips_ci95",
        "direction_ci95",
    }
    assert set(summary(two)["instructbrush"]) == {"psnr", "ssim", "lpips", "direction"}


def test_published_figures_match_the_paper() -> None:
    assert PAPER["all", "words"] == (17.87, 0.6450, 0.2298, 0.3982)
    assert PAPER["all", "instructbrush"][0] - PAPER["all", "words"][0] == pytest.approx(2.81)
    # Means over 14 global and 11 local effects give the means over all, to the digits printed.
    for method in ("words", "visii", "instructbrush", "one_shot", "visii_one_shot"):
        for place, within in ((0, 0.011), (1, 2e-4), (2, 2e-4), (3, 2e-4)):
            both = (14 * PAPER["global", method][place] + 11 * PAPER["local", method][place]) / 25
            assert both == pytest.approx(PAPER["all", method][place], abs=within), (method, place)
    assert {row for table in TABLES for row in ((p, m) for p, m, _ in table.rows)} >= set(PAPER)


def test_tables_have_the_layout_of_the_paper() -> None:
    lines = text_tables(THREE, "TOP-Bench").splitlines()
    assert lines[0] == "Table 1: Quantitative results"
    assert (
        lines[2].split()
        == "Datasets Method PSNR ↑ SSIM ↑ LPIPS ↓ Direct. ↓ | PSNR ↑ SSIM ↑ LPIPS ↓ Direct. ↓".split()
    )
    two_effects = "TOP-Global IP2P 17.50 ±31.77 0.6000 ±0.0000 0.3000 ±0.0000 0.2500 ±0.0000"
    assert lines[3].split() == f"{two_effects} | 16.10 0.5467 0.2810 0.2997".split()
    assert lines[4].split() == "Ours 25.50 0.6000 0.3000 0.2500 | 18.66 0.5842 0.2526 0.2798".split()
    assert lines[5].split()[:3] == ["TOP-Local", "IP2P", "30.50"] and lines[6].split()[:3] == [
        "TOP-Bench",
        "IP2P",
        "21.83",
    ]
    assert len({line.index("|") for line in lines[1:8]}) == 1
    assert "Means over 1 effect (1 global, 0 local), 1 seed." in text_tables(THREE[:1], "TOP-Bench")
    note = "Means over 3 effects (2 global, 1 local), 1 seed, ± 95 % interval over effects"
    assert f"{note} (seeds averaged first)." in lines and "Table 2: Ablation study" not in lines
    assert "Pocket-Global" in text_tables(THREE, "PocketBench") and "PocketBench" in text_tables(
        THREE, "PocketBench"
    )


def test_methods_with_the_papers_settings_stand_beside_its_figures() -> None:
    both = ("instructbrush_paper", "instructbrush_paper_guided")
    outcomes = [outcome("a", "global", name, (25.0,)) for name in both]
    lines = text_tables(outcomes, "TOP-Bench").splitlines()
    for line, title in zip(lines[3:5], ("Ours (paper)", "Ours (guided)"), strict=True):
        assert f"{title} 25.00" in " ".join(line.split())
        assert line.split("|")[1].split() == "18.66 0.5842 0.2526 0.2798".split()


def test_tables_say_that_lpips_was_not_measured() -> None:
    silent = [outcome("a", "global", "words", (10.0,), lpips=None)]
    text = text_tables(silent, "TOP-Bench")
    assert "TOP-Global IP2P 10.00 0.6000 - 0.2500 |" in " ".join(text.split()) and text.endswith(
        "LPIPS was not measured: AlexNet's weights were not given (--lpips)."
    )
    assert summary(silent)["words"]["lpips"] is None


class Still:
    """An effect of plain images, with a name that means something else in an address and in HTML."""

    name = "sea 50% #1? <&amp;"
    scope = "global"
    words = "paint <b> & 'it'"
    train = range(10)

    def load(self) -> Effect:
        shades = torch.arange(15).view(15, 1, 1, 1) / 15
        before = shades.expand(15, 32, 32, 3).clone()
        pairs = make_pairs(before, 1 - before).pairs
        return Effect(self.name, "global", self.words, EditPairs(pairs[:10]), EditPairs(pairs[10:]))


def test_report_has_figures_and_images(tmp_path: Path) -> None:
    folder = EffectFolder(tmp_path / "out")
    folder.begin({"data": "test"})
    outcomes = [
        Outcome(
            Still.name,
            "global",
            m,
            seed,
            (psnr,) * 5,
            (0.5,) * 5,
            None,
            0.5,
            (0.9,) * 5,
            "turn <it> into snow",
        )
        for m, seed, psnr in (("words", 0, math.inf), ("visii", 0, 9.5), ("visii", 2, 9.5))
    ]
    for each in outcomes:
        folder.write(each, [torch.full((32, 40, 3), 0.25)] * 5)
    assert list(folder.finished().values()) == sorted(outcomes, key=lambda each: each.method)
    page = write_report(folder, outcomes, [Still()], "TOP-Bench", {"model": "x<y", "seeds": 1})
    text = page.read_text("utf-8")
    assert (
        "x&lt;y" in text
        and "paint &lt;b&gt; &amp;" in text
        and "<it>" not in text
        and "Table 1: Quantitative results" in text
    )
    for part in text.split('src="')[1:]:
        # As a browser finds the file: an address is without what follows "#" and "?".
        assert (page.parent / unquote(urlsplit(unescape(part.split('"')[0])).path)).is_file()
    assert text.count("<img") == 20 + 10 + 3 * 5
    content = parse_json((folder.path / "results.json").read_bytes(), finite=True)
    # Of the outcomes, not of the last command.
    assert content["about"] == {"model": "x<y", "seeds": 2} and "seeds: 2" in text
    assert content["methods"]["words"]["psnr"] is None and content["outcomes"][0]["psnr"] == [None] * 5
    assert (
        content["methods"]["visii"] == {"psnr": 9.5, "ssim": 0.5, "lpips": None, "direction": 0.5}
        and len(content["outcomes"]) == 3
    )
    rows = list(csv.DictReader((folder.path / "results.csv").open()))
    assert (
        [row["method"] for row in rows] == ["words", "visii", "visii"]
        and [row["psnr"] for row in rows] == ["inf", "9.5", "9.5"]
        and rows[0]["lpips"] == ""
        and rows[0]["final_loss"] == ""
    )
    with Image.open(folder.path / "grid.png") as grid:
        assert grid.height > 300 and grid.width > 500


def test_pocket_bench_has_the_shape_of_top_bench() -> None:
    scopes = [PocketEffect(name).scope for name in TEST]
    assert (scopes.count("global"), scopes.count("local")) == (14, 11)
    assert len(UNNAMED & set(TEST)) == 11 and set(EFFECTS) == {*TEST, *DEVELOPMENT} >= UNNAMED


def test_no_effect_serves_both_choice_and_measurement() -> None:
    assert len(DEVELOPMENT) == 6 and not set(DEVELOPMENT) & set(TEST)
    # Choices were made on these effects, so none of them may become a test effect.
    chosen_on = {"hue_75", "split_light", "teal_orange_photo", "teal_hat", "maroon_outline", "half_olive"}
    assert chosen_on == set(DEVELOPMENT)


@pytest.mark.parametrize(
    "name",
    [
        "solarised",
        "plum_spotlight",
        "half_olive",
        "plum_shadow",
        "plum_dots",
        "mint_glasses",
        "maroon_corner_star",
        "film_photo",
        "corner_glow",
        "bleach_photo",
        "teal_core",
    ],
)
def test_pocket_effects_are_deterministic(name: str) -> None:
    first, again = PocketEffect(name).load(), PocketEffect(name).load()
    assert len(first.train) == 10 and len(first.test) == 5 and first.words
    for one, other in zip((*first.train, *first.test), (*again.train, *again.test), strict=True):
        assert torch.equal(one.before, other.before) and torch.equal(one.after, other.after)
        assert one.before.shape == (128, 128, 3) and not torch.equal(one.before, one.after)
        assert torch.equal(one.after, (one.after * 255).round() / 255)
    tests = [pair.before for pair in first.test]
    assert not any(torch.equal(pair.before, test) for pair in first.train for test in tests)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = PocketEffect("hue_75").load()
    for half, part in (("train", pairs.train), ("test", pairs.test)):
        for index, pair in enumerate(part):
            for side, image in enumerate((pair.before, pair.after)):
                path = tmp_path / "top" / "midnight" / half / f"{index}_{side}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((image * 255).round().to(torch.uint8).numpy()).resize((96, 64)).save(path)
    command = [
        "bench",
        "--data",
        str(tmp_path / "top"),
        "--size",
        "64",
        "--methods",
        "words",
        "--sampling-steps",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "instructbrush: 1 of TOP-Bench's 25 effects were found." in printed.err
    assert (
        "[1/1] midnight words: " in printed.out
        and "TOP-Global  IP2P" in printed.out
        and "LPIPS was not measured" in printed.out
    )
    assert (tmp_path / "out" / "report.html").is_file()
    stopped = ["--device", "cpu", "--seconds", "1e-6"]
    assert main([*command, *stopped, "--out", str(tmp_path / "none")]) == 3
    assert "stopped after 1e-06 s with 0 of 1 results" in capsys.readouterr().err
    # The report shows what is there, also of methods that are not asked for.
    assert main([*command, *stopped, "--methods", "visii"]) == 3
    printed = capsys.readouterr()
    assert "Run the same command again to continue." in printed.err and "TOP-Global  IP2P" in printed.out
    assert (
        main(["bench", "--data", str(tmp_path / "nowhere")]) == 1
        and "does not exist. Unpack TOP-Bench" in capsys.readouterr().err
    )
    assert (
        main([*command, "--effects", "lava"]) == 1
        and "Effect 'lava' does not exist here. Choose from midnight." in capsys.readouterr().err
    )
