"""Scores of pairs, their thresholds, and the best of several seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..encoders.clip import ClipModel, image_features, text_features
from ..encoders.clip_loading import load_clip
from ..encoders.dino import DinoModel
from ..errors import BuildError
from ..evaluation import metrics
from .errors import Refused

# Names of the scores in UltraEdit's tables, in the order in which thresholds are checked.
CLIP_IMAGE, CLIP_DIRECTION = "clip_sim_image", "clip_sim_dir"
CLIP_IN, CLIP_OUT = "clip_sim_source", "clip_sim_target"
DINO, SSIM = "dinov2_sim", "ssim"
SCORES = (CLIP_IMAGE, CLIP_DIRECTION, CLIP_IN, CLIP_OUT, DINO, SSIM)

TITLES = {
    CLIP_IN: "CLIP in",
    CLIP_OUT: "CLIP out",
    CLIP_DIRECTION: "CLIP dir",
    CLIP_IMAGE: "CLIP img",
    SSIM: "SSIM",
    DINO: "DINOv2",
}

Scores = dict[str, float | None]
"""Score of each name in ``SCORES``; None where it cannot be computed. Higher is better."""


@dataclass(frozen=True)
class Thresholds:
    """Least scores of a pair. A score that is None passes.

    The defaults are those of UltraEdit's scripts, which compute SSIM and set no limit to it.
    """

    clip_sim_image: float = 0.75
    clip_sim_dir: float = 0.22
    clip_sim_source: float = 0.2
    clip_sim_target: float = 0.2
    dinov2_sim: float = 0.4
    ssim: float = -1.0
    least_change: float = 0.01
    """Least root of the mean squared difference of both images, so that no pair shows the same twice."""
    region_image: float = 0.7
    """Instead of ``clip_sim_image`` for edits with a region."""

    @property
    def of_regions(self) -> "Thresholds":
        """The thresholds of edits with a region."""
        return replace(self, clip_sim_image=self.region_image)

    def problem(self, scores: Scores) -> tuple[str, str] | None:
        """Returns why a pair is refused, as a fixed reason and its detail; None if it passes."""
        for name in SCORES:
            value = scores[name]
            least = getattr(self, name)
            if value is not None and not value >= least:
                return f"{TITLES[name]} is too low", f"{value:.3f}; at least {least:g}"
        return None


# The built-in CLIP's similarities spread otherwise than CLIP's: see docs/building_data.md.
POCKET_THRESHOLDS = Thresholds(-0.2, 0.2, 0.3, 0.3, 0.0, 0.3, region_image=-0.2)


@dataclass(frozen=True)
class ScoringModels:
    """Which models score. Calling it raises ``ModelError`` if one cannot be loaded."""

    clip: str = "pocket"
    """See ``load_clip``. The paper's is ViT-L-14/openai."""
    clip_folder: str = ""
    dino: str = ""
    """Folder of a DINOv2; empty leaves its score out."""
    device: str = field(default="cpu", repr=False)

    def __call__(self) -> "PairScorer":
        """Loads the models."""
        clip = load_clip(self.clip, Path(self.clip_folder) if self.clip_folder else None, self.device)
        return PairScorer(clip, DinoModel(self.dino, self.device) if self.dino else None)


class PairScorer:
    """Scores pairs of images.

    Args:
        clip: the CLIP of all CLIP scores.
        dino: the DINOv2; None leaves its score out.
    """

    def __init__(self, clip: ClipModel, dino: DinoModel | None) -> None:
        self._clip = clip
        self._dino = dino

    def score(
        self, pairs: Sequence[tuple[Tensor, Tensor]], source_caption: str = "", target_caption: str = ""
    ) -> list[Scores]:
        """Returns the scores of pairs of images [H, W, 3] that have the same captions.

        Without a caption the scores that need it are None, and so is the direction of equal captions.

        Raises:
            BuildError: an image holds values that are not finite.
        """
        if not all(image.isfinite().all() for pair in pairs for image in pair):
            raise BuildError("Pairs: an image holds values that are not finite. Use the models in fp32.")
        sources, targets = ([pair[number] for pair in pairs] for number in (0, 1))
        scores: list[Scores] = [dict.fromkeys(SCORES) for _ in pairs]
        before, after = self._features(self._clip, sources), self._features(self._clip, targets)
        _set(scores, CLIP_IMAGE, metrics.image_similarity(before, after))
        texts = {text: text_features(self._clip, [text]) for text in {source_caption, target_caption} if text}
        if source_caption:
            _set(scores, CLIP_IN, metrics.caption_similarity(texts[source_caption], before))
        if target_caption:
            _set(scores, CLIP_OUT, metrics.caption_similarity(texts[target_caption], after))
        if len(texts) == 2:
            words = texts[source_caption], texts[target_caption]
            _set(scores, CLIP_DIRECTION, metrics.direction_similarity(before, after, *words))
        if self._dino is not None:
            dino = [self._features(self._dino, images) for images in (sources, targets)]
            _set(scores, DINO, metrics.image_similarity(*dino))
        _set(scores, SSIM, torch.cat([metrics.ssim(a[None], b[None]) for a, b in pairs]))
        return scores

    def _features(self, model: ClipModel | DinoModel, images: Sequence[Tensor]) -> Tensor:
        # The source of all seeds is often one and the same image.
        distinct = {id(image): image for image in images}
        features = dict(zip(distinct, image_features(model, distinct.values()), strict=True))
        return torch.stack([features[id(image)] for image in images])


def best_pair(
    pairs: Sequence[tuple[Tensor, Tensor]], scores: Sequence[Scores], thresholds: Thresholds
) -> int:
    """Returns the number of the best pair of those that pass: the one with the highest direction, without
    directions the one with the highest similarity to the target caption.

    Raises:
        Refused: no pair passes. The reason is that of the pair that would be the best.
    """
    order = sorted(range(len(pairs)), key=lambda number: _rank(scores[number]), reverse=True)
    problems = []
    for number in order:
        problem = thresholds.problem(scores[number]) or _unchanged(*pairs[number], thresholds.least_change)
        if problem is None:
            return number
        problems.append(problem)
    raise Refused(*problems[0])


def _rank(scores: Scores) -> tuple[float, float]:
    values = (scores[CLIP_DIRECTION], scores[CLIP_OUT])
    first, second = (-math.inf if value is None else value for value in values)
    return first, second


def _unchanged(source: Tensor, target: Tensor, least: float) -> tuple[str, str] | None:
    difference = float((source - target).square().mean().sqrt())
    return (
        None if difference >= least else ("the edit changes nothing", f"{difference:.4f}; at least {least:g}")
    )


def _set(scores: Sequence[Scores], name: str, values: Tensor) -> None:
    for each, value in zip(scores, values.tolist(), strict=True):
        each[name] = value
