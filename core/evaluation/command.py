"""``python -m instructbrush bench``: TOP-Bench, or a benchmark of one's own, from the command line."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from .effects import EffectSource
from .methods import DEFAULT_METHODS, METHODS
from .report import write_report
from .results import Outcome, ResultFolder
from .runner import RunSettings, run
from .tables import text_tables
from .top_bench import SIDE, TABLE_3, read_top_bench


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench`` beside model and device."""
    parser.add_argument("--data", required=True, help="TOP-Bench's folder: one folder for each effect, with 10 training and 5 test pairs")
    parser.add_argument("--size", type=int, default=SIDE, help=f"pictures are scaled and cropped to this many pixels; 0 keeps them (default {SIDE})")
    parser.add_argument("--clip", help="CLIP that judges and begins, such as ViT-L-14/openai (default: the pocket editor's)")
    parser.add_argument("--clip-folder", help="folder of its .safetensors")
    parser.add_argument("--lpips", help="AlexNet's ImageNet weights for LPIPS (.safetensors; tools/get_backbone.py brings them); else that column stays empty")
    run_options(parser, "output/bench")


def run_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Options that every benchmark has."""
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(DEFAULT_METHODS), metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--seeds", type=int, default=1, help="repeat everything with so many seeds; from two on tables show 95 %% intervals")
    parser.add_argument("--steps", type=int, help="learning steps (default: the preset's)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="SPACE.NAME=VALUE", help="learning settings other than the preset's, such as attention.objective=guided"
    )
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--text-scale", type=float, help="s_T (default 7.5, pocket editor 2)")
    parser.add_argument("--image-scale", type=float, default=1.5, help="s_I")
    parser.add_argument("--effects", nargs="+", metavar="EFFECT", help="only these")
    parser.add_argument("--jobs", type=int, default=1, help="processes that work side by side, each with its share of the machine's threads")
    parser.add_argument("--ray", action="store_true", help="run on a Ray cluster instead: the one of RAY_ADDRESS, or one started here")
    parser.add_argument("--out", default=out, help=f"folder for results; the same command goes on where it was stopped (default {out})")


def bench(options: argparse.Namespace) -> None:
    """Run TOP-Bench and print its tables."""
    side = options.size or None
    sources = read_top_bench(options.data, side)
    if len(sources) < len(TABLE_3):
        print(f"instructbrush: {len(sources)} of TOP-Bench's {len(TABLE_3)} effects are there.", file=sys.stderr)
    data = f"{Path(options.data).resolve()} at {side or 'own'} px"
    run_and_report(options, sources, "TOP-Bench", data, clip=options.clip, clip_folder=options.clip_folder, lpips=options.lpips)


def run_and_report(options: argparse.Namespace, sources: Sequence[EffectSource], benchmark: str, data: str, **rest: Any) -> list[Outcome]:
    """Run, write the report and print the tables.

    Args:
        options: of :func:`run_options`, and ``model`` and ``device``.
        sources: the effects, of which ``--effects`` may choose.
        benchmark: its name.
        data: names the pictures, see :func:`~.runner.run`.
        rest: further fields of :class:`~.runner.RunSettings`.

    Raises:
        EvaluationError: an effect that does not exist, and all that a run raises.
    """
    chosen = _chosen(sources, options.effects)
    settings = RunSettings(
        methods=tuple(dict.fromkeys(options.methods)),
        seeds=options.seeds,
        steps=options.steps,
        sampling_steps=options.sampling_steps,
        text_scale=options.text_scale,
        image_scale=options.image_scale,
        model=options.model,
        device=options.device,
        cache=str(Path(options.out).resolve().with_name("phrases")),
        changes=tuple(options.set),
        **rest,
    )
    folder = ResultFolder(options.out)
    began = time.monotonic()
    outcomes = run(chosen, settings, folder, data=data, jobs=options.jobs, ray=options.ray, watch=_progress(began))
    about = {"data": data, "seeds": settings.seeds, **settings.describe()}
    page = write_report(folder, outcomes, chosen, benchmark, about)
    print(text_tables(outcomes, benchmark))
    print(f"\n{page}: report with all pictures; results.json, results.csv and grid.png beside it")
    return outcomes


def _chosen(sources: Sequence[EffectSource], names: Sequence[str] | None) -> list[EffectSource]:
    known: Mapping[str, EffectSource] = {source.name: source for source in sources}
    unknown = next((name for name in names or () if name not in known), None)
    if unknown is not None:
        raise EvaluationError(f"Effect '{unknown}' does not exist here. Choose from {', '.join(known)}.")
    return [source for source in sources if names is None or source.name in names]


def _progress(began: float) -> Callable[[Outcome, int, int], None]:
    first: list[int] = []

    def show(outcome: Outcome, done: int, total: int) -> None:
        # What an earlier run finished took no time in this one.
        first.append(done)
        fresh = done - first[0] + 1
        left = (time.monotonic() - began) / fresh * (total - done) / 60
        psnr = sum(outcome.psnr) / len(outcome.psnr)
        seed = f" seed {outcome.seed}" if outcome.seed else ""
        print(f"[{done}/{total}] {outcome.effect} {outcome.method}{seed}: {psnr:.2f} dB ({outcome.seconds:.0f} s, about {left:.0f} min left)", flush=True)

    return show
