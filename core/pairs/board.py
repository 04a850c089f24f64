"""What a user decides about the pairs of a folder: their order, skipped and swapped pairs, and the held-out
pair."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import PairError
from ..storage.json_text import parse_json, read_record
from .pair_lists import ListedPair

_MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Board:
    """Decisions about pairs, by their keys (see ``keys_of``). A pair that no decision names is left as it
    is."""

    order: tuple[str, ...] = ()
    """The pairs that come first, in this order. The others follow in their own order."""
    skip: tuple[str, ...] = ()
    """Pairs that are left out."""
    swap: tuple[str, ...] = ()
    """Pairs whose images before and after are exchanged."""
    no_mask: tuple[str, ...] = ()
    """Pairs whose mask is not used."""
    held_out: str = ""
    """The pair that is not learned from; "" for none."""

    @classmethod
    def parse(cls, text: str) -> "Board":
        """Reads a board from JSON; "" is a board without decisions.

        Raises:
            PairError: the text is not a board.
        """
        if not text.strip():
            return cls()
        try:
            if len(text) > _MOST_CHARACTERS:
                raise ValueError(f"it has {len(text)} characters")
            content = parse_json(text)
            known = [field.name for field in dataclasses.fields(cls)]
            unknown = sorted(set(content) - set(known)) if isinstance(content, dict) else []
            if unknown:
                raise ValueError(f"'{unknown[0][:40]}' is not one of {', '.join(known)}")
            return read_record(cls, content)
        except ValueError as error:
            raise PairError(
                f'Load Edit Pairs: board must be empty or JSON such as {{"skip": ["3"], "held_out": "1"}} '
                f"({error}). Clear it to use all pairs as they are."
            ) from error


@dataclass(frozen=True)
class Arranged:
    """The pairs of a folder as a board says."""

    pairs: tuple[ListedPair, ...]
    held_out: ListedPair | None = None
    """One of ``pairs``."""
    remarks: tuple[str, ...] = ()
    """Sentences about decisions that cannot be followed."""


def keys_of(pairs: Sequence[ListedPair]) -> list[str]:
    """The names of pairs, each with a number if it appears again: ``cat``, ``cat (2)``."""
    counts: Counter[str] = Counter()
    names = {pair.name for pair in pairs}
    keys = []
    for pair in pairs:
        counts[pair.name] += 1
        key = pair.name
        if counts[key] > 1:
            # Another pair may have a name such as "cat (2)".
            while (key := f"{pair.name} ({counts[pair.name]})") in names:
                counts[pair.name] += 1
        keys.append(key)
    return keys


def arrange(pairs: Sequence[ListedPair], board: Board) -> Arranged:
    """Orders, skips and swaps pairs.

    Raises:
        PairError: all pairs are skipped.
    """
    keyed = dict(zip(keys_of(pairs), pairs, strict=True))
    named = {
        *board.order,
        *board.skip,
        *board.swap,
        *board.no_mask,
        *([board.held_out] * (board.held_out != "")),
    }
    remarks = [
        f"The board names pair '{key[:60]}', which the folder does not hold."
        for key in sorted(named - set(keyed))
    ]
    order = [*dict.fromkeys(key for key in board.order if key in keyed)]
    order += [key for key in keyed if key not in set(order)]
    skipped = set(board.skip)
    kept = {key: _changed(keyed[key], key, board) for key in order if key not in skipped}
    if keyed and not kept:
        raise PairError("Load Edit Pairs: all pairs are skipped on the board. Take at least one back.")
    if board.held_out in keyed and board.held_out not in kept:
        remarks.append(
            f"Pair '{board.held_out}' is starred and skipped on the board, so no pair is held out."
        )
    return Arranged(tuple(kept.values()), kept.get(board.held_out), tuple(remarks))


def _changed(pair: ListedPair, key: str, board: Board) -> ListedPair:
    if key in board.swap:
        pair = replace(pair, before=pair.after, after=pair.before)
    return replace(pair, mask=None) if key in board.no_mask else pair
