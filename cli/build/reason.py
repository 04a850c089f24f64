"""``build reason``: ReasonPix2Pix's data."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import BuildError
from ...core.generation.engine.build import Build, Source
from ...core.generation.engine.figures import StageCount
from ...core.generation.engine.run import run_build
from ...core.generation.finders import FinderModels
from ...core.generation.locks import only_process
from ...core.generation.reason.export import (
    TEST_IMAGES,
    count_parts,
    export_reason,
    read_counts,
    split_rows,
    table_two,
)
from ...core.generation.reason.filtering import threshold_of_lowest
from ...core.generation.reason.models.captioners import AskedCaptioner, FolderCaptioner
from ...core.generation.reason.models.gligen import GligenSpec
from ...core.generation.reason.models.parsers import SpacyParser
from ...core.generation.reason.models.region_editor import RegionEditorSpec
from ...core.generation.reason.objects import BoxLimits
from ...core.generation.reason.settings import (
    MEASURED,
    REASON_COLUMNS,
    ReasonSettings,
    measuring_stages,
    reason_stages,
)
from ...core.storage.files import write_text
from ..options import Several, finite_float, positive_int
from .model_paths import check_model_paths
from .options import (
    OpenedModel,
    add_shared_options,
    answers_folder,
    language_model,
    model_title,
    source_of,
    vision_model,
)
from .run import DataSet, keeps_on_interrupt, run_command, show_part, workers_of

_TABLE = "table2.txt"
# The boxes of finders of regions are those of masks, which are often too small.
_MARGIN = 0.15
# The smaller boxes of the built-in finder mostly hold a part of a thing.
_BOX_AREA, _POCKET_BOX_AREA = (0.01, 0.9), (0.04, 0.9)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``build reason``."""
    add_shared_options(parser)
    parser.add_argument(
        "--parts", type=int, action=Several, choices=(1, 2, 3), default=(1, 2), metavar="PART",
        help="1: indirect instructions for pairs; 2 and 3: objects of images are replaced (default 1 2)",
    )  # fmt: skip
    pairs = parser.add_argument_group("pairs (Part I)")
    pairs.add_argument(
        "--threshold", type=finite_float, metavar="TAU",
        help="drop pairs with a lower mean squared difference (Eq. 1), instead of --lowest",
    )  # fmt: skip
    pairs.add_argument(
        "--lowest", type=finite_float, default=0.1, metavar="SHARE",
        help="drop this share of the pairs, those that differ least (default 0.1)",
    )  # fmt: skip
    pairs.add_argument(
        "--candidates", type=positive_int, default=5, metavar="N",
        help="how often an indirect instruction is asked for (default 5)",
    )  # fmt: skip
    pairs.add_argument(
        "--fewest-candidates", type=positive_int, default=2, metavar="N",
        help="how many of them must be usable and different (default 2)",
    )  # fmt: skip
    parser.add_argument(
        "--tries", type=positive_int, default=3, help="how often a question is asked (default 3)"
    )
    _add_object_options(parser.add_argument_group("replaced objects (Parts II and III)"))
    test = parser.add_argument_group("test set")
    test.add_argument(
        "--test-images", type=_count, metavar="N",
        help=f"images of Parts II and III that are held out (default a tenth, at most {TEST_IMAGES})",
    )  # fmt: skip
    test.add_argument(
        "--count-with", action=Several, default=[], metavar="FOLDER",
        help="other finished builds that Table 2 counts too",
    )  # fmt: skip


def _add_object_options(group: Any) -> None:
    group.add_argument(
        "--captioner", metavar="FOLDER",
        help="BLIP-2 or another vision-language model for images without caption, 'pocket' for the built-in "
        "reader, or 'vlm' for --vlm; without it such images are left out",
    )  # fmt: skip
    group.add_argument(
        "--spacy", default="", metavar="FOLDER",
        help="spaCy pipeline that finds nouns, such as en_core_web_sm (default a grammar)",
    )  # fmt: skip
    group.add_argument(
        "--grounding-dino", default="", metavar="FOLDER", help="finds objects (default built in)"
    )
    group.add_argument("--clipseg", default="", metavar="FOLDER", help="finds objects instead (default none)")
    group.add_argument(
        "--box-threshold", type=finite_float, help="least score of a box (default the finder's)"
    )
    group.add_argument("--text-threshold", type=finite_float, help="how well words must fit (likewise)")
    group.add_argument(
        "--box-area", type=finite_float, nargs=2, metavar=("LEAST", "MOST"),
        help="area of boxes as a share of the image (default 0.01 0.9; with the built-in finder 0.04 0.9)",
    )  # fmt: skip
    group.add_argument(
        "--box-margin", type=finite_float, metavar="SHARE",
        help="widen boxes by this share of their size (default 0.15; 0 with Grounding DINO, whose boxes fit)",
    )  # fmt: skip
    group.add_argument("--gligen", metavar="FOLDER", help="GLIGEN for inpainting replaces objects")
    group.add_argument(
        "--editor", default="", metavar="MODEL",
        help="an editing model replaces objects (default the built-in region editor)",
    )  # fmt: skip
    group.add_argument("--steps", type=positive_int, help="sampling steps (default 50 with GLIGEN, else 20)")
    group.add_argument(
        "--least-change", type=finite_float, default=1e-4, metavar="DIFFERENCE",
        help="mean squared difference inside the box that a replacement must exceed (default 0.0001)",
    )  # fmt: skip
    group.add_argument(
        "--verify", action="store_true",
        help="keep an image only if the finder finds the new object in the box (not in the paper)",
    )  # fmt: skip
    group.add_argument("--half", action="store_true", help="load captioner and replacing model in fp16")


def build(options: argparse.Namespace) -> None:
    """Plans or makes ReasonPix2Pix's data."""
    check_model_paths(options, "grounding_dino", "clipseg", "gligen", "editor")
    if options.captioner not in ("pocket", "vlm"):
        check_model_paths(options, "captioner")
    settings = settings_of(options)
    others = [count for folder in options.count_with for count in read_counts(Path(folder))]
    source = source_of(options)
    threshold = None
    if settings.needs_ranks and not options.plan:
        threshold = _ranked_threshold(settings, source, options)
    made = Build(Path(options.out), source, reason_stages(settings, source.columns, threshold))
    about: dict[str, Any] = {
        "source": str(options.source),
        "parts": ", ".join(map(str, settings.parts)),
        "language model": model_title(options),
        **(_models(options) if set(settings.parts) != {1} else {}),
    }
    if 1 in settings.parts:
        about["tau of Eq. 1"] = settings.threshold if threshold is None else threshold

    def export(finished: Build, _: Sequence[StageCount]) -> list[Path]:
        split = split_rows(finished, options.test_images)
        files = export_reason(finished, split)
        table = table_two([*count_parts(finished, split, Path(options.source).name), *others])
        write_text(f"{table}\n", finished.folder / _TABLE)
        print(table)
        return files

    run_command(made, DataSet("ReasonPix2Pix", REASON_COLUMNS, about), options, export)


def settings_of(options: argparse.Namespace) -> ReasonSettings:
    """Returns the settings that options describe.

    Raises:
        BuildError: a value is out of range, models contradict each other, or the language model is missing.
    """
    answers = str(answers_folder(options))
    device = options.device
    if options.gligen and options.editor:
        raise BuildError("ReasonPix2Pix: --gligen and --editor both replace objects. Give one of them.")
    if options.grounding_dino and options.clipseg:
        raise BuildError("ReasonPix2Pix: --grounding-dino and --clipseg both find objects. Give one of them.")
    if options.gligen:
        replacer = GligenSpec(options.gligen, device, options.half, options.steps or 50)
    else:
        replacer = RegionEditorSpec(options.editor, device, options.half, steps=options.steps or 20)
    return ReasonSettings(
        OpenedModel(language_model(options), answers),
        tuple(sorted(set(options.parts))),
        options.threshold,
        options.lowest,
        options.candidates,
        options.fewest_candidates,
        options.tries,
        _captioner(options, device, answers),
        SpacyParser(options.spacy),
        FinderModels(options.grounding_dino, clipseg=options.clipseg, device=device),
        _box_limits(options),
        replacer,
        options.least_change,
        options.verify,
    )


def _box_limits(options: argparse.Namespace) -> BoxLimits:
    built_in = not (options.grounding_dino or options.clipseg)
    least, most = options.box_area or (_POCKET_BOX_AREA if built_in else _BOX_AREA)
    margin = options.box_margin
    if margin is None:
        margin = 0.0 if options.grounding_dino else _MARGIN
    return BoxLimits(options.box_threshold, options.text_threshold, least, most, margin)


def _captioner(
    options: argparse.Namespace, device: str, answers: str
) -> FolderCaptioner | AskedCaptioner | None:
    if options.captioner is None:
        return None
    if options.captioner != "vlm":
        folder = "" if options.captioner == "pocket" else options.captioner
        return FolderCaptioner(folder, device, options.half)
    vision = vision_model(options)
    if vision is None:
        raise BuildError("ReasonPix2Pix: '--captioner vlm' asks the model of --vlm, which is missing.")
    return AskedCaptioner(OpenedModel(vision, answers), options.tries)


def _ranked_threshold(settings: ReasonSettings, source: Source, options: argparse.Namespace) -> float:
    """Measures all pairs first, because the threshold of Eq. 1 depends on all of them."""
    measuring = Build(Path(options.out), source, measuring_stages(settings, source.columns))
    if measuring.unfinished_parts(MEASURED):
        with only_process(measuring.folder), keeps_on_interrupt():
            run_build(measuring, workers_of(options), show_part)
    threshold = threshold_of_lowest(measuring, MEASURED, settings.lowest)
    print(f"tau of Eq. 1: {threshold:.4g}, with {settings.lowest:.0%} of the pairs below", file=sys.stderr)
    return threshold


def _models(options: argparse.Namespace) -> dict[str, str]:
    return {
        "captioner": options.captioner or "none",
        "parser": options.spacy or "grammar",
        "finder": options.grounding_dino or options.clipseg or "built in",
        "replaces": options.gligen or options.editor or "built-in region editor",
    }


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number
