"""Tables of MagicBrush, Emu Edit Test and reasoning instructions, beside the published figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..metrics import mean
from ..reports.figures import Figure, MetricFigures, interval, plain_figures
from ..reports.text_table import format_table
from .methods import title_of
from .results import Score

DIGITS = 4


@dataclass(frozen=True)
class BenchmarkPart:
    """A part of a benchmark: the images of a score that its figures average."""

    title: str
    images: Callable[[Score], Sequence[int]]
    """Score -> indices of its images."""


@dataclass(frozen=True)
class ItemBenchmark:
    """The table of a benchmark and its published figures."""

    name: str
    title: str
    """Title of the table."""
    metrics: Mapping[str, str]
    """Field of ``Score`` -> head of the column."""
    parts: Mapping[str, BenchmarkPart]
    paper: Mapping[tuple[str, str], tuple[float, ...]]
    """(part, method) -> published figures in the order of ``metrics``.

    With ``side_by_side`` the method is the paper's name of it.
    """
    published: str
    """Head of the published figures."""
    about: str
    """Note on the published figures for the report."""
    side_by_side: bool = False
    """Whether the two parts are columns and the published figures are rows below them.

    Otherwise the parts are rows and the published figures are columns beside them.
    """

    @property
    def halves(self) -> tuple[str, str]:
        """Heads of the left and the right half of the table."""
        if not self.side_by_side:
            return self.name, self.published
        left, right = self.parts.values()
        return left.title, right.title


MAGICBRUSH = ItemBenchmark(
    name="MagicBrush",
    title="Results on MagicBrush",
    metrics={"l1": "L1 ↓", "l2": "L2 ↓", "clip_i": "CLIP-I ↑", "dino": "DINO ↑", "clip_t": "CLIP-T ↑"},
    parts={
        # Single-turn: every turn has the same weight. Multi-turn: the last image of every session.
        "single": BenchmarkPart("Single-turn", lambda score: range(score.turns)),
        "multi": BenchmarkPart("Multi-turn", lambda score: [len(score.l1) - 1]),
    },
    paper={
        ("single", "words"): (0.1122, 0.0371, 0.8524, 0.7428, 0.2764),
        ("multi", "words"): (0.1584, 0.0598, 0.7924, 0.6177, 0.2726),
    },
    published="MagicBrush test, as published",
    about="The paper's figures are InstructPix2Pix's on the test split (MagicBrush, Table 2), with CLIP "
    "ViT-B/32 and DINO ViT-S/16.",
)
EMU_EDIT = ItemBenchmark(
    name="Emu Edit Test",
    title="Results on Emu Edit Test",
    metrics={
        "clip_dir": "CLIPdir ↑",
        "clip_t": "CLIPout ↑",
        "l1": "L1 ↓",
        "clip_i": "CLIPim ↑",
        "dino": "DINO ↑",
    },
    parts={
        "captioned": BenchmarkPart(
            "Sound captions", lambda score: range(score.turns) if score.clip_dir[0] is not None else ()
        ),
        "all": BenchmarkPart("All rows", lambda score: range(score.turns)),
    },
    paper={("all", "words"): (0.078, 0.219, 0.121, 0.834, 0.762)},
    published="Emu Edit Test, as published",
    about="The paper's figures are InstructPix2Pix's (Emu Edit, quantitative comparison); the paper names "
    "neither its CLIP nor its DINO. UltraEdit measures only the rows with sound captions, with CLIP ViT-B/32 "
    "and DINO ViT-S/16.",
)
REASON = ItemBenchmark(
    name="Reasoning",
    title="Results on direct and reasoning instructions",
    metrics=MAGICBRUSH.metrics,
    parts={
        "direct": BenchmarkPart(
            "Direct instruction", lambda score: range(score.turns) if score.scope == "direct" else ()
        ),
        "reasoning": BenchmarkPart(
            "Reasoning instruction", lambda score: range(score.turns) if score.scope == "reasoning" else ()
        ),
    },
    paper={
        ("direct", "Null-text"): (0.0931, 0.0354, 0.8542, 0.8036, 0.2479),
        ("direct", "InstructPix2Pix"): (0.1265, 0.0423, 0.8042, 0.7256, 0.2465),
        ("direct", "MagicBrush"): (0.0706, 0.0247, 0.9127, 0.8745, 0.2568),
        ("direct", "EDICT"): (0.1149, 0.0385, 0.8137, 0.7485, 0.2490),
        ("direct", "InstructDiffusion"): (0.0824, 0.0295, 0.8873, 0.8461, 0.2506),
        ("direct", "ReasonPix2Pix"): (0.0646, 0.0203, 0.9246, 0.8920, 0.2553),
        ("reasoning", "Null-text"): (0.2637, 0.1165, 0.6326, 0.5249, 0.1706),
        ("reasoning", "InstructPix2Pix"): (0.2984, 0.1385, 0.6034, 0.5142, 0.1629),
        ("reasoning", "MagicBrush"): (0.2239, 0.0938, 0.6755, 0.6125, 0.1941),
        ("reasoning", "EDICT"): (0.2753, 0.1296, 0.6282, 0.5526, 0.1703),
        ("reasoning", "InstructDiffusion"): (0.2145, 0.0863, 0.6904, 0.6375, 0.2046),
        ("reasoning", "ReasonPix2Pix"): (0.1347, 0.0476, 0.7824, 0.7216, 0.2350),
    },
    published="As published",
    about="The paper's figures are from ReasonPix2Pix, Table 3, on its own unpublished photographs; the "
    "paper names neither its CLIP nor its DINO.",
    side_by_side=True,
)


def value_of(score: Score, metric: str, images: Sequence[int]) -> list[float]:
    """Returns a metric of the given images, without the images it was not measured for."""
    values = getattr(score, metric)
    return [] if values is None else [values[index] for index in images if values[index] is not None]


def method_figures(
    scores: Sequence[Score], benchmark: ItemBenchmark, method: str, part: str
) -> MetricFigures | None:
    """Returns a method's figures: for each seed the mean over images, then mean and interval over seeds.

    Returns:
        None if the part has no images of the method.
    """
    images_of = benchmark.parts[part].images
    chosen = [(score, images_of(score)) for score in scores if score.method == method]
    if not any(images for _, images in chosen):
        return None
    seeds = sorted({score.seed for score, _ in chosen})

    def mean_of_seed(metric: str, seed: int) -> float:
        values: list[float] = []
        for score, images in chosen:
            if score.seed == seed:
                values.extend(value_of(score, metric, images))
        return mean(values)

    return {metric: interval([mean_of_seed(metric, seed) for seed in seeds]) for metric in benchmark.metrics}


def table_rows(scores: Sequence[Score], benchmark: ItemBenchmark) -> list[list[str]]:
    """Returns the cells of the table's rows.

    Parts below each other: part, method, measured figures, published figures.
    Parts side by side: whose figures they are, method, figures of both parts.
    """
    if benchmark.side_by_side:
        return _rows_side_by_side(scores, benchmark)
    rows = []
    for part_name, part in benchmark.parts.items():
        title = part.title
        for method in dict.fromkeys(score.method for score in scores):
            figures = method_figures(scores, benchmark, method, part_name)
            if figures is None:
                continue
            published = benchmark.paper.get((part_name, method), (math.nan,) * len(benchmark.metrics))
            measured = [figures[metric].show(DIGITS) for metric in benchmark.metrics]
            # str keeps the number of digits that the paper prints.
            paper = ["-" if math.isnan(value) else str(value) for value in published]
            rows.append([title, title_of(method), *measured, *paper])
            title = ""
    return rows


def _rows_side_by_side(scores: Sequence[Score], benchmark: ItemBenchmark) -> list[list[str]]:
    rows = []
    not_measured = dict.fromkeys(benchmark.metrics, Figure(math.nan))
    owner = benchmark.name
    for method in dict.fromkeys(score.method for score in scores):
        cells = [owner, title_of(method)]
        for part in benchmark.parts:
            figures = method_figures(scores, benchmark, method, part) or not_measured
            cells.extend(figures[metric].show(DIGITS) for metric in benchmark.metrics)
        rows.append(cells)
        owner = ""
    owner = benchmark.published
    for name in dict.fromkeys(name for _, name in benchmark.paper):
        cells = [owner, name]
        for part in benchmark.parts:
            cells.extend(f"{value:.{DIGITS}f}" for value in benchmark.paper[part, name])
        rows.append(cells)
        owner = ""
    return rows


def text_table(scores: Sequence[Score], benchmark: ItemBenchmark, remarks: Sequence[str] = ()) -> str:
    """Formats the table as text, with notes on its figures below it."""
    items = max(
        len({score.item for score in scores if part.images(score)}) for part in benchmark.parts.values()
    )
    seeds = len({score.seed for score in scores})
    note = f"Means over {items} item{'s' * (items > 1)}, {seeds} seed{'s' * (seeds > 1)}"
    notes = [note + (", ± 95 % interval over seeds." if seeds > 1 else "."), *remarks]
    if any(score.dino is None for score in scores):
        notes.append("DINO was not measured: no model was given (--dino).")
    left, right = benchmark.halves
    rows = table_rows(scores, benchmark)
    table = format_table(benchmark.title, left, right, list(benchmark.metrics.values()), rows)
    return "\n".join([table, "", *notes])


def summary(
    scores: Sequence[Score], benchmark: ItemBenchmark
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Returns part -> method -> metric -> mean, see ``plain_figures``."""
    summaries: dict[str, dict[str, dict[str, float | None]]] = {}
    for part in benchmark.parts:
        summaries[part] = {}
        for method in dict.fromkeys(score.method for score in scores):
            figures = method_figures(scores, benchmark, method, part)
            if figures is not None:
                summaries[part][method] = plain_figures(figures, 6)
    return summaries
