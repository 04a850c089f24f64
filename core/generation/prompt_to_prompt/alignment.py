"""Which attention of the source caption each token of the target caption takes over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .words import Caption, Word, kept_words


@dataclass(frozen=True)
class Alignment:
    """The tokens of a target caption and those of the source caption in whose place they stand.

    With the source's attention map A [pixels, L], ``A @ transfer`` is what the target's tokens take over. L
    is the text window.
    """

    transfer: Tensor
    """[L, L], row: source token, column: target token. Columns of tokens without a source are 0."""
    has_source: Tensor
    """[L] bool: target tokens that take attention over. The others keep their own."""
    is_replacement: Tensor
    """[L] bool: tokens of words that stand in place of other words; a part of ``has_source``."""


def align(source: Caption, target: Caption, replace: bool = True) -> Alignment:
    """Aligns two captions of one text window.

    Words that both captions have take over each other's attention token by token, and so do the start token,
    the end token, and padding that is padding in both. Other words that stand between the same kept words
    replace each other: one word by one word where their numbers are equal, else all by all. Tokens of a
    replaced word share its attention evenly if their number differs, so that none is lost. Words that only
    the target has take nothing over.

    Args:
        source, target: the captions.
        replace: False leaves words that replace others their own attention, as the paper's refinement does.
    """
    size = target.window
    transfer = torch.zeros(size, size)
    is_replacement = torch.zeros(size, dtype=torch.bool)
    for before, after, replaced in _groups(source, target):
        if replaced and not replace:
            continue
        rows, columns = (torch.tensor(list(places), dtype=torch.long) for places in (before, after))
        if len(rows) == len(columns):
            transfer[rows, columns] = 1
        else:
            transfer[rows[:, None], columns[None]] = 1 / len(columns)
        is_replacement[columns] = replaced
    return Alignment(transfer, transfer.any(0), is_replacement)


def _groups(source: Caption, target: Caption) -> Iterator[tuple[Sequence[int], Sequence[int], bool]]:
    """Yields source positions, the target positions that take them over, and whether words are replaced."""
    yield [0], [0], False
    i = j = 0
    pairs = kept_words([word.text for word in source.words], [word.text for word in target.words])
    for kept, place in [*pairs, (len(source.words), len(target.words))]:
        for before, after in _replaced(source.words[i:kept], target.words[j:place]):
            yield before, after, True
        if kept < len(source.words):
            # A word that the window cuts has fewer tokens.
            yield source.words[kept].tokens, target.words[place].tokens, False
        i, j = kept + 1, place + 1
    yield [source.end], [target.end], False
    padding = range(max(source.end, target.end) + 1, target.window)
    yield padding, padding, False


def _replaced(before: Sequence[Word], after: Sequence[Word]) -> Iterator[tuple[list[int], list[int]]]:
    if not before or not after:
        return
    if len(before) == len(after):
        for old, new in zip(before, after, strict=True):
            yield list(old.tokens), list(new.tokens)
    else:
        yield [t for word in before for t in word.tokens], [t for word in after for t in word.tokens]
