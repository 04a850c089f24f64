"""PocketReason (`make bench-reason`): 200 unseen items, each with a direct and an indirect instruction.

    .venv/bin/python tools/benchmarks/reason_bench.py [--items N] [--dino FOLDER] [--out FOLDER]

Half of the wishes depend on the image: the same words ask for different edits in different scenes. Of each
half, half have wordings that training never saw, and pairs of shape and color that training omits can occur.

The rows: the pocket editor; the pocket editor after the reader explained the instruction; the fine-tuned
editor with the reader's states of image and words; the same with a grey image in place of the reader's. The
last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.clip import image_features, text_features
from instructbrush.core.encoders.dino import DinoModel
from instructbrush.core.encoders.mllm import Mllm, load_mllm
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_instruction.methods import GREY, ITEM_METHODS
from instructbrush.core.evaluation.by_instruction.results import Score
from instructbrush.core.evaluation.by_instruction.tables import REASON, text_table
from instructbrush.core.evaluation.metrics import (
    caption_similarity,
    image_similarity,
    l1_distance,
    l2_distance,
    quantised,
)
from instructbrush.core.models.builtin import (
    POCKET_CONNECTOR_FILE,
    POCKET_READER_FOLDER,
    POCKET_REASON_FOLDER,
)
from instructbrush.core.reasoning.connector import Connector, load_connector
from instructbrush.core.reasoning.explain import explain
from instructbrush.tools.benchmarks.region_bench import grid
from instructbrush.tools.pocket.wishes.kinds import DEPENDENT, INDEPENDENT
from instructbrush.tools.pocket.wishes.wishes import Wish, sample_wish

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 5_050
STEPS = 20
BATCH = 20
# The noise of an item is the same in every row.
NOISE_SEED = 1000
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
        return quantised(torch.from_numpy(np.stack([wish.before for wish in self.wishes])))

    @property
    def after(self) -> Tensor:
        """Images after the edit."""
        return quantised(torch.from_numpy(np.stack([wish.after for wish in self.wishes])))

    @property
    def direct(self) -> list[str]:
        """Explicit instructions."""
        return [wish.instruction for wish in self.wishes]

    @property
    def indirect(self) -> list[str]:
        """Wishes."""
        return [wish.words for wish in self.wishes]


def unseen_items(count: int) -> Items:
    """Draws ``count`` items. Every second wish depends on the image; two in four have held-out wordings."""
    rng = np.random.default_rng(SEED)
    held_out = [index % 4 > 1 for index in range(count)]
    wishes = []
    for index in range(count):
        kinds = list(DEPENDENT if index % 2 == 0 else INDEPENDENT)
        wishes.append(sample_wish(rng, kinds[index // 2 % len(kinds)], held_out[index]))
    return Items(wishes, held_out)


class ItemEditor:
    """Edits the images of the items with one model."""

    def __init__(self, editor: DiffusersEditor, before: Tensor) -> None:
        self.editor = editor
        self.before = before

    def edit(self, context: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns edited images [n, 128, 128, 3], rounded to 8 bits.

        Args:
            context: text states of the instructions [n, L, D].
            rows: numbers of the n items.
        """
        made = []
        # A batch draws its noise from the number of its first item, so it holds consecutive items only.
        starts = [place for place in range(len(rows)) if place == 0 or rows[place] != rows[place - 1] + 1]
        for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):
            for place in range(first, last, BATCH):
                part = slice(place, min(place + BATCH, last))
                settings = SamplingSettings(STEPS, seed=NOISE_SEED + rows[place])
                edited = self.editor.edit(self.before[list(rows[part])], context[part], settings)
                made.append(quantised(edited))
        return torch.cat(made)


def edit_by_words(editor: ItemEditor, *texts: Sequence[str]) -> list[Tensor]:
    """Edits by each list of instructions, one for every item. Samples an item once for equal instructions."""
    done: list[list[str]] = []
    made: list[Tensor] = []
    for words in texts:
        images = torch.empty_like(editor.before)
        missing: list[int] = []
        for row, text in enumerate(words):
            same = next((number for number, earlier in enumerate(done) if earlier[row] == text), None)
            if same is None:
                missing.append(row)
            else:
                images[row] = made[same][row]
        if missing:
            context = editor.editor.encode_text([words[row] for row in missing])
            images[missing] = editor.edit(context, missing)
        done.append(list(words))
        made.append(images)
    return made


@torch.no_grad()
def edit_by_states(
    editor: ItemEditor, connector: Connector, reader: Mllm, shown: Tensor, words: Sequence[str]
) -> Tensor:
    """Edits as Encode Instruction does. `shown`: the images [n, 128, 128, 3] that the reader sees."""
    text = editor.editor.encode_text(words)
    contexts = []
    for start in range(0, len(words), BATCH):
        part = slice(start, start + BATCH)
        states, mask = reader.states(list(shown[part]), words[part], connector.config.task)
        contexts.append(connector.encode(text[part], states, mask))
    return editor.edit(torch.cat(contexts), range(len(words)))


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


def measure(items: Items, dino: DinoModel | None, out: Path) -> tuple[Scores, list[str]]:
    """Runs every row and writes a grid of images. Returns the scores and the explained wishes."""
    reader = load_mllm(POCKET_READER_FOLDER)
    connector = load_connector(POCKET_CONNECTOR_FILE)
    plain = ItemEditor(load_editor(), items.before)
    tuned = ItemEditor(load_editor(POCKET_REASON_FOLDER), items.before)
    kinds = {"direct": items.direct, "indirect": items.indirect}
    explained = {
        kind: [
            explain(reader, image, text).instruction for image, text in zip(items.before, words, strict=True)
        ]
        for kind, words in kinds.items()
    }
    made = edit_by_words(plain, items.direct, items.indirect, explained["direct"], explained["indirect"])
    images: dict[str, dict[str, Tensor]] = {
        "base": dict(zip(kinds, made[:2], strict=True)),
        "explain": dict(zip(kinds, made[2:], strict=True)),
    }
    for method, shown in (("encode", items.before), ("encode_blind", torch.full_like(items.before, GREY))):
        images[method] = {
            kind: edit_by_states(tuned, connector, reader, shown, words) for kind, words in kinds.items()
        }
    metrics = Metrics(items, dino)
    rows = range(0, len(items.wishes), max(1, len(items.wishes) // 16))
    columns = (items.before, items.after, *(images[method]["indirect"] for method in TITLES))
    grid([[column[row] for column in columns] for row in rows], out / "grid.png")
    scores = {
        method: {kind: metrics.scores(each) for kind, each in both.items()} for method, both in images.items()
    }
    return scores, explained["indirect"]


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


def summary(items: Items, scores: Scores) -> dict[str, dict[str, float]]:
    """Returns the figures that are compared between versions."""
    dependent = torch.tensor([wish.image_dependent for wish in items.wishes])
    return {
        method: {
            "direct_l1": round(float(both["direct"]["l1"].mean()), 5),
            "indirect_l1": round(float(both["indirect"]["l1"].mean()), 5),
            "picture_dependent_l1": round(float(both["indirect"]["l1"][dependent].mean()), 5),
        }
        for method, both in scores.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument(
        "--dino",
        type=Path,
        help="folder of a DINO in transformers' layout; without it that column stays empty",
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "output" / "reason_bench")
    options = parser.parse_args(arguments)
    if options.items < 4:
        parser.error("--items must be 4 or more, so that every part has an item")
    items = unseen_items(options.items)
    try:
        scores, explained = measure(items, DinoModel(options.dino) if options.dino else None, options.out)
    except InstructBrushError as error:
        print(f"reason_bench: {error}", file=sys.stderr)
        return 1
    dependent = [wish.image_dependent for wish in items.wishes]
    exact = [words == wish.instruction for words, wish in zip(explained, items.wishes, strict=True)]
    exact_dependent = [each for each, depends in zip(exact, dependent, strict=True) if depends]
    print(f"PocketReason: {len(exact)} unseen items, {sum(dependent)} of them image-dependent\n")
    print("\n".join([text_table(records(scores), BENCHMARK), "", *table_of_parts(items, scores), ""]))
    print(
        f"The reader explains {sum(exact) / len(exact):.1%} of the wishes exactly,"
        f" {sum(exact_dependent) / len(exact_dependent):.1%} of the image-dependent wishes."
    )
    print(f"Images: {options.out / 'grid.png'} (before, truth, {', '.join(TITLES.values())})\n")
    print(json.dumps({"methods": summary(items, scores)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
