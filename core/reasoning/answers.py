"""Finds JSON in the answers of vision-language models, which may hold thoughts and text around it."""

import json
import re
from collections.abc import Iterator
from typing import Any

# Length limit in characters. The end of a longer answer is read.
MOST_ANSWER = 1_000_000
# Places in an answer where JSON is looked for.
_MOST_TRIES = 100

# Tags that models put around their thoughts.
_THOUGHT = re.compile(
    r"<(/?)(?:think(?:ing)?|thoughts?|reasoning|analysis|reflection|seed:think)\b[^<>]{0,80}>"
    r"|[\[◁](/?)think[\]▷]",
    re.IGNORECASE,
)
# Control characters except line ends, and surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """Replaces control characters and incomplete characters by spaces. Keeps line ends."""
    return _UNPRINTABLE.sub(" ", text)


def one_line(text: str) -> str:
    """Returns printable text with single spaces and without line ends."""
    return " ".join(printable(text).split())


def single_spaced(text: str) -> list[str]:
    """Returns the lines of a text as ``one_line`` does, without empty ones.

    Patterns that begin with spaces take cubic time in long runs of spaces, so they need this.
    """
    return [line for line in map(one_line, text.splitlines()) if line]


def without_thoughts(answer: str) -> tuple[str, bool]:
    """Returns an answer without its thoughts, and whether the last thought never ended."""
    parts: list[str] = []
    depth = 0
    part_start = 0
    answer = answer[-MOST_ANSWER:]
    for tag in _THOUGHT.finditer(answer):
        if not depth:
            parts.append(answer[part_start : tag.start()])
        closes = tag[1] or tag[2]
        if not closes:
            depth += 1
        elif depth:
            depth -= 1
        else:
            # Some chat templates open the first thought themselves, so all before was a thought.
            parts.clear()
        part_start = tag.end()
    return " ".join(parts if depth else [*parts, answer[part_start:]]), depth > 0


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects in a text, the last one first. Objects inside of others count too."""
    budget = _Budget(text)
    place = len(text)
    for _ in range(_MOST_TRIES):
        place = text.rfind("{", 0, place)
        if place < 0 or budget.spent:
            return
        found = budget.decode(place)
        if found is not None:
            yield found[0]


def json_values(text: str) -> list[tuple[Any, int, int]]:
    """Returns the JSON objects and arrays in a text, in order, each with its start and end in the text.

    Objects and arrays inside of others do not count.
    """
    budget = _Budget(text)
    values: list[tuple[Any, int, int]] = []
    place = 0
    for _ in range(_MOST_TRIES):
        start = re.compile(r"[\[{]").search(text, place)
        if start is None or budget.spent:
            break
        found = budget.decode(start.start())
        place = start.end() if found is None else found[1]
        if found is not None:
            values.append((found[0], start.start(), place))
    return values


class _Budget:
    """Decodes JSON in a text, and limits how much is read, because a text may be all braces."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder()
        self._left = 4 * len(text) + 100_000

    @property
    def spent(self) -> bool:
        """Whether nothing more may be read."""
        return self._left < 0

    def decode(self, place: int) -> tuple[Any, int] | None:
        """Returns the value that starts at a place, and its end; None if it is no JSON."""
        try:
            found, end = self._decoder.raw_decode(self._text, place)
        except RecursionError:
            return None
        except json.JSONDecodeError as error:
            self._left -= error.pos - place
            return None
        except ValueError:  # A number with thousands of digits.
            self._left -= len(self._text) - place
            return None
        self._left -= end - place
        return found, end
