"""Which objects an image shows: the list that the question for the edited object holds (supplement A.3)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...reasoning.answers import one_line
from ...reasoning.edit_words import without_determiner
from ...regions.finder import FoundObject, RegionFinder
from ..language.models import LanguageModel, Question, ask_for
from ..language.parsing import body
from .prompts import tagging_prompt

MOST_TAGS = 15

# Words at which the phrases of a caption end.
_BREAKS = re.compile(
    r"[,.;:()\"]|\b(?:and|or|with|without|on|in|at|by|of|over|under|near|next|beside|behind|before|between|"
    r"above|below|into|onto|from|to|for|through|across|along|around|against|while|that|which|who|whose|"
    r"is|are|was|were|be|being|has|have|having|there|it|its|his|her|their|as|during|front|top|left|"
    r"right|a|an|the)\b"
)
_VERB_FORM = re.compile(
    r"(?!(?:building|ceiling|clothing|evening|frosting|lightning|morning|painting|railing|seed|sled|spring|"
    r"string|swing|thing|wedding|weed)$)\w{2,}(?:ing|ed)$"
)
_FILLERS = frozenset("very some several many few two three four five six group pair couple lot".split())
_MOST_WORDS = 3
# Masks with a larger intersection over union show one thing.
_SAME_PLACE = 0.3


class Tagger(Protocol):
    """Names objects."""

    def tags(self, image: Tensor, png: bytes, caption: str) -> list[str]:
        """Returns the names of objects in an image.

        Args:
            image: [H, W, 3] in 0..1.
            png: the same image, encoded.
            caption: the image's caption.
        """
        ...


@dataclass(frozen=True)
class CaptionTags:
    """Names the things of the caption, and which of a finder's known nouns it finds in the image.

    A finder that knows any noun, as Grounding DINO, has no list of its own, so the caption alone counts.
    """

    finder: Callable[[], RegionFinder] | None = None

    def __call__(self) -> "Tagger":
        """Loads the finder."""
        return _CaptionTagger(None if self.finder is None else self.finder())


@dataclass(frozen=True)
class ModelTags:
    """Names what a vision-language model sees."""

    model: Callable[[], LanguageModel]
    tries: int = 3

    def __call__(self) -> "Tagger":
        """Loads the model."""
        return _ModelTagger(self.model(), self.tries)


class _CaptionTagger:
    def __init__(self, finder: RegionFinder | None) -> None:
        self._finder = finder

    def tags(self, image: Tensor, png: bytes, caption: str) -> list[str]:
        found = dict.fromkeys(things_of(caption))
        if self._finder is not None and self._finder.known_nouns:
            named = [f" {name} " for name in found]
            objects = _distinct(self._finder.find(image, list(self._finder.known_nouns)))
            new = [each.phrase for each in objects if not any(f" {each.phrase} " in name for name in named)]
            found |= dict.fromkeys(new)
        return list(found)[:MOST_TAGS]


def _distinct(objects: Sequence[FoundObject]) -> list[FoundObject]:
    """Returns the best object of each place: a finder also gives worse names to a thing."""
    kept: list[FoundObject] = []
    for found in objects:
        if all(_overlap(found.mask, each.mask) < _SAME_PLACE for each in kept):
            kept.append(found)
    return kept


def _overlap(first: Tensor, second: Tensor) -> float:
    union = float((first + second).clamp(max=1).sum())
    return float((first * second).sum()) / union if union else 0.0


class _ModelTagger:
    def __init__(self, model: LanguageModel, tries: int) -> None:
        self._model = model
        self._tries = tries

    def tags(self, image: Tensor, png: bytes, caption: str) -> list[str]:
        question = Question(tagging_prompt(), image=png, most_tokens=128)
        return ask_for(self._model, question, parse_tags, self._tries)


def parse_tags(answer: str) -> list[str]:
    """Reads names that are separated by commas or lines.

    Raises:
        ValueError: there are none, or one is no name.
    """
    parts = re.split(r"[,;\n]", body(answer))
    names = [without_determiner(one_line(part).strip(" .-*\"'").lower()) for part in parts]
    found = [name for name in dict.fromkeys(names) if name]
    if not found:
        raise ValueError("it names no object")
    wrong = next((name for name in found if len(name.split()) > _MOST_WORDS + 1), None)
    if wrong is not None:
        raise ValueError(f"'{wrong[:60]}' is no name of an object")
    return found[:MOST_TAGS]


def things_of(caption: str) -> list[str]:
    """Returns the phrases of a caption that may name things, without determiners, each once.

    Splits at commas, prepositions, pronouns and forms of verbs. It needs no model of the language, and may
    return a phrase that names no thing.
    """
    found: dict[str, None] = {}
    for part in _BREAKS.split(caption.lower()):
        phrase: list[str] = []
        for word in without_determiner(part.strip()).split():
            if word in _FILLERS or (_VERB_FORM.fullmatch(word) and phrase):
                _keep(found, phrase)
                phrase = []
            else:
                phrase.append(word)
        _keep(found, phrase)
    return list(found)


def _keep(found: dict[str, None], words: Sequence[str]) -> None:
    words = without_determiner(" ".join(words)).split()[-_MOST_WORDS:]
    if words and re.fullmatch(r"[a-z][\w'-]*", words[-1]) and not _VERB_FORM.fullmatch(words[-1]):
        found[" ".join(words)] = None
