"""All stages of UltraEdit's data, and the columns of its table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...errors import BuildError
from ...regions.finder import RegionFinder
from ..engine.stage import Row, RowFunction, Stage, seed_of
from ..finders import FinderModels
from ..images import as_png, read_cell
from ..language.models import LanguageModelSpec
from ..scoring import POCKET_THRESHOLDS, SCORES, PairScorer, ScoringModels, Thresholds, best_pair
from ..sources.rows import CAPTION, IMAGE
from .edit_types import edit_type
from .examples import Example, seed_examples
from .instructions import caption_stage, instruction_stage
from .pairs import EditedAnchors, PairGenerator, PairRequest
from .prompts import INSTANCES
from .regions import FREE_FORM, REGION, limits_for, mask_stage, object_stage
from .tags import CaptionTags, Tagger

Mode = Literal["free-form", "region", "both"]
MODES: tuple[Mode, ...] = (FREE_FORM, REGION, "both")

# Models that read the images need sides that are multiples of this.
_STRIDE = 8
_SEEDS = 2**31

ULTRAEDIT_COLUMNS: Mapping[str, str] = {
    **{name: name for name in ("clip_sim_source", "clip_sim_target", "clip_sim_dir", "clip_sim_image")},
    **{name: name for name in ("dinov2_sim", "ssim", "source_caption", "target_caption", "idx")},
    **{name: name for name in ("edit_prompt", "edit_object", "source_image", "edited_image")},
    "mask_image": "mask",
    **{name: name for name in ("id", "edit_type", "data_type", "tags", "mask_softness", "mask_area")},
    **{name: name for name in ("seed", "generator")},
}
"""Name in the data set -> column of the build: UltraEdit's public columns, then our own."""


@dataclass(frozen=True)
class UltraEditSettings:
    """How UltraEdit's data is made.

    Raises:
        BuildError: a value is out of range.
    """

    language_model: LanguageModelSpec
    mode: Mode = FREE_FORM
    pool: tuple[Example, ...] = field(default_factory=seed_examples)
    """Examples that questions for instructions are drawn from."""
    caption_words: tuple[int, int] = (3, 60)
    """Least and most words of a caption. UltraEdit's code has the 60; the least is ours."""
    edits: int = INSTANCES
    """Edits that are wanted of each caption, at most 3."""
    side: int = 512
    """Pixels of the square images."""
    tries: int = 3
    """How often a question is asked until its answer can be used."""
    seeds: int = 4
    """Pairs that are made of each edit; the best is kept."""
    free_form: Callable[[], PairGenerator] = EditedAnchors()
    region: Callable[[], PairGenerator] = EditedAnchors(region=True)
    grammar_objects: bool = False
    """Whether the grammar decides which object is edited, instead of the language model."""
    finder: Callable[[], RegionFinder] = FinderModels()
    tagger: Callable[[], Tagger] = CaptionTags(FinderModels())
    mask_area: tuple[float, float] = (0.01, 0.9)
    """Least and most accepted share of the image."""
    mask_fragments: int = 20
    """Largest accepted number of fragments."""
    softness: tuple[float, float] = (0.2, 0.8)
    """Range of Eq. 2's s."""
    scorer: Callable[[], PairScorer] = ScoringModels()
    thresholds: Thresholds = POCKET_THRESHOLDS

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BuildError(f"UltraEdit: '{self.mode}' is no mode; give one of {', '.join(MODES)}.")
        if self.side < 64 or self.side % _STRIDE:
            raise BuildError(
                f"UltraEdit: images of {self.side} px are not possible; at least 64, a multiple of {_STRIDE}."
            )
        if not 1 <= self.edits <= INSTANCES:
            raise BuildError(
                f"UltraEdit: {self.edits} edits of a caption are not possible; 1 to {INSTANCES} are."
            )
        for name, least in (("seeds", 1), ("tries", 1), ("mask_fragments", 1)):
            if getattr(self, name) < least:
                raise BuildError(f"UltraEdit: {name} {getattr(self, name)} is too low; at least {least}.")
        for name in ("caption_words", "mask_area", "softness"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (name != "caption_words" and high > 1):
                raise BuildError(f"UltraEdit: {name} {low:g} to {high:g} is no range that can be used.")
        if not self.pool:
            raise BuildError("UltraEdit: there are no examples of edits.")


def ultraedit_stages(settings: UltraEditSettings) -> tuple[Stage, ...]:
    """Returns the stages: captions, instructions, types, objects, masks, pairs.

    The source needs the columns ``image`` and ``caption``.
    """
    both = settings.mode == "both"
    share = {FREE_FORM: 0.0, REGION: 1.0, "both": 0.5}[settings.mode]
    stages = [
        caption_stage(IMAGE, CAPTION, settings.caption_words, settings.side),
        instruction_stage(
            settings.language_model, settings.pool, settings.caption_words, settings.edits, settings.tries
        ),
        _type_stage(settings.mode),
    ]
    asked = None if settings.grammar_objects else settings.language_model
    limits = limits_for(settings.side, *settings.mask_area, settings.mask_fragments)
    if settings.mode != FREE_FORM:
        stages.append(object_stage(asked, settings.tagger, both, settings.tries, share))
        stages.append(mask_stage(settings.finder, limits, settings.softness, share))
    else:
        stages.append(_empty_region_stage())
    return (*stages, _pair_stage(settings))


@dataclass(frozen=True)
class TypeStage:
    """Names the type of each instruction, and branches into a free-form and a region row."""

    mode: Mode

    def __call__(self) -> RowFunction:
        """Returns the stage's function."""
        kinds = (FREE_FORM, REGION) if self.mode == "both" else (self.mode,)
        return lambda row: [{"edit_type": edit_type(row["edit_prompt"]), "data_type": kind} for kind in kinds]


def _type_stage(mode: Mode) -> Stage:
    adds = {"edit_type": "text", "data_type": "text"}
    return Stage("types", ("edit_prompt",), adds, TypeStage(mode), branches=2 if mode == "both" else 1)


@dataclass(frozen=True)
class NoRegion:
    """Leaves the columns of regions empty."""

    def __call__(self) -> RowFunction:
        """Returns the stage's function."""
        empty = {"tags": [], "edited_objects": [], "mask": None, "mask_softness": None, "mask_area": None}
        return lambda row: [empty]


def _empty_region_stage() -> Stage:
    adds = {"tags": "texts", "edited_objects": "texts", "mask": "image"}
    return Stage("masks", (), {**adds, "mask_softness": "number", "mask_area": "number"}, NoRegion())


@dataclass(frozen=True)
class PairStage:
    """Makes a pair with each seed, scores the pairs, and keeps the best of those that pass."""

    mode: Mode
    free_form: Callable[[], PairGenerator]
    region: Callable[[], PairGenerator]
    scorer: Callable[[], PairScorer]
    thresholds: Thresholds
    seeds: int

    def __call__(self) -> RowFunction:
        """Loads the models that the mode needs and returns the stage's function."""
        makers = {FREE_FORM: self.free_form, REGION: self.region}
        needed = (FREE_FORM, REGION) if self.mode == "both" else (self.mode,)
        generators = {kind: makers[kind]() for kind in needed}
        scorer = self.scorer()
        thresholds = {FREE_FORM: self.thresholds, REGION: self.thresholds.of_regions}

        def function(row: Row) -> list[Mapping[str, object]]:
            name = row["id"]
            generator = generators[row["data_type"]]
            seeds = [seed_of(row, "pairs", number) % _SEEDS for number in range(self.seeds)]
            anchor = read_cell(row["anchor"], name)
            mask = None if row["mask"] is None else read_cell(row["mask"], name)[..., 0]
            captions = row["source_caption"], row["target_caption"]
            pairs = generator.pairs(PairRequest(*captions, row["edit_prompt"], anchor, mask), seeds)
            scores = scorer.score(pairs, *captions)
            best = best_pair(pairs, scores, thresholds[row["data_type"]])
            source, target = pairs[best]
            return [
                {
                    "source_image": row["anchor"] if source is anchor else as_png(source),
                    "edited_image": as_png(target),
                    "edit_object": ", ".join(row["edited_objects"]) or None,
                    "idx": seed_of(row, "idx"),
                    "seed": seeds[best],
                    "generator": generator.name,
                    **scores[best],
                }
            ]

        return function


def _pair_stage(settings: UltraEditSettings) -> Stage:
    start = PairStage(
        settings.mode,
        settings.free_form,
        settings.region,
        settings.scorer,
        settings.thresholds,
        settings.seeds,
    )
    reads = ("anchor", "source_caption", "target_caption", "edit_prompt", "data_type")
    adds = {"source_image": "image", "edited_image": "image", "edit_object": "text", "idx": "integer"}
    adds |= {"seed": "integer", "generator": "text", **dict.fromkeys(SCORES, "number")}
    return Stage("pairs", (*reads, "mask", "edited_objects"), adds, start, keeps=0.6)
