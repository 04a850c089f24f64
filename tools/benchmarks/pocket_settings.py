"""Compares learning settings on PocketBench's development set: each variant against the preset.

    .venv/bin/python tools/benchmarks/pocket_settings.py [--steps N] [--jobs 2]
        [--effects NAME ...] [--variants NAME ...] [--publish]

The presets were chosen with this tool. A stopped run resumes. ``--publish`` writes the variants that are
named to docs/results/pocket_settings.json. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_example.results import EffectFolder, Outcome
from instructbrush.core.evaluation.by_example.run import EffectRunSettings
from instructbrush.core.evaluation.reports.figures import interval, plain_figures
from instructbrush.core.evaluation.runner import run
from instructbrush.core.evaluation.workers import Workers
from instructbrush.tools.benchmarks.pocket_bench import OUT, STEPS, PocketEffect
from instructbrush.tools.benchmarks.published import command_line, publish
from instructbrush.tools.get_backbone import get_backbone
from instructbrush.tools.pocket.world.held_out_effects import DEVELOPMENT

FOLDER = OUT.with_name("pocket_settings")
# Variant -> method and its changes to the preset.
VARIANTS = {
    "separate": ("instructbrush", "attention.parametrisation=separate"),
    "guided": ("instructbrush", "attention.objective=guided"),
    "no_snr_weights": ("instructbrush", "attention.weighting=none"),
    "tokens_8": ("instructbrush", "attention.tokens=8"),
    "tokens_30": ("instructbrush", "attention.tokens=30"),
    "segments_3": ("instructbrush", "attention.segments=3"),
    "segments_10": ("instructbrush", "attention.segments=10"),
    "bos": ("instructbrush", "attention.include_bos=true"),
    "rate_half": ("instructbrush", "attention.learning_rate=0.03", "attention.final_learning_rate=0.003"),
    "rate_double": ("instructbrush", "attention.learning_rate=0.12", "attention.final_learning_rate=0.012"),
    "visii_rate_half": ("visii", "text.learning_rate=0.04", "text.final_learning_rate=0.004"),
    "visii_no_direction": ("visii", "text.direction_weight=0"),
    "visii_guided": ("visii", "text.objective=guided"),
    "visii_rate_double": ("visii", "text.learning_rate=0.16", "text.final_learning_rate=0.016"),
    "visii_tokens_8": ("visii", "text.tokens=8"),
    "adapter_no_rows": ("adapter", "adapter.tokens=0"),
    "adapter_no_bypass": ("adapter", "adapter.bypass=0"),
    "adapter_rank_4_alone": ("adapter", "adapter.tokens=0", "adapter.bypass=0", "adapter.rank=4"),
    "adapter_one_rate": ("adapter", "adapter.adapter_rate=0.01", "adapter.up_ratio=1"),
    "adapter_rate_double": ("adapter", "adapter.adapter_rate=0.008"),
    "adapter_no_strata": ("adapter", "adapter.strata=1"),
    "adapter_segments": (
        "adapter",
        "adapter.segments=5",
        "adapter.batch=1",
        "adapter.strata=1",
        "adapter.parametrisation=shared",
    ),
    "adapter_no_snr_weights": ("adapter", "adapter.weighting=none"),
}
BASES = {"preset": ("instructbrush",), "visii_preset": ("visii",), "adapter_preset": ("adapter",)}
COLUMNS = {"psnr": 2, "global_psnr": 2, "local_psnr": 2, "gain": 2, "lpips": 4, "seconds": 0}
"""Figure -> decimals."""


def _figures(mine: Sequence[Outcome], base: Sequence[Outcome]) -> dict[str, Any]:
    """The means of a variant, and its gain over the preset with a 95 % interval over the effects."""
    psnr = [mean(outcome.psnr) for outcome in mine]
    gain = interval([own - mean(other.psnr) for own, other in zip(psnr, base, strict=True)])
    means = {"psnr": mean(psnr), "lpips": mean(mean(outcome.lpips or (0.0,)) for outcome in mine)}
    for scope in ("global", "local"):
        part = [own for own, outcome in zip(psnr, mine, strict=True) if outcome.scope == scope]
        if part:
            means[f"{scope}_psnr"] = mean(part)
    return {
        **{name: round(value, 4) for name, value in means.items()},
        **plain_figures({"gain": gain}, 4),
        "seconds": round(mean(outcome.learning_seconds or 0.0 for outcome in mine), 1),
        "effects": len(mine),
    }


def _line(name: str, figures: Mapping[str, Any]) -> str:
    cells = [f"{figures.get(column, float('nan')):.{digits}f}" for column, digits in COLUMNS.items()]
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every variant that has no results yet and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--effects", nargs="+", default=list(DEVELOPMENT))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--publish", action="store_true", help="write docs/results/pocket_settings.json")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(arguments)
    sources = [PocketEffect(name) for name in options.effects]
    print(f"| variant | {' | '.join(COLUMNS)} |", flush=True)
    print("|---" * (len(COLUMNS) + 1) + "|", flush=True)
    rows: dict[str, dict[str, Any]] = {}
    bases: dict[str, list[Outcome]] = {}
    chosen = {name: VARIANTS[name] for name in options.variants}
    needed = {
        name: base for name, base in BASES.items() if any(entry[0] == base[0] for entry in chosen.values())
    }
    try:
        backbone = str(get_backbone())
        for name, (method, *changes) in {**needed, **chosen}.items():
            settings = EffectRunSettings(
                (method,),
                steps=options.steps,
                lpips=backbone,
                cache=str(FOLDER.with_name("phrases")),
                changes=tuple(changes),
            )
            outcomes = run(
                sources,
                settings,
                EffectFolder(FOLDER / name),
                data="PocketBench",
                workers=Workers(options.jobs),
            )
            rows[name] = _figures(outcomes, bases.setdefault(method, outcomes))
            print(_line(name, rows[name]), flush=True)
        if options.publish:
            command = command_line("tools/benchmarks/pocket_settings.py", arguments, ("--jobs", "--publish"))
            changes = {name: list(entry) for name, entry in {**needed, **chosen}.items()}
            about = {"steps": options.steps, "effects": options.effects, "variants": changes}
            publish("pocket_settings", "Learning settings", command, rows, about)
    except InstructBrushError as error:
        print(f"pocket_settings: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"methods": rows}))
    return 0


if __name__ == "__main__":
    # Imported by name, because worker processes unpickle PocketEffect from its module, not from __main__.
    from instructbrush.tools.benchmarks.pocket_settings import main as run_main

    sys.exit(run_main())
