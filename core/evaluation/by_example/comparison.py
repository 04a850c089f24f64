"""Methods compared over the same effects: intervals, the gain over InstructBrush, and what learning costs."""

import math
from collections.abc import Sequence
from typing import Any

from ..metrics import mean
from ..reports.figures import Figure, interval, plain_figures
from ..reports.text_table import aligned_table
from .results import Outcome
from .tables import DIGITS, HEADS, METRICS, method_figures, value_of

BASE = "instructbrush"
"""The method that the others are compared with."""

COSTS = {"learning_seconds": "seconds", "file_bytes": "bytes", "damage": "damage"}
"""Field of ``Outcome`` -> its name in results."""

_GAINS = ("psnr", "lpips")
_COST_HEADS = ("effects", "seeds", "learning, s", "file, KB", "damage")


def gain(outcomes: Sequence[Outcome], method: str, metric: str, base: str = BASE) -> Figure | None:
    """Returns the mean difference of a metric to the base, with its 95 % interval over effects.

    Paired over effects and seeds: an effect's figures are first averaged over the seeds that both methods
    have. Effects and seeds that only one of the two has are left out.

    Returns:
        None for the base itself, and if the methods share no effect with the same seed.
    """
    mine, other = (
        {(each.effect, each.seed): value_of(each, metric) for each in outcomes if each.method == name}
        for name in (method, base)
    )
    shared: dict[str, list[int]] = {}
    for effect, seed in mine:
        if (effect, seed) in other:
            shared.setdefault(effect, []).append(seed)
    if method == base or not shared:
        return None
    means = [
        [mean([values[effect, seed] for seed in seeds]) for values in (mine, other)]
        for effect, seeds in shared.items()
    ]
    # Equal figures may both be infinite.
    return interval([0.0 if own == base_value else own - base_value for own, base_value in means])


def plain_rows(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Returns method -> figures as plain values for JSON.

    Beside the metrics: ``<metric>_gain``, ``effects``, ``seeds``, and of methods that learn ``seconds``,
    ``bytes`` and ``damage`` (means over effects and seeds). ``outcomes`` counts effects with their seeds.
    ``<figure>_ci95`` is half the width of the 95 % interval over effects.
    """
    rows: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        figures = dict(method_figures(outcomes, method) or {})
        for metric in METRICS:
            difference = gain(outcomes, method, metric)
            if difference is not None:
                figures[f"{metric}_gain"] = difference
        rows[method] = {
            **plain_figures(figures, 4),
            **{name: cost for name, cost in _costs(own).items() if cost is not None},
            "effects": len({outcome.effect for outcome in own}),
            "seeds": len({outcome.seed for outcome in own}),
            "outcomes": len(own),
        }
    return rows


def _costs(outcomes: Sequence[Outcome]) -> dict[str, float | int | None]:
    """Means over the outcomes that have them."""
    costs: dict[str, float | int | None] = {}
    for field, name in COSTS.items():
        values = [getattr(outcome, field) for outcome in outcomes if getattr(outcome, field) is not None]
        average = mean(values)
        found = average if math.isfinite(average) else None
        costs[name] = found if found is None else round(found) if name == "bytes" else round(found, 5)
    return costs


def comparison_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Returns the cells of a table of all methods: name, figures, gains, counts and costs."""
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        figures = method_figures(own, method) or {}
        gains = [gain(outcomes, method, metric) for metric in _GAINS]
        costs = _costs(own)
        seconds, size, damage = (costs[name] for name in COSTS.values())
        rows.append(
            [
                method,
                *[figures[metric].show(DIGITS[metric]) for metric in METRICS],
                *[
                    "-" if figure is None else _signed(figure, DIGITS[metric])
                    for metric, figure in zip(_GAINS, gains, strict=True)
                ],
                str(len({outcome.effect for outcome in own})),
                str(len({outcome.seed for outcome in own})),
                "-" if seconds is None else f"{seconds:.0f}",
                "-" if size is None else f"{size / 1000:.0f}",
                "-" if damage is None else f"{damage:.4f}",
            ]
        )
    return rows


def comparison_heads() -> list[str]:
    """Returns the heads of ``comparison_rows``."""
    return [
        "Method",
        *(HEADS[name] for name in METRICS),
        *(f"{HEADS[name]} gain" for name in _GAINS),
        *_COST_HEADS,
    ]


def comparison_text(outcomes: Sequence[Outcome]) -> str:
    """Formats ``comparison_rows`` as text."""
    table = aligned_table(comparison_heads(), comparison_rows(outcomes))
    return "\n".join([COMPARISON_TITLE, table, *COMPARISON_NOTES])


COMPARISON_TITLE = "All methods: figures, gain over InstructBrush, and what learning costs"
COMPARISON_NOTES = (
    "±: 95 % interval over effects (seeds averaged first). Gain: mean difference to InstructBrush, paired "
    "over effects and over the seeds that both have.",
    "Damage: mean absolute change, in 0..1, of edits in unrelated words when what was learned is loaded.",
)


def _signed(figure: Figure, digits: int) -> str:
    text = figure.show(digits)
    return text if text.startswith("-") else f"+{text}"
