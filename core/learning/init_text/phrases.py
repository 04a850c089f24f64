"""Unique phrases: words for the difference that an edit makes (InstructBrush, section 4.2)."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...encoders.clip import ClipModel, image_features
from ...errors import LearningError
from ...pairs.pairs import EditPairs
from ...progress import Progress
from .vocabulary import CHUNK, check_lists, encode_phrases, list_features, lists_for

CANDIDATES = 2048
"""Phrases of the vocabulary that a caption is built from."""
PHRASES = 5
"""r, phrases of a caption."""

# The paper has one value, .15, and names no CLIP. Values by CLIP are our decision; ViT-H has the paper's. The
# pocket CLIP's is measured on 25 effects, in two draws of ten pairs (eight pairs of photographs): 28 of 50
# runs reach .25, and most of their phrases name the effect or its color at least in part. Of 36
# sensitivities between sets of the same kind of image, 32 are below it. ViT-L's value is an estimate: its
# edits are reported to differ by .03 to .10.
_ETA = {"pocket": 0.25, "ViT-H-14": 0.15, "ViT-L-14": 0.03}
_OTHER_ETA = 0.05
_MAX_PHRASES = 32

Side = Literal["before", "after"]


@dataclass(frozen=True)
class Phrase:
    """A phrase of the caption of one side's images."""

    text: str
    side: Side
    sensitivity: float
    """Eq. 6: how much better it fits its own side than the other one."""
    fit_before: float = 0.0
    """Mean cosine with the images before."""
    fit_after: float = 0.0
    """Mean cosine with the images after."""


@dataclass(frozen=True)
class UniquePhrases:
    """The init text and how it was found."""

    init_text: str
    before: str
    """The unique phrase of the images before, empty if none is unique enough (Eq. 7)."""
    after: str
    """The unique phrase of the images after, empty if none is unique enough."""
    table: tuple[Phrase, ...]
    eta: float
    remark: str
    """Why the init text is what it is."""
    offered: tuple[Phrase, ...] = ()
    """Beyond the paper: further phrases of the word lists, whose fit differs most between the sides."""

    def describe(self) -> str:
        """The table and the remark as text, for people."""
        chosen = {("before", self.before), ("after", self.after)}
        return describe_phrases(self.table, chosen, f"eta {self.eta:g}. {self.remark}")


def describe_phrases(phrases: Sequence[Phrase], chosen: Collection[tuple[str, str]], remark: str) -> str:
    """A table of phrases as text, with a star at those whose side and text are chosen."""
    width = max(len(phrase.text) for phrase in phrases)
    lines = [f"{'set':<6}  {'phrase':<{width}}  sensitivity"]
    for phrase in phrases:
        mark = "  *" if (phrase.side, phrase.text) in chosen else ""
        lines.append(f"{phrase.side:<6}  {phrase.text:<{width}}  {phrase.sensitivity:+.4f}{mark}")
    return "\n".join((*lines, remark))


@dataclass(frozen=True)
class Chain:
    """Phrases in the order they were appended, and the cosine with the images after each one."""

    phrases: tuple[str, ...]
    similarities: tuple[float, ...]

    @property
    def best(self) -> tuple[str, ...]:
        """The phrases up to the highest cosine, clip-interrogator's result."""
        best = max(range(len(self.phrases)), key=self.similarities.__getitem__)
        return self.phrases[: best + 1]


@dataclass(frozen=True)
class PhraseSettings:
    """Settings of the search."""

    count: int = PHRASES
    """r, phrases of the caption of each side."""
    eta: float | None = None
    """Least sensitivity of a unique phrase. None takes ``default_eta``."""
    scale: float = 1.0
    """Factor of the similarities before they are compared with ``eta``. 1 leaves cosines."""
    lists: Sequence[str] | None = None
    """Names of word lists, see ``read_list`` in vocabulary.py. None takes the model's default lists."""
    offered: int = 0
    """Beyond the paper: further phrases of each side to offer."""


def default_eta(clip: ClipModel) -> float:
    """Our value of eta (Eq. 7), the least sensitivity of a unique phrase, for a CLIP. The paper has one
    value, .15, and names no CLIP for it."""
    architecture = clip.name.partition("/")[0]
    return _ETA.get(architecture, _OTHER_ETA)


def set_features(clip: ClipModel, images: Sequence[Tensor]) -> Tensor:
    """Mean of the normalized features of images, [P]. Its product with a text feature is the mean cosine."""
    return image_features(clip, images).mean(0)


def rank(
    features: Tensor, phrases: Sequence[str], table: Tensor, count: int = CANDIDATES, chunk: int = CHUNK
) -> list[str]:
    """The phrases that fit best, best first, as clip-interrogator's ``LabelTable.rank`` chooses them.

    Parts of ``chunk`` phrases are ranked first, and the best ``chunk / parts`` of each part are ranked
    together.

    Args:
        features: features of the images, [P].
        phrases: N phrases.
        table: normalized features of the phrases, [N, P].
        count: largest number of phrases to return.
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
    """Appends phrases one by one, always the one that makes the whole text fit the images best, as
    clip-interrogator's ``Interrogator.chain`` does.

    Stops early when the text window is full, and after ``minimum`` additions when no phrase improves the fit.

    Args:
        clip: the model.
        features: features of the images, [P].
        candidates: phrases to choose from, each used once.
        count: phrases of a complete chain.
        minimum: additions after the first phrase that are made even if they make the fit worse; None: all.
        progress: called after every chunk of candidates.
    """
    left = list(dict.fromkeys(candidates))
    phrases: list[str] = []
    similarities: list[float] = []
    while left and len(phrases) < count:
        prompts = [", ".join((*phrases, phrase)) for phrase in left]
        place, total = len(phrases), len(left)
        scores = encode_phrases(clip, prompts, _shifted(progress, place * total, count * total)) @ features
        best = int(scores.argmax())
        # Encoded alone, because in a batch the last digits depend on the batch.
        similarity = float(encode_phrases(clip, prompts[best : best + 1])[0] @ features)
        added = len(phrases) - 1
        if phrases and minimum is not None and added >= minimum and similarity <= similarities[-1]:
            break
        phrases.append(left.pop(best))
        similarities.append(similarity)
        if len(clip.tokenize(", ".join(phrases))) + 2 >= clip.context_length:
            break
    return Chain(tuple(phrases), tuple(similarities))


def sensitivities(
    clip: ClipModel, phrases: Sequence[str], own: Tensor, other: Tensor, scale: float = 1.0
) -> list[float]:
    """Eq. 6 of each phrase: its mean cosine with its own side's images minus that with the other side's,
    times ``scale``.

    Args:
        clip: the model.
        phrases: the phrases.
        own, other: mean features of the two sides' images, [P].
        scale: factor of the result.
    """
    return (scale * (encode_phrases(clip, phrases) @ (own - other))).tolist()


def instruction_text(before: str, after: str) -> str:
    """The template: "turn <before> into <after>" or "turn it into <after>"; "" without a phrase of the images
    after."""
    if not after:
        return ""
    return f"turn {before or 'it'} into {after}"


def unique_phrases(
    clip: ClipModel,
    pairs: EditPairs,
    settings: PhraseSettings | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> UniquePhrases:
    """Finds words for what an edit does (Eq. 6 and 7, and the template).

    Args:
        clip: the model that compares images with words.
        pairs: images before and after the edit.
        settings: None takes the defaults.
        cache: folder for the features of whole lists.
        progress: called often.

    Raises:
        LearningError: a setting is out of range, or a list does not exist.
        ModelError: a list's package is not installed.
    """
    settings = settings or PhraseSettings()
    eta = default_eta(clip) if settings.eta is None else settings.eta
    _check(clip, settings, eta)
    names = lists_for(clip) if settings.lists is None else tuple(dict.fromkeys(settings.lists))
    stages = len(names) + 2
    features_before = set_features(clip, [pair.before for pair in pairs])
    features_after = set_features(clip, [pair.after for pair in pairs])
    words: list[str] = []
    tables: list[Tensor] = []
    for place, name in enumerate(names):
        phrases, features = list_features(clip, name, cache, _stage(progress, place, stages))
        words += phrases
        tables.append(features)
    table = torch.cat(tables)
    found: list[Phrase] = []
    offered: list[Phrase] = []
    sides: tuple[tuple[Side, Tensor, Tensor], ...] = (
        ("before", features_before, features_after),
        ("after", features_after, features_before),
    )
    for place, (side, own, other) in enumerate(sides, len(names)):
        candidates = rank(own.cpu(), words, table)
        caption = chain(
            clip, own, candidates, settings.count, progress=_stage(progress, place, stages)
        ).phrases
        values = sensitivities(clip, caption, own, other, settings.scale)
        found += [Phrase(text, side, value) for text, value in zip(caption, values, strict=True)]
        if settings.offered:
            further = _most_changed(candidates, caption, words, table, (own - other).cpu(), settings.offered)
            values = sensitivities(clip, further, own, other, settings.scale) if further else []
            pairs_of = zip(further, values, strict=True)
            offered += [Phrase(text, side, value) for text, value in pairs_of if value > 0]
    if progress:
        progress(100 * stages, 100 * stages)
    chosen = choose_phrases(tuple(found), eta)
    if not settings.offered:
        return chosen
    fits = torch.stack((features_before, features_after), 1)
    return replace(
        chosen,
        table=_with_fits(clip, chosen.table, fits),
        offered=_with_fits(clip, sorted(offered, key=lambda each: -each.sensitivity), fits),
    )


def _check(clip: ClipModel, settings: PhraseSettings, eta: float) -> None:
    if not 1 <= settings.count <= _MAX_PHRASES:
        raise LearningError(
            f"Unique Phrases: {settings.count} phrases for a caption are out of range. Choose 1 to "
            f"{_MAX_PHRASES}; the paper takes 5."
        )
    if not math.isfinite(eta):
        raise LearningError(
            f"Unique Phrases: eta {eta} is not a finite number. Choose about {default_eta(clip)} for this "
            "model."
        )
    if not (math.isfinite(settings.scale) and settings.scale > 0):
        raise LearningError(
            f"Unique Phrases: the similarity scale {settings.scale} must be above 0. 1 leaves cosines as "
            "they are."
        )
    if settings.lists is not None:
        check_lists(settings.lists)


def choose_phrases(table: tuple[Phrase, ...], eta: float) -> UniquePhrases:
    """Applies Eq. 7 and the template."""
    best_before = _best(table, "before")
    best_after = _best(table, "after")
    before = best_before.text if best_before.sensitivity >= eta else ""
    after = best_after.text if best_after.sensitivity >= eta else ""
    text = instruction_text(before, after)
    if not text:
        remark = (
            f"No init text: the highest sensitivity after the edit is {best_after.sensitivity:.4f} "
            f"('{best_after.text}'), below eta. Learning starts from an empty text; a lower eta accepts the "
            "phrase."
        )
    elif before:
        remark = f"Init text: {text}"
    else:
        remark = f"Init text: {text} (no phrase of the images before the edit is unique enough)"
    return UniquePhrases(text, before, after, table, eta, remark)


def _best(table: tuple[Phrase, ...], side: Side) -> Phrase:
    return max((phrase for phrase in table if phrase.side == side), key=lambda phrase: phrase.sensitivity)


def _most_changed(
    candidates: Sequence[str],
    caption: Sequence[str],
    words: Sequence[str],
    table: Tensor,
    difference: Tensor,
    count: int,
) -> list[str]:
    """The phrases among the candidates that fit one side so much better than the other, without those of the
    caption."""
    rows = {word: row for row, word in reversed(list(enumerate(words)))}
    left = [phrase for phrase in dict.fromkeys(candidates) if phrase not in caption]
    if not left:
        return []
    return [left[index] for index in _top(difference, table[[rows[phrase] for phrase in left]], count)]


def _with_fits(clip: ClipModel, phrases: Sequence[Phrase], features: Tensor) -> tuple[Phrase, ...]:
    """The phrases with their fits, cosines with the mean features [P, 2] of both sides."""
    if not phrases:
        return ()
    fits = (encode_phrases(clip, [phrase.text for phrase in phrases]) @ features).tolist()
    return tuple(
        replace(phrase, fit_before=before, fit_after=after)
        for phrase, (before, after) in zip(phrases, fits, strict=True)
    )


def _top(features: Tensor, table: Tensor, count: int) -> list[int]:
    return (table.float() @ features).topk(min(count, len(table))).indices.tolist()


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """The progress of a part that starts when ``before`` of ``total`` is done."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _stage(progress: Progress | None, place: int, stages: int) -> Progress | None:
    """The progress of one stage as a part of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(100 * place + 100 * done // total, 100 * stages)
