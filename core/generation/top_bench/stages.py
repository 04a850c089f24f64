"""The stage that makes the pairs of effects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...errors import BuildError
from ..engine.stage import Row, RowFunction, Stage, seed_of
from ..errors import Refused
from ..images import as_png, square
from ..prompt_to_prompt.candidates import CandidateMaker, CaptionPairs
from ..scoring import SCORES, PairScorer, ScoringModels, Thresholds, best_pair
from ..ultraedit.pairs import EditedAnchors, PairGenerator, PairRequest

PAIR_STAGE = "pair"

TOP_BENCH_COLUMNS: Mapping[str, str] = {
    "effect": "effect",
    "edit_prompt": "edit_prompt",
    "scope": "scope",
    "source_caption": "source_caption",
    "target_caption": "target_caption",
    "source_image": "source_image",
    "edited_image": "edited_image",
    **{name: name for name in SCORES},
    "seed": "seed",
}
"""Column of the data set -> column of the build."""

IP2P_THRESHOLDS = Thresholds(
    clip_sim_image=0.75,
    clip_sim_dir=0.2,
    clip_sim_source=0.2,
    clip_sim_target=0.2,
    dinov2_sim=-1.0,
    ssim=-1.0,
)
"""InstructPix2Pix, section 3.1.2; TOP-Bench is filtered likewise (supplement B)."""


@dataclass(frozen=True)
class TopBenchSettings:
    """How the pairs of effects are made."""

    maker: CaptionPairs | EditedAnchors
    """Makes pairs from captions, or edits the anchor by the effect's instruction."""
    side: int = 512
    """Pixels of the images."""
    candidates: int = 16
    """Pairs that are made of each pair of captions; the best is kept."""
    scorer: Callable[[], PairScorer] = field(default_factory=ScoringModels)
    thresholds: Thresholds = IP2P_THRESHOLDS

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise BuildError(f"TOP-Bench: {self.candidates} candidates are too few; at least 1 is needed.")


def top_bench_stages(settings: TopBenchSettings) -> tuple[Stage, ...]:
    """Returns the stages of a build whose source is ``EffectRows``."""
    reads = ("effect", "edit_prompt", "source_caption", "target_caption", "anchor")
    adds = {"source_image": "image", "edited_image": "image", "seed": "integer"}
    adds |= dict.fromkeys(SCORES, "number")
    return (Stage(PAIR_STAGE, reads, adds, _PairStage(settings), keeps=0.5),)


@dataclass(frozen=True)
class _PairStage:
    settings: TopBenchSettings

    def __call__(self) -> RowFunction:
        settings = self.settings
        maker = settings.maker()
        scorer = settings.scorer()

        def function(row: Row) -> list[Mapping[str, object]]:
            seeds = [seed_of(row, PAIR_STAGE, number) for number in range(settings.candidates)]
            pairs = _pairs(maker, row, seeds, settings.side)
            scores = scorer.score(pairs, row["source_caption"], row["target_caption"])
            best = best_pair(pairs, scores, settings.thresholds)
            source, target = pairs[best]
            return [
                {
                    "source_image": as_png(source),
                    "edited_image": as_png(target),
                    "seed": seeds[best],
                    **scores[best],
                }
            ]

        return function


def _pairs(
    maker: CandidateMaker | PairGenerator, row: Row, seeds: list[int], side: int
) -> list[tuple[Tensor, Tensor]]:
    captions = row["source_caption"], row["target_caption"]
    anchor = None if row["anchor"] is None else square(row["anchor"]["bytes"], row["id"], side)
    if isinstance(maker, CandidateMaker):
        long = next((caption for caption in captions if not maker.fits(caption)), None)
        if long is not None:
            raise Refused("a caption is longer than the model's text window", long)
        if maker.needs_anchor and anchor is None:
            raise Refused("it has no image to start from", row["effect"])
        return maker.pairs(captions, seeds, anchor)
    if anchor is None:
        raise Refused("it has no image to edit", row["effect"])
    return maker.pairs(PairRequest(*captions, row["edit_prompt"], anchor), seeds)
