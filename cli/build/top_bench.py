"""``build top-bench``: benchmarks like TOP-Bench from lists of effects."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import BuildError
from ...core.generation.engine.build import Build
from ...core.generation.engine.export import export_table
from ...core.generation.engine.figures import StageCount
from ...core.generation.prompt_to_prompt.candidates import (
    FEW_STEPS_DRAWING,
    IP2P_DRAWING,
    CaptionPairs,
    Drawing,
)
from ...core.generation.prompt_to_prompt.control import ControlSettings
from ...core.generation.prompt_to_prompt.sampling import PairSettings
from ...core.generation.top_bench.effects import EffectRows, read_effects
from ...core.generation.top_bench.stages import (
    IP2P_THRESHOLDS,
    TOP_BENCH_COLUMNS,
    TopBenchSettings,
    top_bench_stages,
)
from ...core.generation.top_bench.writing import write_top_bench
from ...core.generation.ultraedit.pairs import EditedAnchors
from ..options import finite_float, positive_int
from .model_paths import check_model_paths
from .options import POCKET_SIDE, SIDE, add_shared_options
from .run import DataSet, run_command
from .scores import SCORING, add_score_options, scoring_models, thresholds_of

_DRAWINGS = {
    "ip2p": IP2P_DRAWING,
    "few-steps": FEW_STEPS_DRAWING,
    "p2p": Drawing(ControlSettings()),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``build top-bench``."""
    add_shared_options(parser, source=False)
    parser.add_argument(
        "--effects", required=True, metavar="FILE",
        help="JSON list of effects: name, instruction, scope, and pairs of captions, with images if wanted",
    )  # fmt: skip
    pairs = parser.add_argument_group("pairs")
    pairs.add_argument(
        "--text-to-image", metavar="FOLDER",
        help="diffusers folder of SD1.5's, SD2.1's or SDXL's layout that makes pairs with prompt-to-prompt. "
        "Without it, an editing model edits the images of the list",
    )  # fmt: skip
    pairs.add_argument("--editor", default="", help="editing model for the images (default built in)")
    pairs.add_argument(
        "--control", choices=tuple(_DRAWINGS), default="ip2p",
        help="what the target takes over: ip2p (self-attention, as InstructPix2Pix), few-steps (both kinds "
        "of attention, no guidance, for models such as SDXL-Turbo) or p2p (both kinds; new words take over "
        "too) (default ip2p)",
    )  # fmt: skip
    pairs.add_argument(
        "--share", type=finite_float, nargs=2, metavar=("LEAST", "MOST"),
        help="range of the share of the steps in which it does (default 0.1 0.9)",
    )  # fmt: skip
    pairs.add_argument(
        "--guidance", type=finite_float, nargs=2, metavar=("LEAST", "MOST"),
        help="range of the guidance scale (default: of --control)",
    )  # fmt: skip
    pairs.add_argument("--candidates", type=positive_int, default=16, help="pairs made of each two captions; "
                       "the best is kept (default 16; InstructPix2Pix makes 100)")  # fmt: skip
    pairs.add_argument(
        "--steps", type=positive_int, help="sampling steps (default 50, few-steps 4, editor 20)"
    )
    pairs.add_argument(
        "--strength", type=finite_float, default=1.0,
        help="how far pairs leave the images of the list; 1 ignores the images (default 1)",
    )  # fmt: skip
    pairs.add_argument("--side", type=positive_int, help="pixels of the images (default 512; pocket 128)")
    pairs.add_argument("--batch", type=positive_int, default=4, help="pairs sampled at once (default 4)")
    pairs.add_argument("--half", action="store_true", help="load image models in fp16")
    add_score_options(parser.add_argument_group("selection"), IP2P_THRESHOLDS, ("region_image",))


def build(options: argparse.Namespace) -> None:
    """Plans or makes a benchmark."""
    check_model_paths(options, "text_to_image", "editor", *SCORING)
    settings = settings_of(options)
    file = Path(options.effects)
    about = {
        "effects": options.effects,
        "pairs": options.text_to_image or options.editor or "built-in editor",
        "candidates": options.candidates,
        "CLIP": options.clip,
    }

    def export(finished: Build, _: Sequence[StageCount]) -> list[Path]:
        written = write_top_bench(finished, finished.folder / "top_bench")
        print(f"{len(written.effects)} effects of 10 + 5 pairs: {written.folder}", file=sys.stderr)
        for name, count in written.left_out.items():
            print(f"'{name}' is left out: {count} of 15 pairs are left", file=sys.stderr)
        return export_table(finished, TOP_BENCH_COLUMNS, finished.folder / "data")

    run_command(
        Build(Path(options.out), EffectRows(read_effects(file), file.parent), top_bench_stages(settings)),
        DataSet("TOP-Bench", TOP_BENCH_COLUMNS, about),
        options,
        export,
    )


def settings_of(options: argparse.Namespace) -> TopBenchSettings:
    """Returns the settings that options describe.

    Raises:
        BuildError: a value is out of range, or two models make pairs.
    """
    if options.text_to_image and options.editor:
        raise BuildError("TOP-Bench: --text-to-image and --editor both make the pairs. Give one of them.")
    built_in = not (options.text_to_image or options.editor)
    side = options.side or (POCKET_SIDE if built_in else SIDE)
    return TopBenchSettings(
        _maker(options, side, options.device),
        side,
        options.candidates,
        scoring_models(options),
        thresholds_of(options, IP2P_THRESHOLDS),
    )


def _maker(options: argparse.Namespace, side: int, device: str) -> Any:
    if not options.text_to_image:
        return EditedAnchors(options.editor, steps=options.steps or 20, device=device, half=options.half)
    drawing = _DRAWINGS[options.control]
    given = {"share": options.share, "guidance": options.guidance}
    drawing = replace(drawing, **{name: tuple(value) for name, value in given.items() if value is not None})
    steps = options.steps or (4 if options.control == "few-steps" else 50)
    settings = PairSettings(steps, side, side, options.strength)
    return CaptionPairs(options.text_to_image, settings, drawing, options.batch, device, options.half)
