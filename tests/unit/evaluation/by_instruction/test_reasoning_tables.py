"""Tables and preference studies of reasoning instructions."""

import shutil
from pathlib import Path

import torch

from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.evaluation.by_instruction.results import ItemFolder, Score
from instructbrush.core.evaluation.by_instruction.studies import begin_studies
from instructbrush.core.evaluation.by_instruction.tables import REASON, method_figures, summary, text_table
from instructbrush.tests.support.tiny_benchmarks import (
    write_reasoning_folder,
)
from instructbrush.tools.benchmarks import reason_figures


def score(
    item: str, scope: str, method: str, l1: float, caption: float | None = 0.25, dino: bool = True
) -> Score:
    return Score(
        item, scope, method, 0, 1, (l1,), (l1 / 2,), (0.9,), (0.8,) if dino else None, (caption,), (None,)
    )


def test_table_has_the_layout_of_the_paper() -> None:
    scores = [
        score("0000-direct", "direct", "words", 0.1),
        score("0001-direct", "direct", "words", 0.2, None),
        score("0000-reasoning", "reasoning", "words", 0.4),
        score("0001-reasoning", "reasoning", "words", 0.5, None),
        score("0000-direct", "direct", "encode", 0.05, 0.5),
    ]
    lines = text_table(scores, REASON, ["A remark."]).splitlines()
    assert lines[0] == "Results on direct and reasoning instructions"
    assert [half.strip() for half in lines[1].split("|")] == ["Direct instruction", "Reasoning instruction"]
    assert (
        lines[2].split()
        == "Datasets Method L1 ↓ L2 ↓ CLIP-I ↑ DINO ↑ CLIP-T ↑ | L1 ↓ L2 ↓ CLIP-I ↑ DINO ↑ CLIP-T ↑".split()
    )
    assert (
        lines[3].split()
        == "Reasoning IP2P 0.1500 0.0750 0.9000 0.8000 0.2500 | 0.4500 0.2250 0.9000 0.8000 0.2500".split()
    )
    assert lines[4].split() == "Encode 0.0500 0.0250 0.9000 0.8000 0.5000 | - - - - -".split()
    assert (
        lines[5].split()
        == "As published Null-text 0.0931 0.0354 0.8542 0.8036 0.2479 "
        "| 0.2637 0.1165 0.6326 0.5249 0.1706".split()
    )
    assert (
        lines[6].split()
        == "InstructPix2Pix 0.1265 0.0423 0.8042 0.7256 0.2465 | 0.2984 0.1385 0.6034 0.5142 0.1629".split()
    )
    assert (
        lines[10].split()
        == "ReasonPix2Pix 0.0646 0.0203 0.9246 0.8920 0.2553 | 0.1347 0.0476 0.7824 0.7216 0.2350".split()
    )
    assert len({line.index("|") for line in lines[1:11]}) == 1
    assert lines[12:] == ["Means over 2 items, 1 seed.", "A remark."]
    found = summary(scores, REASON)
    assert (
        found["reasoning"]["words"]["l1"] == 0.45
        and set(found["reasoning"]) == {"words"}
        and found["direct"]["encode"]["l1"] == 0.05
    )
    assert method_figures(scores, REASON, "encode", "reasoning") is None
    assert "DINO was not measured" in text_table([score("a", "direct", "words", 0.1, dino=False)], REASON)


def test_pocketreason_prints_the_same_table() -> None:
    values = {
        "l1": torch.tensor([0.1, 0.3]),
        "l2": torch.tensor([0.0, 0.1]),
        "clip_i": torch.tensor([0.5, 0.6]),
        "clip_t": torch.tensor([0.2, 0.3]),
    }
    scores = {
        row: {"direct": values, "indirect": {**values, "l1": values["l1"] * 2}}
        for row in reason_figures.METHODS
    }
    lines = text_table(reason_figures.records(scores), reason_figures.BENCHMARK).splitlines()
    assert (
        lines[3].split()
        == "PocketReason IP2P 0.2000 0.0500 0.5500 - 0.2500 | 0.4000 0.0500 0.5500 - 0.2500".split()
    )
    assert [line.split("  0.")[0].strip() for line in lines[4:7]] == [
        "Explain + IP2P",
        "Encode",
        "Encode w/o image",
    ]
    assert lines[-2:] == [
        "Means over 2 items, 1 seed.",
        "DINO was not measured: no model was given (--dino).",
    ]


def test_studies_draw_the_same_images_for_both_parts(tmp_path: Path) -> None:
    sources = read_reason(write_reasoning_folder(tmp_path / "data")).items
    folder = ItemFolder(tmp_path / "out")
    scores = []
    for source in sources:
        item = source.load()
        folder.save_item_images(item, None)
        for index, method in enumerate(("words", "explain")):
            made = score(source.name, source.scope, method, 0.1)
            folder.write(made, [item.turns[0].source * index])
            scores.append(made)
    studies = begin_studies(folder, scores, sources, REASON, tmp_path / "studies", 2)
    direct = [each.item.split("-")[0] for each in studies[0].comparisons]
    reasoning = [each.item.split("-")[0] for each in studies[1].comparisons]
    assert (
        len(direct) == 2
        and direct == reasoning
        and [study.folder.name for study in studies] == ["direct", "reasoning"]
    )
    shutil.rmtree(tmp_path / "studies" / "direct")
    only = begin_studies(
        folder, [one for one in scores if one.scope == "reasoning"], sources, REASON, tmp_path / "studies", 2
    )
    assert [study.key for study in only] == [studies[1].key]
