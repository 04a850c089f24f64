"""Data sets of ``bench`` whose methods learn from pairs: TOP-Bench, Clean-InstructPix2Pix and PPR10K."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..core.evaluation.by_example.datasets.clean_ip2p import DIRECTIONS, HELD_OUT, read_clean_ip2p
from ..core.evaluation.by_example.datasets.effect_files import EffectFiles
from ..core.evaluation.by_example.datasets.ppr10k import read_ppr10k
from ..core.evaluation.by_example.datasets.top_bench import TABLE_3, read_top_bench
from ..core.evaluation.by_example.effects import TEST_PAIRS, TRAIN_PAIRS
from ..core.evaluation.by_example.methods import DEFAULT_METHODS, METHODS
from ..core.evaluation.by_example.methods.visii import FIXED_NOISE
from .terminal import say

TOP_BENCH, CLEAN_IP2P, PPR10K = "top-bench", "clean-ip2p", "ppr10k"
PAIR_BENCHMARKS = (TOP_BENCH, CLEAN_IP2P, PPR10K)

_ONE_PAIR_ROWS = ("visii_mse_words", "visii_mse", "visii_words", "visii_1")
_METHODS = {
    # With both methods of Table 4 that learn from one pair.
    TOP_BENCH: (*DEFAULT_METHODS, "visii_one_shot"),
    # The methods of Visii's Table 1 that need one pair.
    CLEAN_IP2P: ("words", "caption", *_ONE_PAIR_ROWS, *(f"{name}{FIXED_NOISE}" for name in _ONE_PAIR_ROWS)),
    PPR10K: ("words", "visii", "instructbrush"),
}


@dataclass(frozen=True)
class PairBenchmark:
    """What ``bench`` found in a folder."""

    name: str
    sources: tuple[EffectFiles, ...]
    data: str
    """Identifies the images, see ``run`` in core/evaluation/runner.py."""


def default_methods(benchmark: str) -> list[str]:
    """Returns the methods that run without ``--methods``."""
    return list(_METHODS[benchmark])


def read_pairs(options: argparse.Namespace) -> PairBenchmark:
    """Reads the data set of ``options.benchmark``.

    Raises:
        EvaluationError: see ``read_top_bench``, ``read_clean_ip2p`` and ``read_ppr10k``.
    """
    side = options.size or None
    where = f"{Path(options.data).resolve()} at {side or 'own'} px"
    # Stored results are no methods of the pack, and learn from nothing here.
    least = max((METHODS[name].pairs for name in options.methods if name in METHODS), default=1)
    if options.benchmark == CLEAN_IP2P:
        directions = DIRECTIONS if options.directions is None else options.directions or None
        held_out = HELD_OUT if options.held_out is None else options.held_out
        sources = read_clean_ip2p(options.data, side, directions=directions, held_out=held_out, least=least)
        chosen = f"{directions or 'all'} directions of at least {least} + {held_out} pairs"
        return PairBenchmark("Clean-InstructPix2Pix", sources, f"{where}, {chosen}")
    if options.benchmark == PPR10K:
        train = TRAIN_PAIRS if options.train_pairs is None else options.train_pairs
        test = TEST_PAIRS if options.test_pairs is None else options.test_pairs
        sources = read_ppr10k(options.data, side, train_pairs=train, test_pairs=test)
        return PairBenchmark("PPR10K", sources, f"{where}, {train} + {test} pairs")
    sources = read_top_bench(options.data, side)
    if len(sources) < len(TABLE_3):
        say(f"{len(sources)} of TOP-Bench's {len(TABLE_3)} effects were found.")
    return PairBenchmark("TOP-Bench", sources, where)


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of Clean-InstructPix2Pix and PPR10K."""
    group = parser.add_argument_group("Clean-InstructPix2Pix and PPR10K")
    group.add_argument(
        "--directions",
        type=int,
        metavar="N",
        help="Clean-InstructPix2Pix: editing directions that are drawn; 0 takes all (default "
        f"{DIRECTIONS}, as in Visii's Table 1; its Fig. 7 has 300)",
    )
    group.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="Clean-InstructPix2Pix: the last N pairs of each direction are for testing, the others for "
        f"training; 0 tests on the training pairs (default {HELD_OUT})",
    )
    group.add_argument(
        "--train-pairs",
        type=int,
        metavar="N",
        help=f"PPR10K: photos to learn from, each of another group (default {TRAIN_PAIRS})",
    )
    group.add_argument(
        "--test-pairs",
        type=int,
        metavar="N",
        help=f"PPR10K: photos to test on, each of another group (default {TEST_PAIRS})",
    )
