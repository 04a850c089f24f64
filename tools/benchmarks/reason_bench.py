"""PocketReason (`make bench-reason`): 200 unseen items, each with a direct and an indirect instruction.

    .venv/bin/python tools/benchmarks/reason_bench.py [--items N] [--dino FOLDER] [--out FOLDER]
        [--parts N] [--publish]

Half of the wishes depend on the image: the same words ask for different edits in different scenes. Of each
half, half have wordings that were not trained on (but were looked at while the recipe was developed), and
pairs of shape and color that training omits can occur.

The rows: the pocket editor; the pocket editor after the reader explained the instruction; the fine-tuned
editor with the reader's states of image and words; the same with a grey image in place of the reader's.

A stopped run resumes. After --parts the exit code is 3 while parts are missing. When all are done, the last
line of the output is one JSON object, and --publish also writes docs/results/reason_bench.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.dino import DinoModel
from instructbrush.core.encoders.mllm import Mllm, load_mllm
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_instruction.methods import GRAY
from instructbrush.core.evaluation.by_instruction.tables import text_table
from instructbrush.core.evaluation.metrics import quantized
from instructbrush.core.models.builtin import (
    POCKET_CONNECTOR_FILE,
    POCKET_FOLDER,
    POCKET_READER_FOLDER,
    POCKET_REASON_FOLDER,
)
from instructbrush.core.reasoning.connector import Connector, load_connector
from instructbrush.core.reasoning.explain import explain
from instructbrush.tools.benchmarks.parts import models_digest, run_parts
from instructbrush.tools.benchmarks.published import command_line, publish
from instructbrush.tools.benchmarks.reason_figures import (
    BENCHMARK,
    TITLES,
    Items,
    Metrics,
    figures,
    joined,
    records,
    table_of_explanations,
    table_of_parts,
)
from instructbrush.tools.pocket.wishes.kinds import DEPENDENT, INDEPENDENT
from instructbrush.tools.pocket.wishes.wishes import sample_wish
from instructbrush.tools.pocket.world.image_grid import grid

REPOSITORY = Path(__file__).resolve().parents[2]
# The pocket editor's folder holds the CLIP of the metrics, too.
MODELS = (POCKET_FOLDER, POCKET_REASON_FOLDER, POCKET_READER_FOLDER)
ITEMS = 200
SEED = 5_050
STEPS = 20
BATCH = 20
# The noise of an item is the same in every row.
NOISE_SEED = 1000


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
    """Edits the images of the items with one model. ``first`` is the number of the first item."""

    def __init__(self, editor: DiffusersEditor, before: Tensor, first: int) -> None:
        self.editor = editor
        self.before = before
        self._seed = NOISE_SEED + first

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
                settings = SamplingSettings(STEPS, seed=self._seed + rows[place])
                edited = self.editor.edit(self.before[list(rows[part])], context[part], settings)
                made.append(quantized(edited))
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


@dataclass(frozen=True)
class Models:
    """Everything that edits and measures, loaded once."""

    reader: Mllm
    connector: Connector
    plain: DiffusersEditor
    tuned: DiffusersEditor
    dino: DinoModel | None

    @classmethod
    def load(cls, dino: Path | None) -> Models:
        """Loads the built-in models, and the DINO of a folder."""
        return cls(
            load_mllm(POCKET_READER_FOLDER),
            load_connector(POCKET_CONNECTOR_FILE),
            load_editor(),
            load_editor(POCKET_REASON_FOLDER),
            DinoModel(dino) if dino else None,
        )

    @property
    def dino_fingerprint(self) -> str | None:
        """Identifies the weights of the DINO."""
        return self.dino.fingerprint if self.dino else None


def measure(items: Items, first: int, models: Models, out: Path) -> dict[str, Any]:
    """Runs every row on a part of the items and writes a grid of its images.

    Args:
        items: the items of the part.
        first: number of the first one.
        models: see ``Models``.
        out: folder of the grid.

    Returns:
        The scores as plain values, and the explained wishes.
    """
    plain = ItemEditor(models.plain, items.before, first)
    tuned = ItemEditor(models.tuned, items.before, first)
    kinds = {"direct": items.direct, "indirect": items.indirect}
    explained = {
        kind: [
            explain(models.reader, image, text).instruction
            for image, text in zip(items.before, words, strict=True)
        ]
        for kind, words in kinds.items()
    }
    made = edit_by_words(plain, items.direct, items.indirect, explained["direct"], explained["indirect"])
    images: dict[str, dict[str, Tensor]] = {
        "base": dict(zip(kinds, made[:2], strict=True)),
        "explain": dict(zip(kinds, made[2:], strict=True)),
    }
    for method, shown in (("encode", items.before), ("encode_blind", torch.full_like(items.before, GRAY))):
        images[method] = {
            kind: edit_by_states(tuned, models.connector, models.reader, shown, words)
            for kind, words in kinds.items()
        }
    metrics = Metrics(items, models.dino)
    columns = (items.before, items.after, *(images[method]["indirect"] for method in TITLES))
    out.mkdir(parents=True, exist_ok=True)
    rows = range(len(items.wishes))
    grid([[column[row].numpy() for column in columns] for row in rows], out / f"grid-{first:03d}.png")
    scores = {
        method: {
            kind: {name: values.tolist() for name, values in metrics.scores(each).items()}
            for kind, each in both.items()
        }
        for method, both in images.items()
    }
    return {"scores": scores, "explained": explained["indirect"]}


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument(
        "--dino",
        type=Path,
        help="folder of a DINO in transformers' layout; without it that column stays empty",
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "output" / "reason_bench")
    parser.add_argument("--parts", type=int, help="stop after this many new parts (default: none)")
    parser.add_argument("--publish", action="store_true", help="write docs/results/reason_bench.json")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    if options.items < 4:
        parser().error("--items must be 4 or more, so that every part has an item")
    if options.publish and options.items != ITEMS:
        parser().error(f"--publish needs all {ITEMS} items; leave --items out")
    items = unseen_items(options.items)
    starts = {f"items-{start:03d}": start for start in range(0, options.items, BATCH)}

    @cache
    def models() -> Models:
        return Models.load(options.dino)

    def measured(name: str) -> Mapping[str, Any]:
        start = starts[name]
        return measure(items.part(slice(start, start + BATCH)), start, models(), options.out)

    try:
        dino = models().dino_fingerprint if options.dino else None
        about = {"items": options.items, "seed": SEED, "sampling_steps": STEPS, "dino": dino}
        settings = {**about, "models": models_digest(MODELS)}
        parts = run_parts(options.out, settings, list(starts), measured, options.parts)
        if parts is None:
            print("reason_bench: parts are missing; the same command resumes", file=sys.stderr)
            return 3
        scores, explained = joined(parts)
        rows = figures(items, scores, explained)
        if options.publish:
            command = command_line("tools/benchmarks/reason_bench.py", given, ("--out", "--parts", "--dino"))
            print(publish("reason_bench", "PocketReason", command, rows, about))
    except (InstructBrushError, OSError) as error:
        print(f"reason_bench: {error}", file=sys.stderr)
        return 1
    dependent = sum(wish.image_dependent for wish in items.wishes)
    print(f"PocketReason: {len(explained)} unseen items, {dependent} of them image-dependent\n")
    print("\n".join([text_table(records(scores), BENCHMARK), "", *table_of_parts(items, scores), ""]))
    print("\n".join([*table_of_explanations(items, explained), ""]))
    print(f"Images: {options.out}/grid-*.png (before, truth, {', '.join(TITLES.values())})\n")
    print(json.dumps({"methods": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
