"""Measures the edits of an effect's test images."""

from collections.abc import Sequence

from torch import Tensor

from ...encoders.clip import ClipModel, image_features, text_features
from ...models.families import Family
from ..metrics import (
    direction_distance,
    direction_similarity,
    image_similarity,
    psnr,
    ssim,
    visual_similarity,
)
from ..perceptual import Perceptual
from .effects import Effect
from .methods import Edited
from .results import Outcome


class EffectScorer:
    """Measures what methods make of an effect. Computes the features of the effect's images once.

    Args:
        effect: the training pairs and test images.
        clip: encoder for Direction and image similarity.
        perceptual: measures LPIPS; None leaves it out.
        family: the model's, for the scales that edits have by default.
    """

    def __init__(
        self, effect: Effect, clip: ClipModel, perceptual: Perceptual | None, family: Family
    ) -> None:
        self._effect = effect
        self._family = family
        self._clip = clip
        self._perceptual = perceptual
        before = self._features([pair.before for pair in effect.train])
        after = self._features([pair.after for pair in effect.train])
        self._examples = after - before
        self._inputs = self._features(effect.inputs)
        texts = [text for captions in effect.captions for text in captions]
        self._captions = text_features(clip, texts).cpu().unflatten(0, (-1, 2)) if texts else None

    def score(self, method: str, seed: int, edited: Edited, seconds: float) -> Outcome:
        """Returns the figures of a method's images."""
        pairs = [
            (image[None], truth[None]) for image, truth in zip(edited.images, self._effect.truth, strict=True)
        ]
        lpips = None
        if self._perceptual:
            lpips = tuple(float(self._perceptual.distance(image, truth)) for image, truth in pairs)
        outputs = self._features(edited.images)
        cost = edited.cost
        return Outcome(
            effect=self._effect.name,
            scope=self._effect.scope,
            method=method,
            seed=seed,
            psnr=tuple(float(psnr(image, truth)) for image, truth in pairs),
            ssim=tuple(float(ssim(image, truth)) for image, truth in pairs),
            lpips=lpips,
            direction=direction_distance(outputs - self._inputs, self._examples),
            image_similarity=tuple(image_similarity(self._inputs, outputs).tolist()),
            init_text=edited.init_text,
            final_loss=edited.final_loss,
            seconds=round(seconds, 2),
            losses=edited.losses,
            remark=edited.remark,
            text_scale=edited.sampling.text_scale_for(self._family),
            image_scale=edited.sampling.image_scale_for(self._family),
            learning_seconds=None if cost is None else round(cost.seconds, 2),
            learning_rate=None if cost is None else cost.learning_rate,
            file_bytes=None if cost is None else cost.file_bytes,
            damage=edited.damage,
            direction_similarity=self._agreement(outputs),
            visual_similarity=tuple(visual_similarity(outputs - self._inputs, self._examples).tolist()),
        )

    def _agreement(self, outputs: Tensor) -> tuple[float, ...] | None:
        """Directional CLIP similarity to the captions of each test pair."""
        if self._captions is None:
            return None
        before, after = self._captions.unbind(1)
        return tuple(direction_similarity(self._inputs, outputs, before, after).tolist())

    def _features(self, images: Sequence[Tensor]) -> Tensor:
        return image_features(self._clip, images).cpu()
