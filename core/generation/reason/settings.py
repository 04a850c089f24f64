"""The stages of ReasonPix2Pix, in order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import BuildError
from ...regions.finder import RegionFinder
from ..engine.stage import ID, Stage
from ..finders import FinderModels
from ..language.models import LanguageModelSpec
from ..sources.rows import CAPTION, EDITED_CAPTION, EDITED_IMAGE, IMAGE, INSTRUCTION
from .captions import caption_stage
from .filtering import PAIRS, difference_stage, filter_stage, parts_stage
from .instructions import Asking, candidates_stage, choice_stage
from .models.captioners import AskedCaptioner, Captioner, FolderCaptioner
from .models.parsers import Parser, SpacyParser
from .models.region_editor import RegionEditorSpec
from .nouns import nouns_stage
from .objects import BoxLimits, boxes_stage, decision_stage
from .replacing import ObjectReplacer, replacement_stage
from .verifying import verification_stage

REASON_COLUMNS: Mapping[str, str] = {
    ID: ID,
    "source_image": IMAGE,
    "edited_image": EDITED_IMAGE,
    "edit_prompt": INSTRUCTION,
    "reasoning": "reasoning",
    "source_caption": CAPTION,
    "target_caption": EDITED_CAPTION,
    "categories": "nouns",
    **{name: name for name in ("part", "candidates", "parser", "selected_object", "target_object")},
    **{name: name for name in ("box", "image_key")},
}
"""Name in the data set -> column of the build: what ``finetune`` and ``reason train`` read, then our own."""

MEASURED = 2
"""Number of the stage of ``measuring_stages`` that keeps the differences of Eq. 1."""

# Expected tokens of a caption's question, without the image, and of its answer.
_CAPTION_TOKENS = (30, 25)


@dataclass(frozen=True)
class ReasonSettings:
    """How ReasonPix2Pix's data is made.

    Raises:
        BuildError: a value is out of range.
    """

    language_model: LanguageModelSpec
    parts: tuple[int, ...] = (1, 2)
    """1 needs pairs with captions and instructions, 2 and 3 need images."""
    threshold: float | None = None
    """tau of Eq. 1. None takes the lowest share."""
    lowest: float = 0.1
    """Share of the pairs that Eq. 1 drops if there is no threshold."""
    candidates: int = 5
    fewest_candidates: int = 2
    tries: int = 3
    """How often a question is asked until its answer can be used."""
    captioner: Callable[[], Captioner] | None = FolderCaptioner()
    """For images of Parts II and III without a caption; None refuses them."""
    parser: Callable[[], Parser] = SpacyParser()
    finder: Callable[[], RegionFinder] = FinderModels()
    limits: BoxLimits = BoxLimits()
    replacer: Callable[[], ObjectReplacer] = RegionEditorSpec()
    least_change: float = 1e-4
    """Mean squared difference inside the box that a replacement must exceed."""
    verify: bool = False
    """Whether the finder must find the new object in the box; not in the paper."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise BuildError(f"ReasonPix2Pix: {self.tries} tries are out of range; at least 1 is needed.")
        if not 0 <= self.lowest < 1:
            raise BuildError(
                f"ReasonPix2Pix: a lowest share of {self.lowest:g} is out of range; it is from 0 to below 1."
            )

    @property
    def needs_ranks(self) -> bool:
        """Whether the threshold of Eq. 1 depends on all pairs, so that they have to be measured first."""
        return PAIRS in self.parts and self.threshold is None


def measuring_stages(settings: ReasonSettings, source_columns: Mapping[str, str]) -> tuple[Stage, ...]:
    """Returns the first stages, up to the differences of Eq. 1.

    Raises:
        BuildError: see ``parts_stage``.
    """
    return (parts_stage(settings.parts, source_columns), difference_stage())


def reason_stages(
    settings: ReasonSettings, source_columns: Mapping[str, str], threshold: float | None = None
) -> tuple[Stage, ...]:
    """Returns the stages of a build.

    Args:
        settings: what is built.
        source_columns: columns of the source and their types, named as in core/generation/sources/rows.py.
            All parts need the image; Part I needs all columns of ``EDIT_COLUMNS``.
        threshold: what ``threshold_of_lowest`` (filtering.py) found, if ``settings.needs_ranks``. None drops
            only equal pairs, which serves for plans.

    Raises:
        BuildError: the source lacks a column, or a setting is out of range.
    """
    asking = Asking(settings.language_model, settings.tries)
    parts = sorted(set(settings.parts))
    pairs = 1 / len(parts) if PAIRS in parts else 0.0
    if not pairs:
        stages = [parts_stage(parts, source_columns)]
    else:
        ranked = settings.lowest if settings.needs_ranks else 0.0
        tau = settings.threshold if settings.threshold is not None else threshold or 0.0
        stages = [
            *measuring_stages(settings, source_columns),
            filter_stage(tau, pairs * ranked),
            candidates_stage(asking, settings.candidates, settings.fewest_candidates, pairs),
            choice_stage(asking, pairs),
        ]
    if pairs < 1:
        stages += _object_stages(settings, asking, 1 - pairs)
    return tuple(stages)


def _object_stages(settings: ReasonSettings, asking: Asking, share: float) -> tuple[Stage, ...]:
    asked = isinstance(settings.captioner, AskedCaptioner)
    plan = {"calls": share, "call_tokens": _CAPTION_TOKENS} if asked else {}
    verification = (verification_stage(settings.finder, settings.limits),) if settings.verify else ()
    return (
        caption_stage(settings.captioner, **plan),
        nouns_stage(settings.parser),
        boxes_stage(settings.finder, settings.limits),
        decision_stage(asking, share),
        replacement_stage(settings.replacer, settings.least_change, share < 1),
        *verification,
    )
