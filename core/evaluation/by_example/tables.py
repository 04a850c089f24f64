"""The papers' Tables 1, 2 and 4 from outcomes, in their layout, beside their figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..metrics import mean
from ..results import Outcome

METRICS = ("psnr", "ssim", "lpips", "direction")
HEADS = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "direction": "Direct. ↓"}
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "direction": 4}

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % points of Student's t for 1 .. 10 degrees of freedom; beyond, the normal's 1.96 is used."""

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
"""(part of the benchmark, method) -> what InstructBrush publishes for TOP-Bench, 512 px, ten pairs (one for the one-shot rows)."""


@dataclass(frozen=True)
class Figure:
    """A mean over effects and seeds, and half the width of its 95 % interval over seeds (None with a single seed)."""

    mean: float
    half_width: float | None = None

    def show(self, digits: int) -> str:
        """As in "20.68" or "20.68 ±0.12"; a dash where nothing was measured."""
        if math.isnan(self.mean):
            return "-"
        spread = "" if self.half_width is None else f" ±{self.half_width:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


Row = Mapping[str, Figure]
"""Metric -> figure."""


def value_of(outcome: Outcome, metric: str) -> float:
    """A metric of an effect: the mean over its test images; nan where it was not measured."""
    value = getattr(outcome, metric)
    if value is None:
        return math.nan
    return value if isinstance(value, float) else mean(value)


def figures(outcomes: Sequence[Outcome], method: str, part: str = "all") -> Row | None:
    """The row of a method: for every seed the mean over effects, then their mean and its interval.

    Args:
        outcomes: of all methods.
        method: which.
        part: ``global``, ``local`` or ``all``.

    Returns:
        None where there is no such outcome.
    """
    chosen = [outcome for outcome in outcomes if outcome.method == method and part in ("all", outcome.scope)]
    if not chosen:
        return None
    seeds = sorted({outcome.seed for outcome in chosen})
    return {
        metric: interval([mean([value_of(o, metric) for o in chosen if o.seed == seed]) for seed in seeds])
        for metric in METRICS
    }


def interval(values: Sequence[float]) -> Figure:
    """Mean and half the 95 % confidence interval by Student's t; no interval for a single value."""
    centre = mean(values)
    if len(values) < 2:
        return Figure(centre)
    freedom = len(values) - 1
    deviation = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / freedom)
    factor = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96
    return Figure(centre, factor * deviation / math.sqrt(len(values)))


@dataclass(frozen=True)
class Table:
    """One of the paper's tables."""

    title: str
    rows: tuple[tuple[str, str, str], ...]
    """(part, method, what the paper calls it there)."""
    about: tuple[str, ...]
    """Without any of these methods the table says nothing and is left out."""


_PARTS = ("global", "local", "all")
TABLES = (
    Table(
        "Table 1: Quantitative results",
        tuple(
            (p, m, t)
            for p in _PARTS
            for m, t in (("words", "IP2P"), ("visii", "Visii"), ("instructbrush", "Ours"))
        ),
        ("words", "visii", "instructbrush"),
    ),
    Table(
        "Table 2: Ablation study",
        tuple(
            ("all", m, t)
            for m, t in (
                ("no_attention", "w/o Attn"),
                ("no_time", "w/o Time"),
                ("no_init", "w/o Init"),
                ("instructbrush", "Ours"),
            )
        ),
        ("no_attention", "no_time", "no_init"),
    ),
    Table(
        "Table 4: Quantitative results for one-shot",
        tuple(
            (p, m, t)
            for p in _PARTS
            for m, t in (("words", "IP2P"), ("visii_one_shot", "Visii"), ("one_shot", "Ours"))
        ),
        ("visii_one_shot", "one_shot"),
    ),
)


def part_name(benchmark: str, part: str) -> str:
    """What the paper calls a part: "TOP-Global", "TOP-Local", "TOP-Bench", and the like for another benchmark."""
    return (
        benchmark
        if part == "all"
        else f"{benchmark.removesuffix('Bench').removesuffix('-')}-{part.capitalize()}"
    )


def lines_of(table: Table, outcomes: Sequence[Outcome], benchmark: str) -> list[list[str]]:
    """Cells of a table's rows, those that were run: dataset, method, four figures, and the paper's four."""
    lines, last = [], ""
    if not any(outcome.method in table.about for outcome in outcomes):
        return []
    for part, method, title in table.rows:
        row = figures(outcomes, method, part)
        if row is None:
            continue
        published = PAPER.get((part, method), (math.nan,) * 4)
        paper = [Figure(value).show(DIGITS[metric]) for metric, value in zip(METRICS, published, strict=True)]
        lines.append(
            [
                part_name(benchmark, part) if part != last else "",
                title,
                *[row[metric].show(DIGITS[metric]) for metric in METRICS],
                *paper,
            ]
        )
        last = part
    return lines


def side_by_side(
    title: str, left: str, right: str, heads: Sequence[str], lines: Sequence[Sequence[str]]
) -> str:
    """A table as text, its two halves beside a bar: what was measured left of it and what a paper prints right of it, or two parts of a benchmark.

    Args:
        title: above it.
        left, right: names of the two halves.
        heads: of the figures, the same in both halves.
        lines: cells, as :func:`lines_of` gives them.
    """
    top = ["Datasets", "Method", *heads, *heads]
    cut = 2 + len(heads)
    widths = [max(len(line[column]) for line in [top, *lines]) for column in range(len(top))]

    def show(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned[:cut]) + "  |  " + "  ".join(aligned[cut:])

    here = len("  ".join(" " * width for width in widths[:cut]))
    return "\n".join([title, f"{left:>{here}}  |  {right}", show(top), *map(show, lines)])


def text_tables(outcomes: Sequence[Outcome], benchmark: str) -> str:
    """All tables as text, what was measured left of the bar and what the paper prints right of it."""
    blocks = []
    for table in TABLES:
        lines = lines_of(table, outcomes, benchmark)
        if not lines:
            continue
        blocks.append(
            side_by_side(table.title, benchmark, "TOP-Bench, as published", list(HEADS.values()), lines)
        )
    counts = {part: len({o.effect for o in outcomes if part in ("all", o.scope)}) for part in _PARTS}
    seeds = len({outcome.seed for outcome in outcomes})
    note = f"Means over {counts['all']} effect{'s' * (counts['all'] > 1)} ({counts['global']} global, {counts['local']} local), {seeds} seed{'s' * (seeds > 1)}"
    note += ", ± 95 % interval over seeds." if seeds > 1 else "."
    if any(outcome.lpips is None for outcome in outcomes):
        note += "\nLPIPS was not measured: AlexNet's weights were not given (--lpips)."
    return "\n\n".join([*blocks, note])


def summary(outcomes: Sequence[Outcome], part: str = "all") -> dict[str, dict[str, float | None]]:
    """Method -> metric -> mean over effects and seeds, None where it was not measured; with several seeds also ``psnr_ci95`` and so on."""
    found: dict[str, dict[str, float | None]] = {}
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        row = figures(outcomes, method, part)
        if row is None:
            continue
        found[method] = {
            metric: None if math.isnan(row[metric].mean) else round(row[metric].mean, 4) for metric in METRICS
        }
        for metric in METRICS:
            width = row[metric].half_width
            if width is not None and not math.isnan(width):
                found[method][f"{metric}_ci95"] = round(width, 4)
    return found
