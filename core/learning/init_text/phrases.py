"""Unique phrases: words for an edit, found by what tells the images before it from those after it (InstructBrush, section 4.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...encoders.clip import ClipModel, image_features
from ...errors import LearningError
from ...pairs.pairs import EditPairs
from ...progress import Progress
from .vocabulary import CHUNK, encode_phrases, list_features, lists_for

CANDIDATES = 2048
"""Phrases of the vocabulary that a caption is chained from."""

PHRASES = 5
"""r, phrases of a caption."""

# The pocket CLIP's was measured on the 25 held-out effects, two draws of ten pairs (eight of photographs): 28 of 50 reach .25, and most of these name
# the effect or its colour at least in part; of 36 sensitivities between sets that differ by nothing but chance 32 stay below it.
# No weights of ViT-L were at hand: such edits are reported to differ by .03 to .10 there.
_ETA = {"pocket": 0.25, "ViT-H-14/laion2b_s32b_b79k": 0.15, "ViT-L-14/openai": 0.03}
_OTHER_ETA = 0.05
_MAX_PHRASES = 32

Side = Literal["before", "after"]


@dataclass(frozen=True)
class Phrase:
    """One phrase of the caption of one set of images."""

    text: str
    side: Side
    sensitivity: float
    """Eq. 6: how much better it fits its own set than the other one."""


@dataclass(frozen=True)
class UniquePhrases:
    """What was found. ``before`` and ``after`` are the unique phrases, empty where none is unique enough (Eq. 7)."""

    init_text: str
    before: str
    after: str
    table: tuple[Phrase, ...]
    eta: float
    remark: str
    """Why the init text is what it is."""

    def describe(self) -> str:
        """The table and the remark as lines of text."""
        width = max(len(phrase.text) for phrase in self.table)
        chosen = {("before", self.before), ("after", self.after)}
        rows = [
            f"{phrase.side:<6}  {phrase.text:<{width}}  {phrase.sensitivity:+.4f}{'  *' if (phrase.side, phrase.text) in chosen else ''}"
            for phrase in self.table
        ]
        return "\n".join(
            [f"{'set':<6}  {'phrase':<{width}}  sensitivity", *rows, f"eta {self.eta:g}. {self.remark}"]
        )


@dataclass(frozen=True)
class Chain:
    """Phrases in the order they were appended, and how well each beginning of the chain fits the images (cosine)."""

    phrases: tuple[str, ...]
    similarities: tuple[float, ...]

    @property
    def best(self) -> tuple[str, ...]:
        """The beginning that fits best: what clip-interrogator gives."""
        return self.phrases[: max(range(len(self.phrases)), key=self.similarities.__getitem__) + 1]


def default_eta(clip: ClipModel) -> float:
    """The least sensitivity of a unique phrase: .15 for ViT-H (the paper), measured for the pocket CLIP, an estimate for others."""
    return _ETA.get(clip.name, _OTHER_ETA)


def set_features(clip: ClipModel, images: Sequence[Tensor]) -> Tensor:
    """The mean of the normalised features of images [H, W, 3], [P]. Not normalised again: its product with a normalised text is the mean cosine."""
    return image_features(clip, images).mean(0)


def rank(
    features: Tensor, phrases: Sequence[str], table: Tensor, count: int = CANDIDATES, chunk: int = CHUNK
) -> list[str]:
    """The phrases that fit best, best first, chosen as clip-interrogator's ``LabelTable.rank`` does.

    A vocabulary longer than ``chunk`` is ranked by parts of that size first, each of which sends on its best ``chunk / parts``.

    Args:
        features: of the images [P].
        phrases: N phrases.
        table: their normalised features [N, P].
        count: how many are wanted at most.
        chunk: see above.
    """
    if len(phrases) <= chunk:
        return [phrases[index] for index in _top(features, table, count)]
    parts = math.ceil(len(phrases) / chunk)
    kept = [
        start + index
        for start in range(0, len(phrases), chunk)
        for index in _top(features, table[start : start + chunk], chunk // parts)
    ]
    return [phrases[kept[index]] for index in _top(features, table[kept], count)]


def chain(
    clip: ClipModel,
    features: Tensor,
    candidates: Sequence[str],
    count: int = PHRASES,
    minimum: int | None = None,
    progress: Progress | None = None,
) -> Chain:
    """Append phrase after phrase, always the one that makes the whole fit the images best, as clip-interrogator's ``Interrogator.chain`` does.

    It ends early where the text window is full, and after ``minimum`` additions when no phrase improves the fit.

    Args:
        clip: the model.
        features: of the images [P].
        candidates: phrases to choose from, each used once.
        count: phrases of a whole chain.
        minimum: additions after the first phrase that are made even when they make the fit worse; ``None``: all.
        progress: called after every chunk of candidates.
    """
    left = list(dict.fromkeys(candidates))
    phrases: list[str] = []
    similarities: list[float] = []
    while left and len(phrases) < count:
        prompts = [", ".join((*phrases, phrase)) for phrase in left]
        place, total = len(phrases), len(left)
        step = (
            (lambda done, _, place=place, total=total: progress(place * total + done, count * total))
            if progress
            else None
        )
        scores = encode_phrases(clip, prompts, step) @ features
        best = int(scores.argmax())
        # One by itself: in a batch the last digits depend on the batch.
        similarity = float(encode_phrases(clip, prompts[best : best + 1])[0] @ features)
        added = len(phrases) - 1
        if phrases and minimum is not None and added >= minimum and similarity <= similarities[-1]:
            break
        phrases.append(left.pop(best))
        similarities.append(similarity)
        if len(clip.tokenise(", ".join(phrases))) + 2 >= clip.context_length:
            break
    return Chain(tuple(phrases), tuple(similarities))


def sensitivities(
    clip: ClipModel, phrases: Sequence[str], own: Tensor, other: Tensor, scale: float = 1.0
) -> list[float]:
    """Eq. 6: sim(p, own set) - sim(p, other set), the mean cosines of a phrase with the images of two sets, times ``scale``.

    For the images after the edit the sign is mirrored by giving them as ``own``.
    """
    return (scale * (encode_phrases(clip, phrases) @ (own - other))).tolist()


def instruction_text(before: str, after: str) -> str:
    """The template: "turn <before> into <after>", "turn it into <after>", or nothing where the images after the edit have no unique phrase."""
    if not after:
        return ""
    return f"turn {before or 'it'} into {after}"


def unique_phrases(
    clip: ClipModel,
    pairs: EditPairs,
    count: int = PHRASES,
    eta: float | None = None,
    scale: float = 1.0,
    lists: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> UniquePhrases:
    """Find words for what an edit does (Eq. 6 and 7 and the template).

    Args:
        clip: the model that compares images with words.
        pairs: before and after the edit.
        count: r, phrases of the caption of each set.
        eta: least sensitivity of a unique phrase; ``None`` takes :func:`default_eta`.
        scale: what similarities are multiplied by before they are compared with ``eta``; 1 leaves cosines.
        lists: names of word lists, see :func:`~.vocabulary.read_list`; ``None`` takes those that suit the model.
        cache: folder for the features of whole lists.
        progress: called often with what is done and what there is to do; may raise to cancel.

    Raises:
        LearningError: a setting is out of range, or a list does not exist.
        ModelError: a list's package is not installed.
    """
    names = lists_for(clip) if lists is None else tuple(dict.fromkeys(lists))
    eta = default_eta(clip) if eta is None else eta
    if not 1 <= count <= _MAX_PHRASES:
        raise LearningError(
            f"Unique Phrases: {count} phrases for a caption are out of range. Choose 1 to {_MAX_PHRASES}; the paper takes 5."
        )
    if not math.isfinite(eta):
        raise LearningError(
            f"Unique Phrases: eta {eta} is no number to compare with. Choose about {default_eta(clip)} for this model."
        )
    if not (math.isfinite(scale) and scale > 0):
        raise LearningError(
            f"Unique Phrases: the similarity scale {scale} must be above 0. 1 leaves cosines as they are."
        )
    if not names:
        raise LearningError("Unique Phrases: no word list was chosen. Choose at least one.")
    stages = len(names) + 2
    sets = [set_features(clip, [getattr(pair, side) for pair in pairs]) for side in ("before", "after")]
    read = [
        list_features(clip, name, cache, _stage(progress, place, stages)) for place, name in enumerate(names)
    ]
    words, table = (
        [word for phrases, _ in read for word in phrases],
        torch.cat([features for _, features in read]),
    )
    found: list[Phrase] = []
    sides: tuple[Side, Side] = ("before", "after")
    for place, side in enumerate(sides):
        own, other = sets[place], sets[1 - place]
        candidates = rank(own.cpu(), words, table)
        caption = chain(
            clip, own, candidates, count, progress=_stage(progress, len(names) + place, stages)
        ).phrases
        found += [
            Phrase(text, side, value)
            for text, value in zip(caption, sensitivities(clip, caption, own, other, scale), strict=True)
        ]
    if progress:
        progress(100 * stages, 100 * stages)
    return _chosen(tuple(found), eta)


def _chosen(table: tuple[Phrase, ...], eta: float) -> UniquePhrases:
    """Eq. 7 and the template."""
    top = {
        side: max((phrase for phrase in table if phrase.side == side), key=lambda phrase: phrase.sensitivity)
        for side in ("before", "after")
    }
    before, after = (
        phrase.text if phrase.sensitivity >= eta else "" for phrase in (top["before"], top["after"])
    )
    text = instruction_text(before, after)
    highest = top["after"]
    if text:
        remark = (
            f"Init text: {text}"
            if before
            else f"Init text: {text} (no phrase tells the images before the edit apart)"
        )
    else:
        remark = (
            f"No init text: the highest sensitivity after the edit is {highest.sensitivity:.4f} ('{highest.text}'), below eta. "
            "Learning begins with nothing; a lower eta accepts it."
        )
    return UniquePhrases(text, before, after, table, eta, remark)


def _top(features: Tensor, table: Tensor, count: int) -> list[int]:
    return (table.float() @ features).topk(min(count, len(table))).indices.tolist()


def _stage(progress: Progress | None, place: int, stages: int) -> Progress | None:
    """The progress of one stage as a part of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(100 * place + 100 * done // total, 100 * stages)
