"""Which phrases become the init text: the unique ones, the best weak ones, or those that a user takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import LearningError
from ...storage.json_text import read_choice
from .phrases import Phrase, UniquePhrases, describe_phrases, instruction_text

OFFERED = 4
"""Phrases of each side that are offered beside the caption's."""

_WEAKEST = 0.5
"""A weak phrase that is taken by itself reaches this part of eta. With 25 effects of the pocket editor, most
phrases above it name a color or a thing of the effect."""
_MOST_CHARACTERS = 100_000


@dataclass(frozen=True)
class PhraseChoice:
    """The phrases that a user takes. Empty lists take none."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @staticmethod
    def parse(text: str) -> "PhraseChoice | None":
        """Reads ``{"before": [...], "after": [...]}``; None for an empty text, which leaves the choice to the
        node.

        Raises:
            LearningError: the text is no such JSON.
        """
        try:
            chosen = read_choice(text, ("before", "after"), _MOST_CHARACTERS)
        except ValueError as error:
            raise LearningError(
                f"Unique Phrases: the taken phrases cannot be read ({error}). Take phrases in the "
                "node, or empty the field."
            ) from error
        return None if chosen is None else PhraseChoice(*chosen)


@dataclass(frozen=True)
class TakenPhrases:
    """The init text and the phrases it is made of."""

    init_text: str
    taken: frozenset[tuple[str, str]]
    remark: str
    """Why the init text is what it is, and what became of the choice."""
    by_user: bool = False
    """Whether a user's choice acts."""
    gone: tuple[str, ...] = ()
    """Phrases of the choice that are not among the candidates."""

    def describe(self, found: UniquePhrases) -> str:
        """All phrases and the remark as text, for people."""
        return describe_phrases(candidates(found), self.taken, f"eta {found.eta:g}. {self.remark}")


def candidates(found: UniquePhrases) -> tuple[Phrase, ...]:
    """The phrases to choose from: those of the captions, then the offered ones, images before first."""
    return tuple(sorted((*found.table, *found.offered), key=lambda phrase: phrase.side == "after"))


def take_phrases(
    found: UniquePhrases, choice: PhraseChoice | None = None, use_weak: bool = True
) -> TakenPhrases:
    """Makes the init text.

    Args:
        found: phrases that were found.
        choice: a user's choice. Phrases that are not among the candidates are left out; if none is left, the
            choice does not count. None: the unique phrases (Eq. 7) are taken.
        use_weak: without a unique phrase of the images after, the best phrases from half of eta up are
            taken. False is the paper's method.
    """
    if choice is None:
        return _automatic(found, use_weak)
    wanted = [("before", text) for text in choice.before] + [("after", text) for text in choice.after]
    known = [(phrase.side, phrase.text) for phrase in candidates(found)]
    gone = [text for side, text in wanted if (side, text) not in known]
    kept = [key for key in known if key in wanted]
    parts = []
    if gone:
        parts.append(f"No longer among the phrases, and left out: {', '.join(gone)}.")
    if gone and not kept:
        automatic = _automatic(found, use_weak)
        parts += ["The choice is made anew.", automatic.remark]
        return TakenPhrases(automatic.init_text, automatic.taken, " ".join(parts), gone=tuple(gone))
    before, after = (_listed([text for own, text in kept if own == side]) for side in ("before", "after"))
    text = instruction_text(before, after)
    if text:
        parts.append(f"Init text: {text} (your choice)")
    else:
        parts.append("No init text: no phrase of the images after is taken.")
    return TakenPhrases(text, frozenset(kept), " ".join(parts), by_user=True, gone=tuple(gone))


def _automatic(found: UniquePhrases, use_weak: bool) -> TakenPhrases:
    """Eq. 7, and what is taken if no phrase is unique enough."""
    if found.init_text or not use_weak:
        unique = [("before", found.before), ("after", found.after)] if found.init_text else []
        return TakenPhrases(found.init_text, frozenset(each for each in unique if each[1]), found.remark)
    limit = _WEAKEST * found.eta if found.eta > 0 else found.eta
    after = _best([phrase for phrase in candidates(found) if phrase.side == "after"], limit)
    if after is None:
        return TakenPhrases("", frozenset(), found.remark)
    # Phrases of the caption fit the images; others may be unlike anything before.
    before = _best([phrase for phrase in found.table if phrase.side == "before"], limit)
    used = [phrase for phrase in (before, after) if phrase]
    text = instruction_text(before.text if before else "", after.text)
    return TakenPhrases(
        text,
        frozenset((phrase.side, phrase.text) for phrase in used),
        f"Init text: {text} (no phrase of the caption after the edit is unique enough; these differ most)",
    )


def _best(phrases: Sequence[Phrase], limit: float) -> Phrase | None:
    best = max(phrases, key=lambda phrase: phrase.sensitivity, default=None)
    return best if best is not None and best.sensitivity >= limit and best.sensitivity > 0 else None


def _listed(texts: Sequence[str]) -> str:
    *first, last = texts or [""]
    return f"{', '.join(first)} and {last}" if first else last
