"""Measures the edits of an item, as MagicBrush's evaluation does.

Pixels are compared at the size of the reference, features of images in their own size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...encoders.clip import OpenClipModel, image_features, text_features
from ...encoders.dino import DinoModel
from ..metrics import caption_similarity, direction_similarity, image_similarity, l1_distance, l2_distance
from .items import Item, resize_like
from .results import Score


@dataclass(frozen=True)
class ItemFeatures:
    """Normalized features of an item, with a row for every turn. All methods share them."""

    item: Item
    references: Tensor
    """CLIP features of the images that outputs are compared with, [turns, P]."""
    dino: Tensor | None
    """DINO features of the same images; None without a DINO model."""
    sources: Tensor | None
    """CLIP features of the sources; None if no turn has both captions."""
    captions: dict[str, Tensor]
    """Caption -> text feature, [1, P]."""


class ItemScorer:
    """Measures edits with CLIP and optionally DINO."""

    def __init__(self, clip: OpenClipModel, dino: DinoModel | None) -> None:
        self.clip = clip
        self.dino = dino

    def features(self, item: Item) -> ItemFeatures:
        """Returns what ``score`` needs of an item."""
        reference_images = [turn.reference for turn in item.turns]
        references = self._clip_features(reference_images)
        sources = None
        if any(turn.caption is not None and turn.caption_before is not None for turn in item.turns):
            if all(turn.truth is None for turn in item.turns):
                sources = references
            else:
                sources = self._clip_features([turn.source for turn in item.turns])
        texts = {
            text for turn in item.turns for text in (turn.caption, turn.caption_before) if text is not None
        }
        captions = {text: text_features(self.clip, [text]).cpu() for text in sorted(texts)}
        return ItemFeatures(item, references, self._dino_features(reference_images), sources, captions)

    def score(
        self, features: ItemFeatures, method: str, seed: int, images: Sequence[Tensor], seconds: float
    ) -> Score:
        """Returns the figures of a method's images, which are in the order of ``Item.turn_of``."""
        item = features.item
        turns = [item.turn_of(index) for index in range(len(images))]
        references = [item.turns[turn].reference for turn in turns]
        pairs = [
            (resize_like(image, reference)[None], reference[None])
            for image, reference in zip(images, references, strict=True)
        ]
        outputs = self._clip_features(images)
        dino_outputs = self._dino_features(images)
        dino = None
        if dino_outputs is not None and features.dino is not None:
            dino = tuple(image_similarity(features.dino[turns], dino_outputs).tolist())
        with_captions = [
            _caption_metrics(features, turn, output)
            for turn, output in zip(turns, outputs[:, None], strict=True)
        ]
        return Score(
            item=item.name,
            scope=item.scope,
            method=method,
            seed=seed,
            turns=len(item.turns),
            l1=tuple(float(l1_distance(image, reference)) for image, reference in pairs),
            l2=tuple(float(l2_distance(image, reference)) for image, reference in pairs),
            clip_i=tuple(image_similarity(features.references[turns], outputs).tolist()),
            dino=dino,
            clip_t=tuple(similarity for similarity, _ in with_captions),
            clip_dir=tuple(direction for _, direction in with_captions),
            seconds=round(seconds, 2),
        )

    def _clip_features(self, images: Sequence[Tensor]) -> Tensor:
        return image_features(self.clip, images).cpu()

    def _dino_features(self, images: Sequence[Tensor]) -> Tensor | None:
        return image_features(self.dino, images).cpu() if self.dino else None


def _caption_metrics(features: ItemFeatures, turn: int, output: Tensor) -> tuple[float | None, float | None]:
    """CLIP-T and CLIP-dir of an output [1, P]; None if a caption that it needs is missing."""
    caption = features.item.turns[turn].caption
    caption_before = features.item.turns[turn].caption_before
    after = features.captions.get(caption) if caption else None
    before = features.captions.get(caption_before) if caption_before else None
    if after is None:
        return None, None
    similarity = float(caption_similarity(after, output))
    if before is None or features.sources is None:
        return similarity, None
    source = features.sources[turn][None]
    return similarity, float(direction_similarity(source, output, before, after))
