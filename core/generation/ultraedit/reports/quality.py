"""UltraEdit's Table 6: mean scores per task, beside the published ones of UltraEdit and InstructPix2Pix."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ....errors import DataError, EvaluationError, PairError
from ....evaluation.metrics import mean
from ....evaluation.reports.text_table import aligned_table
from ...scoring import CLIP_DIRECTION, CLIP_IMAGE, CLIP_IN, CLIP_OUT, DINO, SSIM, TITLES, PairScorer
from ..edit_types import edit_type
from ..regions import FREE_FORM, REGION
from .edit_tables import TableEdit

COLUMNS = (CLIP_IN, CLIP_OUT, CLIP_DIRECTION, CLIP_IMAGE, SSIM, DINO)
TASKS = ("change", "transform", "turn", "add", "replace", "others", "overall")

# The supplement's Table 6, in the order of ``COLUMNS``. It has no row for replace.
PUBLISHED: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "UltraEdit": {
        "change": (0.2849, 0.3024, 0.2967, 0.8441, 0.6360, 0.7403),
        "transform": (0.2851, 0.3005, 0.2902, 0.8289, 0.6251, 0.6875),
        "turn": (0.2846, 0.3018, 0.2922, 0.8321, 0.6255, 0.6949),
        "add": (0.2786, 0.3145, 0.2957, 0.8661, 0.6645, 0.7758),
        "others": (0.2843, 0.3038, 0.2981, 0.8374, 0.6420, 0.7048),
        "overall": (0.2834, 0.3049, 0.2950, 0.8427, 0.6401, 0.7231),
    },
    "InstructPix2Pix": {
        "change": (0.2667, 0.2661, 0.2317, 0.8557, 0.5685, 0.6194),
        "transform": (0.2646, 0.2680, 0.1974, 0.8667, 0.5853, 0.6972),
        "turn": (0.2654, 0.2698, 0.2015, 0.8575, 0.5526, 0.6419),
        "add": (0.2629, 0.2744, 0.1990, 0.8851, 0.6318, 0.7026),
        "others": (0.2657, 0.2706, 0.1929, 0.8629, 0.5734, 0.6847),
        "overall": (0.2650, 0.2694, 0.1982, 0.8660, 0.5826, 0.6859),
    },
}


@dataclass(frozen=True)
class Quality:
    """Mean scores of a task."""

    edits: int
    means: Mapping[str, float]
    """Mean of each score of ``COLUMNS``; nan without values."""


def task_of(instruction: str) -> str:
    """Returns the task of an instruction: the first word of its type."""
    return edit_type(instruction).split()[0]


def quality_of(
    edits: Iterable[TableEdit],
    scorer: PairScorer | None = None,
    skipped: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Quality]:
    """Returns the mean scores of each task in ``TASKS`` that has edits.

    As the paper's table, it takes free-form edits alone; region edits only where there are no others.

    Args:
        edits: with images if there is a scorer.
        scorer: computes all scores anew; None takes the stored ones.
        skipped: called with a sentence for each edit whose images cannot be compared.
    """
    values: dict[str, dict[str, list[Mapping[str, float | None]]]] = {
        kind: {task: [] for task in TASKS} for kind in (FREE_FORM, REGION)
    }
    for edit in edits:
        scores: Mapping[str, float | None] = edit.scores
        if scorer is not None:
            try:
                (scores,) = scorer.score([edit.images()], edit.source_caption, edit.target_caption)
            except (DataError, PairError, EvaluationError) as error:
                skipped(str(error))
                continue
        for task in (task_of(edit.instruction), "overall"):
            values[edit.data_type][task].append(scores)
    counted = values[FREE_FORM] if values[FREE_FORM]["overall"] else values[REGION]
    return {task: _quality(each) for task, each in counted.items() if each}


def _quality(scores: list[Mapping[str, float | None]]) -> Quality:
    columns = {name: [value for each in scores if (value := each.get(name)) is not None] for name in COLUMNS}
    return Quality(len(scores), {name: mean(values) for name, values in columns.items()})


def table_6(quality: Mapping[str, Quality], name: str = "this") -> list[tuple[str, ...]]:
    """Returns the rows of Table 6: task, data set, number of edits, scores. The published ones follow."""
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        if task in quality:
            own = quality[task]
            rows.append((task, name, str(own.edits), *(_number(own.means[each]) for each in COLUMNS)))
            for other, figures in PUBLISHED.items():
                if task in figures:
                    rows.append((task, other, "", *map(_number, figures[task])))
    return rows


def table_6_text(quality: Mapping[str, Quality], name: str = "this") -> str:
    """Returns Table 6 as text."""
    heads = ("task", "data set", "edits", *(TITLES[each] for each in COLUMNS))
    return aligned_table(heads, table_6(quality, name))


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
