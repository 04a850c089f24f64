"""InstructBrush's Tables 1, 2 and 4 from outcomes, beside the published figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..metrics import mean
from ..reports.figures import Figure, MetricFigures, interval, plain_figures
from ..reports.text_table import format_table
from .results import Outcome

METRICS = ("psnr", "ssim", "lpips", "direction")
HEADS = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "direction": "Direct. ↓"}
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "direction": 4}

Published = tuple[float, float, float, float]
"""PSNR, SSIM, LPIPS-Alex, Direction."""

PAPER: Mapping[tuple[str, str], Published] = {
    ("global", "words"): (16.10, 0.5467, 0.2810, 0.2997),
    ("global", "visii"): (15.87, 0.4947, 0.3866, 0.3938),
    ("global", "instructbrush"): (18.66, 0.5842, 0.2526, 0.2798),
    ("global", "visii_one_shot"): (16.01, 0.5071, 0.3692, 0.2909),
    ("global", "one_shot"): (17.79, 0.5761, 0.2748, 0.3008),
    ("local", "words"): (20.12, 0.7701, 0.1648, 0.5236),
    ("local", "visii"): (18.76, 0.7157, 0.2585, 0.2560),
    ("local", "instructbrush"): (23.26, 0.8297, 0.1143, 0.3576),
    ("local", "visii_one_shot"): (19.73, 0.7293, 0.2309, 0.5736),
    ("local", "one_shot"): (23.08, 0.8270, 0.1172, 0.4790),
    ("all", "words"): (17.87, 0.6450, 0.2298, 0.3982),
    ("all", "visii"): (17.14, 0.5919, 0.3303, 0.3332),
    ("all", "instructbrush"): (20.68, 0.6922, 0.1918, 0.3140),
    ("all", "visii_one_shot"): (17.65, 0.6049, 0.3083, 0.4153),
    ("all", "one_shot"): (20.11, 0.6865, 0.2055, 0.3792),
    ("all", "no_attention"): (19.56, 0.6709, 0.2179, 0.3124),
    ("all", "no_time"): (19.64, 0.6656, 0.2271, 0.2910),
    ("all", "no_init"): (20.22, 0.6841, 0.2018, 0.3747),
}
"""(part of the benchmark, method) -> InstructBrush's published figures for TOP-Bench.

512 px, ten training pairs; one pair for the one-shot rows.
"""


def value_of(outcome: Outcome, metric: str) -> float:
    """Returns a metric's mean over the test images of an effect; nan if it was not measured."""
    value = getattr(outcome, metric)
    if value is None:
        return math.nan
    return value if isinstance(value, float) else mean(value)


def method_figures(outcomes: Sequence[Outcome], method: str, part: str = "all") -> MetricFigures | None:
    """Returns a method's figures: for each seed the mean over effects, then mean and interval over seeds.

    Args:
        outcomes: outcomes of all methods.
        method: name of the method.
        part: ``global``, ``local`` or ``all``.

    Returns:
        None if there is no outcome of the method in that part.
    """
    chosen = [outcome for outcome in outcomes if outcome.method == method and part in ("all", outcome.scope)]
    if not chosen:
        return None
    seeds = sorted({outcome.seed for outcome in chosen})

    def mean_of_seed(metric: str, seed: int) -> float:
        return mean([value_of(outcome, metric) for outcome in chosen if outcome.seed == seed])

    return {metric: interval([mean_of_seed(metric, seed) for seed in seeds]) for metric in METRICS}


@dataclass(frozen=True)
class Table:
    """One of the paper's tables."""

    title: str
    rows: tuple[tuple[str, str, str], ...]
    """(part, method, the paper's name of the method in this table)."""
    needs_one_of: tuple[str, ...]
    """The table is left out if none of these methods was run."""


_PARTS = ("global", "local", "all")
_ABLATIONS = (("no_attention", "w/o Attn"), ("no_time", "w/o Time"), ("no_init", "w/o Init"))


def _rows_of_all_parts(*methods: tuple[str, str]) -> tuple[tuple[str, str, str], ...]:
    return tuple((part, method, title) for part in _PARTS for method, title in methods)


TABLES = (
    Table(
        "Table 1: Quantitative results",
        _rows_of_all_parts(("words", "IP2P"), ("visii", "Visii"), ("instructbrush", "Ours")),
        ("words", "visii", "instructbrush"),
    ),
    Table(
        "Table 2: Ablation study",
        tuple(("all", method, title) for method, title in (*_ABLATIONS, ("instructbrush", "Ours"))),
        ("no_attention", "no_time", "no_init"),
    ),
    Table(
        "Table 4: Quantitative results for one-shot",
        _rows_of_all_parts(("words", "IP2P"), ("visii_one_shot", "Visii"), ("one_shot", "Ours")),
        ("visii_one_shot", "one_shot"),
    ),
)


def part_name(benchmark: str, part: str) -> str:
    """Returns the paper's name of a part, such as "TOP-Global", "TOP-Local" and "TOP-Bench"."""
    if part == "all":
        return benchmark
    return f"{benchmark.removesuffix('Bench').removesuffix('-')}-{part.capitalize()}"


def table_rows(table: Table, outcomes: Sequence[Outcome], benchmark: str) -> list[list[str]]:
    """Returns the cells of the rows that were run: data set, method, measured figures, published figures."""
    rows = []
    last_part = ""
    if not any(outcome.method in table.needs_one_of for outcome in outcomes):
        return []
    for part, method, title in table.rows:
        figures = method_figures(outcomes, method, part)
        if figures is None:
            continue
        published = PAPER.get((part, method), (math.nan,) * 4)
        rows.append(
            [
                part_name(benchmark, part) if part != last_part else "",
                title,
                *[figures[metric].show(DIGITS[metric]) for metric in METRICS],
                *[
                    Figure(value).show(DIGITS[metric])
                    for metric, value in zip(METRICS, published, strict=True)
                ],
            ]
        )
        last_part = part
    return rows


def text_tables(outcomes: Sequence[Outcome], benchmark: str) -> str:
    """Formats all tables as text: measured figures left of the bar, published figures right of it."""
    blocks = []
    for table in TABLES:
        rows = table_rows(table, outcomes, benchmark)
        if rows:
            blocks.append(
                format_table(table.title, benchmark, "TOP-Bench, as published", list(HEADS.values()), rows)
            )
    counts = {
        part: len({outcome.effect for outcome in outcomes if part in ("all", outcome.scope)})
        for part in _PARTS
    }
    seeds = len({outcome.seed for outcome in outcomes})
    note = (
        f"Means over {counts['all']} effect{'s' * (counts['all'] > 1)} "
        f"({counts['global']} global, {counts['local']} local), {seeds} seed{'s' * (seeds > 1)}"
    )
    note += ", ± 95 % interval over seeds." if seeds > 1 else "."
    if any(outcome.lpips is None for outcome in outcomes):
        note += "\nLPIPS was not measured: AlexNet's weights were not given (--lpips)."
    return "\n\n".join([*blocks, note])


def summary(outcomes: Sequence[Outcome], part: str = "all") -> dict[str, dict[str, float | None]]:
    """Returns method -> metric -> mean over effects and seeds, see ``plain_figures``."""
    summaries = {}
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        figures = method_figures(outcomes, method, part)
        if figures is not None:
            summaries[method] = plain_figures(figures, 4)
    return summaries
