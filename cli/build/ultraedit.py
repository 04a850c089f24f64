"""``build ultraedit``: UltraEdit's data from images with captions."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import BuildError
from ...core.generation.engine.build import Build
from ...core.generation.engine.export import export_table
from ...core.generation.engine.figures import StageCount
from ...core.generation.finders import FinderModels
from ...core.generation.prompt_to_prompt.candidates import FEW_STEPS_DRAWING
from ...core.generation.scoring import Thresholds
from ...core.generation.ultraedit.examples import read_pool
from ...core.generation.ultraedit.pairs import EditedAnchors, PairGenerator, PromptToPromptPairs
from ...core.generation.ultraedit.prompts import INSTANCES
from ...core.generation.ultraedit.reports.datasheet import DATASHEET, Facts, datasheet
from ...core.generation.ultraedit.reports.edit_tables import EditTable
from ...core.generation.ultraedit.reports.quality import quality_of
from ...core.generation.ultraedit.reports.statistics import count_types
from ...core.generation.ultraedit.stages import (
    MODES,
    ULTRAEDIT_COLUMNS,
    UltraEditSettings,
    ultraedit_stages,
)
from ...core.generation.ultraedit.tags import CaptionTags, ModelTags, Tagger
from ...core.storage.files import write_text
from ..options import finite_float, positive_int
from .model_paths import check_model_paths
from .options import (
    POCKET_SIDE,
    SIDE,
    OpenedModel,
    add_shared_options,
    answers_folder,
    language_model,
    model_title,
    source_of,
    vision_model,
)
from .run import DataSet, run_command
from .scores import SCORING, add_score_options, scoring_models, thresholds_of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``build ultraedit``."""
    add_shared_options(parser)
    parser.add_argument(
        "--mode", choices=MODES, default="free-form", help="which edits are made (default free-form)"
    )
    words = parser.add_argument_group("instructions")
    words.add_argument(
        "--examples", action="append", default=[], metavar="FOLDER",
        help="folder of 'build ultraedit-examples'; may be given several times. The examples written by hand "
        "are always used",
    )  # fmt: skip
    words.add_argument(
        "--caption-words", type=positive_int, nargs=2, default=(3, 60), metavar=("LEAST", "MOST"),
        help="length of captions (default 3 60)",
    )  # fmt: skip
    words.add_argument(
        "--edits", type=int, choices=range(1, INSTANCES + 1), default=INSTANCES,
        help="edits of each caption (default 3)",
    )  # fmt: skip
    words.add_argument(
        "--tries", type=positive_int, default=3, help="how often a question is asked (default 3)"
    )
    _add_pair_options(parser.add_argument_group("pairs"))
    _add_region_options(parser.add_argument_group("regions"))
    add_score_options(parser.add_argument_group("selection"), Thresholds())


def _add_pair_options(group: Any) -> None:
    group.add_argument("--side", type=positive_int, help="pixels of the images (default 512; pocket 128)")
    group.add_argument(
        "--seeds", type=positive_int, default=4, help="pairs made of each edit; the best is kept (default 4)"
    )
    group.add_argument(
        "--text-to-image", metavar="FOLDER",
        help="diffusers folder that makes free-form pairs with prompt-to-prompt, such as SDXL-Turbo. Without "
        "it, an editing model edits the anchor",
    )  # fmt: skip
    group.add_argument("--editor", default="", help="editing model of free-form pairs (default built in)")
    group.add_argument("--region-editor", default="", help="editing model of region pairs (default built in)")
    group.add_argument("--steps", type=positive_int, help="sampling steps (default 20; text to image 5)")
    group.add_argument(
        "--strength", type=finite_float, default=0.6, help="how far images leave their anchor (default 0.6)"
    )
    group.add_argument(
        "--guidance", type=finite_float, default=0.0, help="of the text-to-image model (default 0: none)"
    )
    group.add_argument("--half", action="store_true", help="load image models in fp16")


def _add_region_options(group: Any) -> None:
    group.add_argument(
        "--objects", choices=("model", "grammar"), default="model",
        help="what decides which object is edited: the language model or the grammar (default model)",
    )  # fmt: skip
    group.add_argument(
        "--grounding-dino", default="", metavar="FOLDER", help="finds boxes; needs --sam (default built in)"
    )
    group.add_argument("--sam", default="", metavar="FOLDER", help="finds masks in boxes (default built in)")
    group.add_argument(
        "--mask-area", type=finite_float, nargs=2, default=(0.01, 0.9), metavar=("LEAST", "MOST"),
        help="accepted share of the image (default 0.01 0.9)",
    )  # fmt: skip
    group.add_argument(
        "--mask-fragments", type=positive_int, default=20, help="most fragments of a mask (default 20)"
    )
    group.add_argument(
        "--softness", type=finite_float, nargs=2, default=(0.2, 0.8), metavar=("LEAST", "MOST"),
        help="range of the soft mask's s (default 0.2 0.8)",
    )  # fmt: skip


def build(options: argparse.Namespace) -> None:
    """Plans or makes UltraEdit's data."""
    check_model_paths(options, "text_to_image", "editor", "region_editor", "grounding_dino", "sam", *SCORING)
    settings = settings_of(options)
    facts = Facts(str(options.source), model_title(options), _models(options))
    about = {"source": facts.source, "language model": facts.language_model, "mode": options.mode}
    run_command(
        Build(Path(options.out), source_of(options), ultraedit_stages(settings)),
        DataSet("UltraEdit", ULTRAEDIT_COLUMNS, {**about, **facts.models}),
        options,
        lambda made, counts: _export(made, counts, settings, facts),
    )


def _export(
    made: Build, counts: Sequence[StageCount], settings: UltraEditSettings, facts: Facts
) -> list[Path]:
    """Writes the tables and the datasheet. Returns the tables."""
    files = export_table(made, ULTRAEDIT_COLUMNS, made.folder / "data")
    edits = EditTable(tuple(files))
    page = datasheet(settings, facts, counts, count_types(edits.edits()), quality_of(edits.edits()))
    write_text(page, made.folder / DATASHEET)
    return files


def settings_of(options: argparse.Namespace) -> UltraEditSettings:
    """Returns the settings that options describe.

    Raises:
        BuildError: a value is out of range, or the language model is missing.
    """
    if bool(options.grounding_dino) != bool(options.sam):
        raise BuildError("UltraEdit: --grounding-dino finds boxes and --sam the masks in them. Give both.")
    answers = str(answers_folder(options))
    finder = FinderModels(options.grounding_dino, options.sam, device=options.device)
    return UltraEditSettings(
        OpenedModel(language_model(options), answers),
        mode=options.mode,
        pool=read_pool([Path(place) for place in options.examples]),
        caption_words=tuple(options.caption_words),
        side=_side(options),
        edits=options.edits,
        tries=options.tries,
        seeds=options.seeds,
        free_form=_free_form(options),
        region=EditedAnchors(
            options.region_editor, True, options.steps or 20, device=options.device, half=options.half
        ),
        grammar_objects=options.objects == "grammar",
        finder=finder,
        tagger=_tagger(options, finder, answers),
        mask_area=tuple(options.mask_area),
        mask_fragments=options.mask_fragments,
        softness=tuple(options.softness),
        scorer=scoring_models(options),
        thresholds=thresholds_of(options, Thresholds()),
    )


def _tagger(options: argparse.Namespace, finder: FinderModels, answers: str) -> Callable[[], Tagger]:
    vision = vision_model(options)
    if vision is not None:
        return ModelTags(OpenedModel(vision, answers), options.tries)
    # Grounding DINO knows any noun, so it has none to look for on its own.
    return CaptionTags(None if options.grounding_dino else finder)


def _free_form(options: argparse.Namespace) -> Callable[[], PairGenerator]:
    if options.text_to_image is None:
        return EditedAnchors(
            options.editor, steps=options.steps or 20, device=options.device, half=options.half
        )
    if options.editor:
        raise BuildError("UltraEdit: --text-to-image and --editor both make free-form pairs. Give one.")
    return PromptToPromptPairs(
        options.text_to_image,
        options.steps or 5,
        options.strength,
        replace(FEW_STEPS_DRAWING, guidance=(options.guidance, options.guidance)),
        device=options.device,
        half=options.half,
    )


def _side(options: argparse.Namespace) -> int:
    """Pixels of the images: those of the models.

    Raises:
        BuildError: the mode needs a built-in model, for 128 px, and another one.
    """
    if options.side is not None:
        return options.side
    free_form, region = bool(options.text_to_image or options.editor), bool(options.region_editor)
    given = {"free-form": {free_form}, "region": {region}}.get(options.mode, {free_form, region})
    if len(given) > 1:
        raise BuildError(
            "UltraEdit: a built-in model, for 128 px, makes one kind of pairs, and your own model the "
            "other. Give models for both (--text-to-image or --editor, and --region-editor), or --side."
        )
    return SIDE if given.pop() else POCKET_SIDE


def _models(options: argparse.Namespace) -> Mapping[str, str]:
    free_form = f"prompt-to-prompt with {options.text_to_image}" if options.text_to_image else options.editor
    finder = f"{options.grounding_dino} + {options.sam}" if options.sam else "built in"
    models = {
        "free-form pairs": free_form or "built in",
        "region pairs": options.region_editor or "built in",
        "finder": finder,
        "CLIP": options.clip,
        "DINOv2": options.dino or "none",
    }
    left_out = {"free-form": ("region pairs", "finder"), "region": ("free-form pairs",)}.get(options.mode, ())
    return {what: name for what, name in models.items() if what not in left_out}
