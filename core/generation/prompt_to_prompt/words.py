"""Words of captions as CLIP's tokenizer cuts them, and which words of two captions belong together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import BuildError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# Ends the last token of each word in CLIP's vocabulary.
_WORD_END = "</w>"


@dataclass(frozen=True)
class Word:
    """A word of a caption. Punctuation marks and endings such as ``'s`` are words of their own."""

    text: str
    tokens: range
    """Positions in the text window; the start token is position 0."""


@dataclass(frozen=True)
class Caption:
    """A caption in the text window."""

    words: tuple[Word, ...]
    window: int
    """Number of positions: start token, words, end token, padding."""
    is_cut: bool
    """Whether words beyond the window are missing."""

    @property
    def end(self) -> int:
        """Position of the end token. All positions after it are padding."""
        return self.words[-1].tokens.stop if self.words else 1

    def find(self, phrase: Sequence[str]) -> list[int]:
        """Returns the positions of the tokens of every occurrence of a phrase, given as its words' texts."""
        texts = [word.text for word in self.words]
        starts = [at for at in range(len(texts)) if phrase and texts[at : at + len(phrase)] == list(phrase)]
        found = [word for at in starts for word in self.words[at : at + len(phrase)]]
        return sorted({token for word in found for token in word.tokens})


def read_caption(text: str, tokenizer: "CLIPTokenizer") -> Caption:
    """Cuts a caption into words.

    Raises:
        BuildError: the tokenizer is not CLIP's.
    """
    window = int(tokenizer.model_max_length)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(ids)]
    if tokens and not tokens[-1].endswith(_WORD_END):
        raise BuildError("Prompt-to-prompt: the model's tokenizer is not CLIP's, so words cannot be aligned.")
    room = window - 2
    words: list[Word] = []
    start = 0
    for place, token in enumerate(tokens[:room]):
        if token.endswith(_WORD_END) or place == room - 1:
            whole = "".join(tokens[start : place + 1]).replace(_WORD_END, "")
            words.append(Word(whole, range(start + 1, place + 2)))
            start = place + 1
    return Caption(tuple(words), window, len(tokens) > room)


def phrase_words(phrase: str, tokenizer: "CLIPTokenizer") -> tuple[str, ...]:
    """Returns the texts of a phrase's words."""
    return tuple(word.text for word in read_caption(phrase, tokenizer).words)


def kept_words(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """Aligns two captions: returns the places of the words that both have, in order.

    As many words as possible are kept. Among alignments that keep the same number, the one with the most
    neighbors that stay neighbors wins, and among those the one whose words come first.
    """
    # best[i][j]: (words kept, neighbors kept) of source[i:] and target[j:]; joined[i][j]: the same, if the
    # words before i and j are a kept pair.
    rows, columns = len(source) + 1, len(target) + 1
    best = [[(0, 0)] * columns for _ in range(rows)]
    joined = [[(0, 0)] * columns for _ in range(rows)]
    for i, j in _backwards(len(source), len(target)):
        skipped = max(best[i + 1][j], best[i][j + 1])
        if source[i] == target[j]:
            kept, neighbors = joined[i + 1][j + 1]
            best[i][j] = max(skipped, (kept + 1, neighbors))
            joined[i][j] = max(skipped, (kept + 1, neighbors + 1))
        else:
            best[i][j] = joined[i][j] = skipped
    pairs: list[tuple[int, int]] = []
    i = j = 0
    table = best
    while i < len(source) and j < len(target):
        kept, neighbors = joined[i + 1][j + 1]
        pair = (kept + 1, neighbors + (table is joined))
        if source[i] == target[j] and table[i][j] == pair:
            pairs.append((i, j))
            i, j, table = i + 1, j + 1, joined
        else:
            i, j = (i + 1, j) if best[i + 1][j] >= best[i][j + 1] else (i, j + 1)
            table = best
    return pairs


def _backwards(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in reversed(range(rows)) for j in reversed(range(columns)))
