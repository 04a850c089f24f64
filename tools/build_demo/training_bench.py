"""``make bench-training``: what the pocket editor learns from built data, on items that no build has.

    .venv/bin/python -m instructbrush.tools.build_demo.training_bench [--publish]

Each trainer reads the tables of both builds as they are. The editor before and after is measured on
items of PocketReason (direct and indirect instructions) and on the edits of ``make bench-regions``, from the
same noise. A model that reads masks gets the true mask.

A stopped run resumes. The last line of the output is one JSON object, and --publish also writes
docs/results/training_bench.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.errors import EvaluationError, InstructBrushError
from instructbrush.core.evaluation.reports.figures import interval, plain_figures
from instructbrush.core.models.builtin import POCKET_FOLDER, POCKET_READER_FOLDER
from instructbrush.core.reasoning.connector import load_connector
from instructbrush.tools.benchmarks import reason_bench, region_bench
from instructbrush.tools.benchmarks.parts import models_digest, run_parts
from instructbrush.tools.benchmarks.published import command_line, publish
from instructbrush.tools.benchmarks.reason_figures import Metrics

# Half of the items of PocketReason, all of the benchmark of regions.
REASON_ITEMS = 100
REGION_ITEMS = 60
BEFORE = "before"


@dataclass(frozen=True)
class Training:
    """How a trainer is called. data: the builds that it reads."""

    command: tuple[str, ...]
    data: tuple[str, ...]
    options: tuple[str, ...]


COMMON = tuple(
    "--model pocket --resolution 128 --batch 16 --steps 250 --rate 2e-4 --final-rate 1e-5 --warmup 25 "
    "--average 0.99 --snr-limit 20 --pictures-every 0".split()
)
TRAININGS = {
    "finetune": Training(("finetune",), ("reason", "ultraedit"), ()),
    "train_region": Training(("train-region",), ("ultraedit",), ("--white-mask-share", "0")),
    "reason_train": Training(
        ("reason", "train"),
        ("reason",),
        tuple(
            "--mllm pocket --first-stage-steps 1000 --meaning-weight 0.05 --indirect 0.75 "
            "--freeze keys-values middle time".split()
        ),
    ),
}


def train(name: str, builds: Path, out: Path) -> float:
    """Trains into ``out``, or resumes. Returns the seconds of this call."""
    training = TRAININGS[name]
    start = time.monotonic()
    data = [str(builds / build / "data") for build in training.data]
    command = [
        *(sys.executable, "-m", "instructbrush", *training.command, *COMMON, *training.options),
        *("--data", *data, "--out", str(out)),
    ]
    kept = [out / "checkpoint.safetensors", out / "first_stage.safetensors"]
    if any(file.exists() for file in kept):
        command.append("--resume")
    if subprocess.run(command, check=False).returncode:
        raise EvaluationError(f"{' '.join(training.command)} did not end; its message is above.")
    return time.monotonic() - start


@cache
def reason_items() -> reason_bench.Items:
    """Unseen direct and indirect instructions."""
    return reason_bench.unseen_items(REASON_ITEMS)


@cache
def region_items() -> region_bench.Items:
    """Unseen local edits."""
    return region_bench.unseen_items(REGION_ITEMS)


def instruction_scores(editor: DiffusersEditor, connector: Path | None) -> dict[str, list[float]]:
    """Measures edits by direct and indirect instructions. Returns figure -> value of each item."""
    items = reason_items()
    item_editor = reason_bench.ItemEditor(editor, items.before, 0)
    if connector is None:
        images = reason_bench.edit_by_words(item_editor, items.direct, items.indirect)
    else:
        reader, connected = load_mllm(POCKET_READER_FOLDER), load_connector(connector)
        images = [
            reason_bench.edit_by_states(item_editor, connected, reader, items.before, words)
            for words in (items.direct, items.indirect)
        ]
    metrics = Metrics(items, None)
    found = {}
    for kind, made in zip(("direct", "indirect"), images, strict=True):
        scores = metrics.scores(made)
        found |= {f"{kind}_{name}": scores[name].tolist() for name in ("l1", "clip_i")}
    return found


def region_scores(editor: DiffusersEditor) -> dict[str, list[float]]:
    """Measures local edits by words. Returns figure -> value of each item."""
    items = region_items()
    item_editor = region_bench.ItemEditor(editor, items, 0)
    mask = items.fine if editor.description.reads_mask else None
    images = item_editor.decode(item_editor.latents(condition=mask))
    unedited = item_editor.decode(item_editor.source)
    outside = (items.soft == 0).float()
    return {
        "inside_psnr": region_bench.psnr_inside(images, items.after, (items.soft > 0).float()).tolist(),
        "outside_by_edit": region_bench.mean_inside((images - unedited).abs(), outside[..., None]).tolist(),
    }


def measure(name: str, builds: Path, out: Path) -> dict[str, Any]:
    """Trains, if ``name`` is a trainer, and measures. Returns figure -> value of each item, and seconds."""
    if name == BEFORE:
        editor = load_editor()
        return {**instruction_scores(editor, None), **region_scores(editor)}
    folder = out / name
    seconds = train(name, builds, folder)
    editor = load_editor(folder / "model")
    connector = folder / "connector.safetensors"
    scores = (
        {}
        if editor.description.reads_mask
        else instruction_scores(editor, connector if connector.exists() else None)
    )
    # The states of a reader are no words, which region edits are measured with.
    regions = {} if connector.exists() else region_scores(editor)
    return {**scores, **regions, "seconds": [seconds], "rows": [count_rows(name, builds)]}


def count_rows(name: str, builds: Path) -> int:
    """Number of rows that a trainer reads."""
    files = [file for build in TRAININGS[name].data for file in (builds / build / "data").glob("*.parquet")]
    return sum(pq.read_metadata(file).num_rows for file in files)


def figures(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns row -> figure -> mean over the items, with 95 % intervals.

    ``<figure>_change`` is the paired difference to the editor before training.
    """
    before = parts[BEFORE]
    rows: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        measured = {figure: values for figure, values in part.items() if figure in before}
        means = {figure: interval(values) for figure, values in measured.items()}
        if name != BEFORE:
            means |= {
                f"{figure}_change": interval([b - a for a, b in zip(before[figure], values, strict=True)])
                for figure, values in measured.items()
            }
        rows[name] = plain_figures(means, 5)
        rows[name] |= {figure: round(part[figure][0]) for figure in ("seconds", "rows") if figure in part}
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, measures and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make bench-training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--builds", type=Path, default=Path("output/training_data"), help="folder of both builds"
    )
    parser.add_argument("--out", type=Path, default=Path("output/training_bench"))
    parser.add_argument("--only", choices=tuple(TRAININGS), help="one of the trainers")
    parser.add_argument("--publish", action="store_true", help="write docs/results/training_bench.json")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.publish and options.only:
        parser.error("--publish needs all trainers; leave --only out")
    names = [BEFORE, *([options.only] if options.only else TRAININGS)]
    try:
        about = {"reason_items": REASON_ITEMS, "region_items": REGION_ITEMS, "options": " ".join(COMMON)}
        about |= {name: " ".join(training.options) for name, training in TRAININGS.items()}
        about["builds"] = {
            build: models_digest([_tables(options.builds, build)]) for build in ("reason", "ultraedit")
        }
        settings = {**about, "models": models_digest((POCKET_FOLDER, POCKET_READER_FOLDER))}
        parts = run_parts(
            options.out, settings, names, lambda name: measure(name, options.builds, options.out)
        )
        assert parts is not None
        rows = figures(dict(zip(names, parts, strict=True)))
        if options.publish:
            command = command_line("tools/build_demo/training_bench.py", given, ("--builds", "--out"))
            print(publish("training_bench", "Training from built data", command, rows, about))
    except (InstructBrushError, OSError) as error:
        print(f"training_bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"methods": rows}))
    return 0


def _tables(builds: Path, build: str) -> Path:
    folder = builds / build / "data"
    if not any(folder.glob("*.parquet")):
        raise EvaluationError(f"'{folder}' holds no table. Run make bench-training, which builds it.")
    return folder


if __name__ == "__main__":
    sys.exit(main())
