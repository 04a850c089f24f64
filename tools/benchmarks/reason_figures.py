"""What PocketReason measures: its items, the metrics of Table 3, and the figures of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instructbrush.core.encoders.clip import image_features, text_features
from instructbrush.core.encoders.dino import DinoModel
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.evaluation.by_instruction.methods import ITEM_METHODS
from instructbrush.core.evaluation.by_instruction.results import Score
from instructbrush.core.evaluation.by_instruction.tables import REASON
from instructbrush.core.evaluation.metrics import (
    caption_similarity,
    image_similarity,
    l1_distance,
    l2_distance,
    quantized,
)
from instructbrush.core.evaluation.reports.figures import interval, plain_figures
from instructbrush.tools.pocket.wishes.explicit_edits import parse_instruction
from instructbrush.tools.pocket.wishes.wishes import Wish

# Row -> name of the method in the benchmark runner.
METHODS = {"base": "words", "explain": "explain", "encode": "encode", "encode_blind": "encode_blind"}
TITLES = {row: ITEM_METHODS[method].title for row, method in METHODS.items()}
BENCHMARK = replace(REASON, name="PocketReason", published="Photographs, as published")


@dataclass(frozen=True)
class Items:
    """Wishes, and which of them have held-out wordings. Images are [n, 128, 128, 3], rounded to 8 bits."""

    wishes: list[Wish]
    held_out: list[bool]

    @property
    def before(self) -> Tensor:
        """Images before the edit."""
        return quantized(torch.from_numpy(np.stack([wish.before for wish in self.wishes])))

    @property
    def after(self) -> Tensor:
        """Images after the edit."""
        return quantized(torch.from_numpy(np.stack([wish.after for wish in self.wishes])))

    @property
    def direct(self) -> list[str]:
        """Explicit instructions."""
        return [wish.instruction for wish in self.wishes]

    @property
    def indirect(self) -> list[str]:
        """Wishes."""
        return [wish.words for wish in self.wishes]

    def part(self, rows: slice) -> Items:
        """Some of the items."""
        return Items(self.wishes[rows], self.held_out[rows])


class Metrics:
    """Computes the metrics of Table 3 for each item."""

    def __init__(self, items: Items, dino: DinoModel | None) -> None:
        self.after = items.after
        self.dino = dino
        self.clip = pocket_clip()
        self.captions = text_features(self.clip, [wish.caption for wish in items.wishes])
        self.clip_features = image_features(self.clip, self.after)
        self.dino_features = None if dino is None else image_features(dino, self.after)

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Returns metric -> value of each item [n]."""
        features = image_features(self.clip, images)
        scores = {
            "l1": l1_distance(images, self.after),
            "l2": l2_distance(images, self.after),
            "clip_i": image_similarity(self.clip_features, features),
            "clip_t": caption_similarity(self.captions, features),
        }
        if self.dino is not None and self.dino_features is not None:
            scores["dino"] = image_similarity(self.dino_features, image_features(self.dino, images))
        return scores


# Row -> "direct" or "indirect" -> metric -> value of each item [n].
Scores = Mapping[str, Mapping[str, Mapping[str, Tensor]]]


def joined(parts: Sequence[Mapping[str, Any]]) -> tuple[Scores, list[str]]:
    """Returns the scores and the explained wishes of all parts."""
    first = parts[0]["scores"]
    scores = {
        method: {
            kind: {
                name: torch.tensor([value for part in parts for value in part["scores"][method][kind][name]])
                for name in metrics
            }
            for kind, metrics in both.items()
        }
        for method, both in first.items()
    }
    return scores, [words for part in parts for words in part["explained"]]


def records(scores: Scores) -> list[Score]:
    """Converts the scores to the benchmark runner's records, so that its tables can print them."""
    kept = []
    for row, both in scores.items():
        for scope, metrics in zip(REASON.parts, both.values(), strict=True):
            for item in range(len(metrics["l1"])):
                values: dict[str, Any] = {name: (float(each[item]),) for name, each in metrics.items()}
                values.setdefault("dino", None)
                kept.append(Score(f"{item}-{scope}", scope, METHODS[row], 0, 1, clip_dir=(None,), **values))
    return kept


# How an explanation is judged: right, or what is wrong first.
JUDGEMENTS = ("right", "wrong_kind", "wrong_object", "wrong_value")


def judged(wish: Wish, explained: str) -> str:
    """Returns one of ``JUDGEMENTS`` for the explanation of a wish. The wording does not count."""
    found, true = parse_instruction(explained), wish.meaning
    if found == true or explained == wish.instruction:
        return "right"
    if found is None or true is None or found[0] != true[0]:
        return "wrong_kind"
    return "wrong_object" if found[1] != true[1] else "wrong_value"


def explanations(items: Items, explained: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts right and wrong explanations of the wishes. L1 does not see what a wrong one gets wrong.

    Returns:
        Part of the items ("" for all) -> judgement -> number. "wrong" is the sum of the wrong ones.
    """
    judgements = [judged(wish, words) for wish, words in zip(items.wishes, explained, strict=True)]
    depends = [wish.image_dependent for wish in items.wishes]
    parts = {
        "": [True] * len(judgements),
        "image_decides": depends,
        "words_decide": [not each for each in depends],
        "known": [not each for each in items.held_out],
        "held_out": items.held_out,
    }
    counts = {}
    for name, group in parts.items():
        chosen = [each for each, counted in zip(judgements, group, strict=True) if counted]
        found = {judgement: chosen.count(judgement) for judgement in JUDGEMENTS}
        counts[name] = {"right": found["right"], "wrong": len(chosen) - found["right"]} | found
    return counts


def table_of_explanations(items: Items, explained: Sequence[str]) -> list[str]:
    """Returns a table of right and wrong explanations for parts of the items."""
    titles = ("all", "image decides", "words decide", "known wordings", "held-out wordings")
    counts = explanations(items, explained)
    lines = [f"{'explanations':20}" + "".join(f"{name:>20}" for name in titles)]
    for judgement in ("right", "wrong", *JUDGEMENTS[1:]):
        title = judgement if judgement in ("right", "wrong") else f"  {judgement.replace('_', ' ')}"
        lines.append(f"{title:20}" + "".join(f"{part[judgement]:20}" for part in counts.values()))
    return lines


def table_of_parts(items: Items, scores: Scores) -> list[str]:
    """Returns a table of L1 on reasoning instructions for parts of the items."""
    dependent = torch.tensor([wish.image_dependent for wish in items.wishes])
    held_out = torch.tensor(items.held_out)
    groups = {
        "image decides": dependent,
        "words decide": ~dependent,
        "known wordings": ~held_out,
        "held-out wordings": held_out,
    }
    lines = [f"{'L1, reasoning':20}" + "".join(f"{name:>20}" for name in groups)]
    untouched = l1_distance(items.before, items.after)
    rows = {title: scores[method]["indirect"]["l1"] for method, title in TITLES.items()} | {
        "input, unedited": untouched
    }
    return lines + [
        f"{title:20}" + "".join(f"{float(values[rows_of].mean()):20.4f}" for rows_of in groups.values())
        for title, values in rows.items()
    ]


def figures(items: Items, scores: Scores, explained: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns row -> figure -> mean over the items, with 95 % intervals over the items, for docs/results."""
    dependent = torch.tensor([wish.image_dependent for wish in items.wishes])
    held_out = torch.tensor(items.held_out)
    rows: dict[str, dict[str, Any]] = {}
    for method, both in scores.items():
        measured = {
            f"{kind}_{name}": values for kind, metrics in both.items() for name, values in metrics.items()
        }
        l1 = both["indirect"]["l1"]
        for name, group in (("image_decides", dependent), ("known", ~held_out), ("held_out", held_out)):
            measured[f"indirect_l1_{name}"] = l1[group]
        rows[method] = {**_plain(measured), "items": len(l1)}
    exact = torch.tensor(
        [words == wish.instruction for words, wish in zip(explained, items.wishes, strict=True)]
    )
    rows["explain"] |= _plain({"exact": exact.float(), "exact_image_decides": exact[dependent].float()})
    rows["explain"] |= {
        f"{judgement}_{name}" if name else judgement: counts[judgement]
        for name, counts in explanations(items, explained).items()
        for judgement in counts
    }
    untouched = l1_distance(items.before, items.after)
    rows["input"] = {**_plain({"indirect_l1": untouched}), "items": len(untouched)}
    return rows


def _plain(measured: Mapping[str, Tensor]) -> dict[str, Any]:
    return plain_figures({name: interval(values.tolist()) for name, values in measured.items()}, 5)
