"""Checks that an instruction is indirect, and leaves out candidates that say the same."""

import re
from collections.abc import Sequence

from ...reasoning.edit_words import VERB
from ...reasoning.explain import MOST_LETTERS

_FEWEST_WORDS = 3
# Share of a direct instruction's words in a candidate from which on it is a repetition.
_REPEATED = 0.8

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_FILLERS = frozenset(
    "a an the this that these those it its his her their my our your to into with of in on at for from by "
    "as and or "
    "is are be been was were look looks like so more very please some one".split()
)
_EDIT_WORDS = frozenset(
    "make makes turn change replace swap exchange substitute transform convert add insert put place remove "
    "delete "
    "erase edit give color colour paint set image picture photo photograph".split()
)
_REMOVAL = re.compile(r"remove|delete|erase|hide|get rid of|take away|throw away|wipe away")
_LEAD = re.compile(
    r"^(?:(?:please|kindly|now|just|then|first|ok|okay)\b[,:]?\s*|(?:can|could|would|will) you (?:please )?|"
    r"(?:i|we)(?:'d| would| want you| need you)(?: like)?(?: you)?(?: to)? |let'?s |you (?:should|must|need "
    r"to) )+"
)
_TALK = re.compile(
    r"^(?:i(?:'m| am) (?:sorry|afraid|unable)|sorry\b|as an? (?:ai|language)|(?:i|we) (?:can ?not|can't)|"
    r"(?:sure|certainly|of course)\b.*:|here (?:is|are)\b|none\b|n/?a\b)"
)
# Remains of JSON, code or markup.
_MARKUP = re.compile(r"[{}\[\]\\<>|^~=`]|%%|://")
_LABELED = re.compile(r"\b(?:caption|instruction|candidate)s?\b.{0,30}:")


def check_indirect(text: str, direct: str, seen: str = "") -> str:
    """Checks an indirect instruction, and returns it.

    A command that names what is new counts as direct. A sentence that mentions it, such as "she prefers a
    mask to sunglasses", does not: the paper has it as an example.

    Args:
        text: one line.
        direct: the direct instruction with the same effect.
        seen: the caption before the edit; what it names is not new.

    Raises:
        ValueError: it is empty, too long, no instruction, code, a repetition, or direct.
    """
    plain = " ".join(text.lower().replace("’", "'").split())
    words = _words(plain)
    if len(words) < _FEWEST_WORDS:
        raise ValueError(f"it has {len(words)} words; at least {_FEWEST_WORDS} are needed")
    if len(text) > MOST_LETTERS:
        raise ValueError(f"it has {len(text)} characters; at most {MOST_LETTERS} are read")
    if _TALK.match(plain) or _LABELED.search(plain):
        raise ValueError("it is no instruction but talk about one")
    if _MARKUP.search(plain):
        raise ValueError("it holds code or markup")
    told = _words(direct.lower())
    content = _content(told)
    shared = set(words) & set(told)
    if len(shared) >= _REPEATED * len(set(told)):
        raise ValueError("it repeats the direct instruction")
    new = (content - _content(_words(seen.lower()))) or content
    command = re.match(VERB, _LEAD.sub("", plain))
    removes = command is not None and _REMOVAL.match(command[0]) and _REMOVAL.match(direct.lower())
    if command and (removes or (new and new <= {_stem(word) for word in words})):
        raise ValueError("it names the change in a command")
    return text


def different(candidates: Sequence[str]) -> list[str]:
    """Leaves out candidates that differ from an earlier one in case, punctuation or small words only."""
    kept: dict[tuple[str, ...], str] = {}
    for candidate in candidates:
        key = tuple(_stem(word) for word in _words(candidate.lower()) if word not in _FILLERS)
        kept.setdefault(key, candidate)
    return list(kept.values())


def same_thing(first: str, second: str) -> bool:
    """Whether two phrases name the same thing, but for determiners, case and the plural."""
    return _thing(first) == _thing(second)


def _thing(phrase: str) -> list[str]:
    return [_stem(word) for word in _words(phrase.lower()) if word not in _FILLERS]


def _content(words: Sequence[str]) -> set[str]:
    return {_stem(word) for word in words if word not in _FILLERS | _EDIT_WORDS}


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _stem(word: str) -> str:
    """Removes a plural's ending."""
    if len(word) > 4 and word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
