"""Compares learning settings on PocketBench's development set: each variant against the preset.

    .venv/bin/python tools/benchmarks/pocket_settings.py [--steps N] [--jobs 2]
        [--effects NAME ...] [--variants NAME ...]

The presets were chosen with this tool. A stopped run resumes. The tool prints a table and writes it to
output/pocket_settings/table.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import mean, stdev

from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_example.results import EffectFolder, Outcome
from instructbrush.core.evaluation.by_example.run import EffectRunSettings
from instructbrush.core.evaluation.runner import run
from instructbrush.core.evaluation.workers import Workers
from instructbrush.tools.benchmarks.pocket_bench import OUT, STEPS, PocketEffect
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
}
BASES = {"preset": ("instructbrush",), "visii_preset": ("visii",)}


def _row(name: str, mine: Sequence[Outcome], base: Sequence[Outcome]) -> str:
    """Formats the means of a variant and its gain over the preset, averaged over the effects."""
    gains = [mean(one.psnr) - mean(other.psnr) for one, other in zip(mine, base, strict=True)]
    spread = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    parts = [[outcome for outcome in mine if outcome.scope == scope] for scope in ("global", "local")]
    psnr = [f"{mean(mean(outcome.psnr) for outcome in part):.2f}" if part else "" for part in (mine, *parts)]
    lpips = mean(mean(outcome.lpips or (0.0,)) for outcome in mine)
    seconds = mean(outcome.seconds for outcome in mine)
    return (
        f"| {name} | {' | '.join(psnr)} | {mean(gains):+.2f} ± {spread:.2f} | {lpips:.4f} | {seconds:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every variant that has no results yet and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--effects", nargs="+", default=list(DEVELOPMENT))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    sources = [PocketEffect(name) for name in options.effects]
    rows = [
        "| variant | PSNR | global | local | against the preset | LPIPS | s |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(rows), flush=True)
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
            rows.append(_row(name, outcomes, bases.setdefault(method, outcomes)))
            print(rows[-1], flush=True)
    except InstructBrushError as error:
        print(f"pocket_settings: {error}", file=sys.stderr)
        return 1
    (FOLDER / "table.md").write_text("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    # Imported by name, because worker processes unpickle PocketEffect from its module, not from __main__.
    from instructbrush.tools.benchmarks.pocket_settings import main as run_main

    sys.exit(run_main())
