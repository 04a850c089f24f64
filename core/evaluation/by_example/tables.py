"""InstructBrush's Tables 1, 2 and 4 and Visii's Table 1 from outcomes, beside the published figures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from ..metrics import mean
from ..reports.figures import Figure, MetricFigures, interval, plain_figures
from ..reports.text_table import format_table
from .methods import METHODS
from .methods.visii import FIXED_NOISE
from .published import PAPER, VISII_PAPER
from .results import Outcome

METRICS = ("psnr", "ssim", "lpips", "direction")
"""InstructBrush's."""
SIMILARITIES = ("image_similarity", "direction_similarity", "visual_similarity")
"""Visii's."""
HEADS = {
    "psnr": "PSNR ↑",
    "ssim": "SSIM ↑",
    "lpips": "LPIPS ↓",
    "direction": "Direct. ↓",
    "image_similarity": "Img ↑",
    "direction_similarity": "Direct. ↑",
    "visual_similarity": "Visual ↑",
}
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "direction": 4, **dict.fromkeys(SIMILARITIES, 3)}


def value_of(outcome: Outcome, metric: str) -> float:
    """Returns a metric's mean over the test images of an effect; nan if it was not measured."""
    value = getattr(outcome, metric)
    if value is None:
        return math.nan
    return value if isinstance(value, float) else mean(value)


def effect_means(outcomes: Sequence[Outcome], method: str, metric: str) -> dict[str, float]:
    """Returns effect -> mean of a metric over the method's seeds. Intervals are over these means."""
    values: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.method == method:
            values.setdefault(outcome.effect, []).append(value_of(outcome, metric))
    return {effect: mean(own) for effect, own in values.items()}


def method_figures(
    outcomes: Sequence[Outcome], method: str, part: str = "all", metrics: Sequence[str] = METRICS
) -> MetricFigures | None:
    """Returns a method's figures: the mean over effects and its interval, see ``effect_means``.

    Args:
        outcomes: outcomes of all methods.
        method: name of the method.
        part: ``global``, ``local`` or ``all``.
        metrics: fields of ``Outcome``.

    Returns:
        None if there is no outcome of the method in that part.
    """
    chosen = [outcome for outcome in outcomes if outcome.method == method and part in ("all", outcome.scope)]
    if not chosen:
        return None
    return {metric: interval(list(effect_means(chosen, method, metric).values())) for metric in metrics}


@dataclass(frozen=True)
class Table:
    """One of the paper's tables."""

    title: str
    rows: tuple[tuple[str, str, str], ...]
    """(part, method, the paper's name of the method in this table)."""
    needs_one_of: tuple[str, ...]
    """The table is left out if none of these methods was run."""
    metrics: tuple[str, ...] = METRICS
    published: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=lambda: PAPER)
    """(part, method) -> published value of each metric."""
    source: str = "TOP-Bench, as published"
    """What the published figures were measured on."""


_PARTS = ("global", "local", "all")
# The paper's "Ours" stands beside InstructBrush with any settings.
_PUBLISHED_AS = {"instructbrush_paper": "instructbrush", "instructbrush_paper_guided": "instructbrush"}
_ABLATIONS = (("no_attention", "w/o Attn"), ("no_time", "w/o Time"), ("no_init", "w/o Init"))


def _rows_of_all_parts(*methods: tuple[str, str]) -> tuple[tuple[str, str, str], ...]:
    return tuple((part, method, title) for part in _PARTS for method, title in methods)


_VISII_ROWS = (
    ("visii_mse_words", "1 pair, MSE, words"),
    ("visii_mse", "1 pair, MSE, caption"),
    ("visii_words", "1 pair, MSE + CLIP, words"),
    ("visii_1", "1 pair, MSE + CLIP, caption"),
    *((f"visii_{count}", f"{count} pairs, MSE + CLIP, caption") for count in (2, 3, 4)),
)


def _visii_table(noise: str, untrained: tuple[tuple[str, str], ...], ending: str) -> Table:
    learned = tuple((f"{method}{ending}", title) for method, title in _VISII_ROWS)
    return Table(
        f"Visii's Table 1, {noise}",
        tuple(("all", method, title) for method, title in (*untrained, *learned)),
        tuple(method for method, _ in learned),
        SIMILARITIES,
        VISII_PAPER,
        "Clean-InstructPix2Pix, as published",
    )


TABLES = (
    Table(
        "Table 1: Quantitative results",
        _rows_of_all_parts(
            ("words", "IP2P"),
            ("visii", "Visii"),
            ("instructbrush", "Ours"),
            ("instructbrush_paper", "Ours (paper)"),
            ("instructbrush_paper_guided", "Ours (guided)"),
        ),
        ("words", "visii", "instructbrush", "instructbrush_paper", "instructbrush_paper_guided"),
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
    _visii_table("random noise", (("words", "no training, words"), ("caption", "no training, caption")), ""),
    _visii_table("fixed noise", (), FIXED_NOISE),
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
    stored = [name for name in dict.fromkeys(each.method for each in outcomes) if name not in METHODS]
    # Without any method of the papers, stored results stand in the first table.
    first = stored if table is TABLES[0] else []
    if not any(outcome.method in (*table.needs_one_of, *first) for outcome in outcomes):
        return []
    for part, method, title in _with_stored(table.rows, stored):
        figures = method_figures(outcomes, method, part, table.metrics)
        if figures is None:
            continue
        figure_of = part, _PUBLISHED_AS.get(method, method)
        published = table.published.get(figure_of, (math.nan,) * len(table.metrics))
        rows.append(
            [
                part_name(benchmark, part) if part != last_part else "",
                title,
                *[figures[metric].show(DIGITS[metric]) for metric in table.metrics],
                *[
                    Figure(value).show(DIGITS[metric])
                    for metric, value in zip(table.metrics, published, strict=True)
                ],
            ]
        )
        last_part = part
    return rows


def _with_stored(
    rows: Sequence[tuple[str, str, str]], stored: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """The rows of a table, and in each part also a row for each stored method."""
    for part, own in groupby(rows, lambda row: row[0]):
        yield from own
        yield from ((part, name, name) for name in stored)


def text_tables(outcomes: Sequence[Outcome], benchmark: str) -> str:
    """Formats all tables as text: measured figures left of the bar, published figures right of it."""
    blocks = []
    for table in TABLES:
        rows = table_rows(table, outcomes, benchmark)
        if rows:
            heads = [HEADS[metric] for metric in table.metrics]
            blocks.append(format_table(table.title, benchmark, table.source, heads, rows))
    counts = {
        part: len({outcome.effect for outcome in outcomes if part in ("all", outcome.scope)})
        for part in _PARTS
    }
    seeds = len({outcome.seed for outcome in outcomes})
    note = (
        f"Means over {counts['all']} effect{'s' * (counts['all'] > 1)} "
        f"({counts['global']} global, {counts['local']} local), {seeds} seed{'s' * (seeds > 1)}"
    )
    note += ", ± 95 % interval over effects (seeds averaged first)." if counts["all"] > 1 else "."
    if any(outcome.lpips is None for outcome in outcomes):
        note += "\nLPIPS was not measured: AlexNet's weights were not given (--lpips)."
    with_visii = any(table_rows(table, outcomes, benchmark) for table in TABLES if table.metrics != METRICS)
    if with_visii and any(outcome.direction_similarity is None for outcome in outcomes):
        note += "\nDirectional similarity was not measured: the data set has no captions."
    return "\n\n".join([*blocks, note])


def summary(
    outcomes: Sequence[Outcome], part: str = "all", metrics: Sequence[str] = METRICS
) -> dict[str, dict[str, float | None]]:
    """Returns method -> metric -> mean over effects and seeds, see ``plain_figures``."""
    summaries = {}
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        figures = method_figures(outcomes, method, part, metrics)
        if figures is not None:
            summaries[method] = plain_figures(figures, 4)
    return summaries
