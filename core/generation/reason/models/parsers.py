"""Parsers of captions: a spaCy pipeline as in the paper, and a grammar that needs no model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ....errors import ModelError, first_line
from ....reasoning.answers import one_line
from ....reasoning.edit_words import is_whole, without_determiner
from ....regions.finder import one_phrase
from ...ultraedit.tags import things_of

_MOST_WORDS = 5
# Parts of the image that are no objects.
_PLACES = frozenset(
    "background foreground front back middle center centre top bottom left right side edge corner view scene "
    "day night distance close-up closeup shot".split()
)


class Parser(Protocol):
    """Finds the things that a caption names."""

    @property
    def name(self) -> str:
        """Name for the data set."""
        ...

    def categories(self, caption: str) -> list[str]:
        """Returns different noun phrases in the order of the caption, without determiners."""
        ...


@dataclass(frozen=True)
class SpacyParser:
    """A spaCy pipeline from a local folder, such as ``en_core_web_sm``. Without a folder, the grammar.

    Calling it raises ``ModelError`` if the pipeline cannot be loaded or does not find nouns.
    """

    folder: str = ""

    def __call__(self) -> Parser:
        """Loads the pipeline."""
        return _Spacy(self.folder) if self.folder else GrammarParser()


class GrammarParser:
    """Splits captions at prepositions, conjunctions, pronouns and forms of verbs.

    Enough for the captions of the pocket world. Of other captions it also returns phrases that name nothing.
    """

    name = "grammar"

    def categories(self, caption: str) -> list[str]:
        """See ``Parser.categories``."""
        return cleaned(things_of(caption))


class _Spacy:
    def __init__(self, folder: str) -> None:
        try:
            import spacy
        except ImportError as error:
            raise ModelError(
                "Parser: spaCy is not installed. Run: pip install spacy. Or leave the pipeline out: then a "
                "grammar finds the nouns."
            ) from error
        try:
            self._pipeline = spacy.load(folder)
        except Exception as error:  # pipelines can fail in any way
            raise ModelError(
                f"Parser: '{folder}' is no spaCy pipeline that can be loaded ({first_line(error)}). Name the "
                "folder that holds its config.cfg. Nothing is downloaded."
            ) from error
        meta = self._pipeline.meta
        self.name = f"spacy {meta.get('lang', '')}_{meta.get('name', '')} {meta.get('version', '')}".strip()
        self._by_tags = not self._has("DEP")
        if self._by_tags and not self._has("POS"):
            raise ModelError(
                f"Parser: the pipeline '{folder}' has neither a parser nor part-of-speech tags "
                f"({', '.join(self._pipeline.pipe_names) or 'it is empty'}). Use one such as en_core_web_sm."
            )

    def categories(self, caption: str) -> list[str]:
        """See ``Parser.categories``."""
        document = self._pipeline(caption)
        return cleaned(_tagged_nouns(document) if self._by_tags else _noun_chunks(document))

    def _has(self, annotation: str) -> bool:
        return bool(self._pipeline("A small dog sits beside the red ball.").has_annotation(annotation))


def _noun_chunks(document: Any) -> Iterator[str]:
    for chunk in document.noun_chunks:
        if chunk.root.pos_ != "PRON":
            yield chunk.text


def _tagged_nouns(document: Any) -> Iterator[str]:
    """Yields runs of adjectives and nouns that end with a noun."""
    run: list[Any] = []
    for token in [*document, None]:
        if token is not None and token.pos_ in ("ADJ", "NOUN", "PROPN"):
            run.append(token)
            continue
        while run and run[-1].pos_ == "ADJ":
            run.pop()
        if run:
            yield " ".join(each.text for each in run)
        run = []


def cleaned(phrases: Iterable[str]) -> list[str]:
    """Removes determiners and punctuation; leaves out parts of the image, long phrases and repetitions."""
    found: dict[str, None] = {}
    for phrase in phrases:
        text = without_determiner(one_phrase(one_line(phrase)).strip(" :'\"").lower())
        words = text.split()
        if words and len(words) <= _MOST_WORDS and words[-1] not in _PLACES and not is_whole(text):
            found[text] = None
    return list(found)
