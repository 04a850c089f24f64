"""Tables of benchmarks of items in the papers' layout, beside the papers' figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..by_example.tables import Figure, Row, interval, side_by_side
from ..metrics import mean
from .items import Score
from .methods import ITEM_METHODS

DIGITS = 4


@dataclass(frozen=True)
class Part:
    """A block of a table's rows: which images of a score it averages."""

    title: str
    images: Callable[[Score], Sequence[int]]


@dataclass(frozen=True)
class ItemBenchmark:
    """What is printed of a benchmark."""

    name: str
    title: str
    """Of its table."""
    metrics: Mapping[str, str]
    """Field of :class:`~.items.Score` -> column."""
    parts: Mapping[str, Part]
    paper: Mapping[tuple[str, str], tuple[float, ...]]
    """(part, method) -> published figures, in the order of ``metrics``; where parts stand side by side the paper's own name of the method."""
    published: str
    """Where they come from."""
    about: str
    """One sentence on those figures for the report."""
    across: bool = False
    """Whether the two parts stand side by side and the paper's rows below; otherwise parts stand below each other and the paper's figures beside them."""

    @property
    def halves(self) -> tuple[str, str]:
        """What stands left and right in the table."""
        left, right = (
            (part.title for part in self.parts.values()) if self.across else (self.name, self.published)
        )
        return left, right


MAGICBRUSH = ItemBenchmark(
    name="MagicBrush",
    title="Results on MagicBrush",
    metrics={"l1": "L1 ↓", "l2": "L2 ↓", "clip_i": "CLIP-I ↑", "dino": "DINO ↑", "clip_t": "CLIP-T ↑"},
    parts={
        # All turns count alike, whatever session they are of; a session's end counts once, that of a single turn too.
        "single": Part("Single-turn", lambda score: range(score.turns)),
        "multi": Part("Multi-turn", lambda score: [len(score.l1) - 1]),
    },
    paper={
        ("single", "words"): (0.1122, 0.0371, 0.8524, 0.7428, 0.2764),
        ("multi", "words"): (0.1584, 0.0598, 0.7924, 0.6177, 0.2726),
    },
    published="MagicBrush test, as published",
    about="The paper's figures are InstructPix2Pix's on the test split (MagicBrush, Table 2), with CLIP ViT-B/32 and DINO ViT-S/16.",
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
        "captioned": Part(
            "Sound captions", lambda score: range(score.turns) if score.clip_dir[0] is not None else ()
        ),
        "all": Part("All rows", lambda score: range(score.turns)),
    },
    paper={("all", "words"): (0.078, 0.219, 0.121, 0.834, 0.762)},
    published="Emu Edit Test, as published",
    about="The paper's figures are InstructPix2Pix's (Emu Edit, quantitative comparison); it names neither its CLIP nor its DINO. "
    "UltraEdit measures the rows with sound captions alone, with CLIP ViT-B/32 and DINO ViT-S/16.",
)
REASON = ItemBenchmark(
    name="Reasoning",
    title="Results on direct and reasoning instructions",
    metrics=MAGICBRUSH.metrics,
    parts={
        "direct": Part(
            "Direct instruction", lambda score: range(score.turns) if score.scope == "direct" else ()
        ),
        "reasoning": Part(
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
    about="The paper's figures are those of ReasonPix2Pix, Table 3, on photographs of its own that are unpublished; it names neither its CLIP nor its DINO.",
    across=True,
)


def value_of(score: Score, metric: str, images: Sequence[int]) -> list[float]:
    """A metric of some images, without those it was not measured for."""
    values = getattr(score, metric)
    return [] if values is None else [values[index] for index in images if values[index] is not None]


def figures(scores: Sequence[Score], benchmark: ItemBenchmark, method: str, part: str) -> Row | None:
    """The row of a method: for every seed the mean over images, then their mean and its interval; None where there is no image."""
    chosen = [(score, benchmark.parts[part].images(score)) for score in scores if score.method == method]
    if not any(images for _, images in chosen):
        return None
    seeds = sorted({score.seed for score, _ in chosen})
    return {
        metric: interval(
            [
                mean(
                    [
                        value
                        for score, images in chosen
                        if score.seed == seed
                        for value in value_of(score, metric, images)
                    ]
                )
                for seed in seeds
            ]
        )
        for metric in benchmark.metrics
    }


def lines_of(scores: Sequence[Score], benchmark: ItemBenchmark) -> list[list[str]]:
    """Cells of the table's rows: part, method, figures, and the paper's; of parts side by side: whose figures, method, figures of both parts."""
    if benchmark.across:
        return _lines_across(scores, benchmark)
    lines = []
    for part, block in benchmark.parts.items():
        title = block.title
        for method in dict.fromkeys(score.method for score in scores):
            row = figures(scores, benchmark, method, part)
            if row is None:
                continue
            published = benchmark.paper.get((part, method), (math.nan,) * len(benchmark.metrics))
            measured = [row[metric].show(DIGITS) for metric in benchmark.metrics]
            # As many digits as the paper prints.
            paper = ["-" if math.isnan(value) else str(value) for value in published]
            lines.append([title, ITEM_METHODS[method].title, *measured, *paper])
            title = ""
    return lines


def _lines_across(scores: Sequence[Score], benchmark: ItemBenchmark) -> list[list[str]]:
    lines, nothing = [], dict.fromkeys(benchmark.metrics, Figure(math.nan))
    for method in dict.fromkeys(score.method for score in scores):
        rows = [figures(scores, benchmark, method, part) or nothing for part in benchmark.parts]
        own = benchmark.name if not lines else ""
        lines.append(
            [
                own,
                ITEM_METHODS[method].title,
                *(row[metric].show(DIGITS) for row in rows for metric in benchmark.metrics),
            ]
        )
    theirs = benchmark.published
    for name in dict.fromkeys(name for _, name in benchmark.paper):
        lines.append(
            [
                theirs,
                name,
                *(f"{value:.{DIGITS}f}" for part in benchmark.parts for value in benchmark.paper[part, name]),
            ]
        )
        theirs = ""
    return lines


def text_table(scores: Sequence[Score], benchmark: ItemBenchmark, remarks: Sequence[str] = ()) -> str:
    """The table as text and what must be known about it."""
    items = max(
        len({score.item for score in scores if part.images(score)}) for part in benchmark.parts.values()
    )
    seeds = len({score.seed for score in scores})
    note = f"Means over {items} item{'s' * (items > 1)}, {seeds} seed{'s' * (seeds > 1)}"
    notes = [note + (", ± 95 % interval over seeds." if seeds > 1 else "."), *remarks]
    if any(score.dino is None for score in scores):
        notes.append("DINO was not measured: no model was given (--dino).")
    table = side_by_side(
        benchmark.title, *benchmark.halves, list(benchmark.metrics.values()), lines_of(scores, benchmark)
    )
    return "\n".join([table, "", *notes])


def summary(
    scores: Sequence[Score], benchmark: ItemBenchmark
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Part -> method -> metric -> mean, None where it was not measured; with several seeds also ``l1_ci95`` and so on."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for part in benchmark.parts:
        found[part] = {}
        for method in dict.fromkeys(score.method for score in scores):
            row = figures(scores, benchmark, method, part)
            if row is not None:
                found[part][method] = _plain(row)
    return found


def _plain(row: Mapping[str, Figure]) -> dict[str, float | None]:
    plain: dict[str, float | None] = {
        metric: None if math.isnan(figure.mean) else round(figure.mean, 6) for metric, figure in row.items()
    }
    widths = {f"{metric}_ci95": figure.half_width for metric, figure in row.items()}
    return plain | {
        name: round(width, 6) for name, width in widths.items() if width is not None and not math.isnan(width)
    }
