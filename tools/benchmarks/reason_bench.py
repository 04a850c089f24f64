"""PocketReason (`make bench-reason`): 200 unseen items of the pocket world, each with a direct and an indirect instruction. The last line it prints is one
JSON object.

    .venv/bin/python tools/benchmarks/reason_bench.py [--items N] [--dino FOLDER] [--out FOLDER]

Half of the wishes are image-dependent: the same words ask for different edits in different scenes. Half of each have wordings that training never saw,
and shape and colour pairs that it never drew may occur among them. Rows: the pocket editor as it is, the editor after the reader explained the
instruction, the tuned editor with the reader's states of image and words, and the same where the reader is shown a grey image instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.clip import image_features, pocket_clip, text_features
from instructbrush.core.encoders.dino import DinoModel
from instructbrush.core.encoders.mllm import Mllm, load_mllm
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
SEED, STEPS, BATCH = 5_050, 20, 20
NOISE_SEED = 1000
"""An item's noise is the same in every row."""
METHODS = {"base": "words", "explain": "explain", "encode": "encode", "encode_blind": "encode_blind"}
"""Rows, and what the benchmark runner calls them."""
TITLES = {row: ITEM_METHODS[method].title for row, method in METHODS.items()}
BENCHMARK = replace(REASON, name="PocketReason", published="Photographs, as published")


@dataclass(frozen=True)
class Items:
    """The items: wishes, their images before and after as 8 bit keeps them [n, 128, 128, 3], and which have held-out wordings."""

    wishes: list[Wish]
    held_out: list[bool]

    @property
    def before(self) -> Tensor:
        """What is edited."""
        return quantised(torch.from_numpy(np.stack([wish.before for wish in self.wishes])))

    @property
    def after(self) -> Tensor:
        """What the edit should come to."""
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
    """``count`` items, image-dependent and others in turn, every kind in turn; two in four have wordings held out from training."""
    rng = np.random.default_rng(SEED)
    held_out = [index % 4 > 1 for index in range(count)]
    kinds = [list(DEPENDENT if index % 2 == 0 else INDEPENDENT) for index in range(count)]
    return Items(
        [sample_wish(rng, kinds[i][i // 2 % len(kinds[i])], held_out[i]) for i in range(count)], held_out
    )


class Editing:
    """Samples edits of the items' images."""

    def __init__(self, editor: DiffusersEditor, before: Tensor) -> None:
        self.editor, self.before = editor, before

    def edit(self, context: Tensor, rows: Sequence[int]) -> Tensor:
        """Edited images, as 8 bit keeps them.

        Args:
            context: text states of some items' instructions [n, L, D].
            rows: which items they are.
        """
        made = []
        # The noise of a batch is that of its first item and on: runs of items that follow one another share a batch.
        starts = [place for place in range(len(rows)) if place == 0 or rows[place] != rows[place - 1] + 1]
        for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):
            for place in range(first, last, BATCH):
                part = slice(place, min(place + BATCH, last))
                settings = SamplingSettings(STEPS, seed=NOISE_SEED + rows[place])
                edited = self.editor.edit(self.before[list(rows[part])], context[part], settings)
                made.append(quantised(edited))
        return torch.cat(made)


def by_words(editing: Editing, *texts: Sequence[str]) -> list[Tensor]:
    """Edits by each list of instructions, one for every item; what several lists have in common is sampled once."""
    done: list[list[str]] = []
    made: list[Tensor] = []
    for words in texts:
        images = torch.empty_like(editing.before)
        missing: list[int] = []
        for row, text in enumerate(words):
            known = next((number for number, earlier in enumerate(done) if earlier[row] == text), None)
            if known is None:
                missing.append(row)
            else:
                images[row] = made[known][row]
        if missing:
            images[missing] = editing.edit(
                editing.editor.encode_text([words[row] for row in missing]), missing
            )
        done.append(list(words))
        made.append(images)
    return made


@torch.no_grad()
def by_states(
    editing: Editing, connector: Connector, reader: Mllm, shown: Tensor, words: Sequence[str]
) -> Tensor:
    """Edits by Encode Instruction, the reader being shown other images than the editor where ``shown`` says so."""
    text, contexts = editing.editor.encode_text(words), []
    for start in range(0, len(words), BATCH):
        part = slice(start, start + BATCH)
        states, mask = reader.states(list(shown[part]), words[part], connector.config.task)
        contexts.append(connector.encode(text[part], states, mask))
    return editing.edit(torch.cat(contexts), range(len(words)))


class Judge:
    """Table 3's metrics of each item."""

    def __init__(self, items: Items, dino: DinoModel | None) -> None:
        self.after, self.dino, self.clip = items.after, dino, pocket_clip()
        self.captions = text_features(self.clip, [wish.caption for wish in items.wishes])
        self.seen = image_features(self.clip, self.after)
        self.shape = None if dino is None else image_features(dino, self.after)

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Metric -> value of each item [n]."""
        features = image_features(self.clip, images)
        found = {"l1": l1_distance(images, self.after), "l2": l2_distance(images, self.after)}
        found |= {
            "clip_i": image_similarity(self.seen, features),
            "clip_t": caption_similarity(self.captions, features),
        }
        if self.dino is not None and self.shape is not None:
            found["dino"] = image_similarity(self.shape, image_features(self.dino, images))
        return found


Scores = Mapping[str, Mapping[str, Mapping[str, Tensor]]]
"""Method -> "direct" or "indirect" -> metric -> value of each item [n]."""


def measure(items: Items, dino: DinoModel | None, out: Path) -> tuple[Scores, list[str]]:
    """Run every row; leaves a grid of images. Also returns what Explain made of the wishes."""
    reader, connector = load_mllm(POCKET_READER_FOLDER), load_connector(POCKET_CONNECTOR_FILE)
    plain, tuned = (
        Editing(load_editor(), items.before),
        Editing(load_editor(POCKET_REASON_FOLDER), items.before),
    )
    kinds = {"direct": items.direct, "indirect": items.indirect}
    explained = {
        kind: [
            explain(reader, image, text).instruction for image, text in zip(items.before, words, strict=True)
        ]
        for kind, words in kinds.items()
    }
    made = by_words(plain, items.direct, items.indirect, explained["direct"], explained["indirect"])
    images: dict[str, dict[str, Tensor]] = {
        "base": dict(zip(kinds, made[:2], strict=True)),
        "explain": dict(zip(kinds, made[2:], strict=True)),
    }
    for method, shown in (("encode", items.before), ("encode_blind", torch.full_like(items.before, GREY))):
        images[method] = {
            kind: by_states(tuned, connector, reader, shown, words) for kind, words in kinds.items()
        }
    judge = Judge(items, dino)
    rows = range(0, len(items.wishes), max(1, len(items.wishes) // 16))
    columns = (items.before, items.after, *(images[method]["indirect"] for method in TITLES))
    grid([[column[row] for column in columns] for row in rows], out / "grid.png")
    return {
        method: {kind: judge.scores(each) for kind, each in both.items()} for method, both in images.items()
    }, explained["indirect"]


def records(scores: Scores) -> list[Score]:
    """Every item's figures as the benchmark runner keeps them, so that its tables print them."""
    kept = []
    for row, both in scores.items():
        for scope, found in zip(REASON.parts, both.values(), strict=True):
            for item in range(len(found["l1"])):
                values = {name: (float(each[item]),) for name, each in found.items()}
                kept.append(
                    Score(
                        f"{item}-{scope}",
                        scope,
                        METHODS[row],
                        0,
                        1,
                        clip_dir=(None,),
                        **{"dino": None, **values},
                    )
                )
    return kept


def parts(items: Items, scores: Scores) -> list[str]:
    """L1 on reasoning instructions, part by part."""
    dependent = torch.tensor([wish.image_dependent for wish in items.wishes])
    held_out = torch.tensor(items.held_out)
    groups = {
        "picture decides": dependent,
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
    """What is compared from one version to the next."""
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
    """Measure and print."""
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
        parser.error("--items must be 4 or more, so that every part has one")
    items = unseen_items(options.items)
    try:
        scores, explained = measure(items, DinoModel(options.dino) if options.dino else None, options.out)
    except InstructBrushError as error:
        print(f"reason_bench: {error}", file=sys.stderr)
        return 1
    dependent = [wish.image_dependent for wish in items.wishes]
    right = [said == wish.instruction for said, wish in zip(explained, items.wishes, strict=True)]
    seen = [each for each, decides in zip(right, dependent, strict=True) if decides]
    print(f"PocketReason: {len(right)} unseen items, {sum(dependent)} of them picture-dependent\n")
    print("\n".join([text_table(records(scores), BENCHMARK), "", *parts(items, scores), ""]))
    print(
        f"The reader explains {sum(right) / len(right):.1%} of the wishes exactly, {sum(seen) / len(seen):.1%} of the picture-dependent ones."
    )
    print(f"Pictures: {options.out / 'grid.png'} (before, as it should be, {', '.join(TITLES.values())})\n")
    print(json.dumps({"methods": summary(items, scores)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
