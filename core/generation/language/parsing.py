"""Reads what language models answer: JSON, fields between semicolons, and the number of a choice.

All functions raise ``ValueError`` with a sentence that says what is wrong, as ``ask_for`` needs it.
"""

import re
from collections.abc import Sequence
from typing import Any

from ...reasoning.answers import json_values, one_line, single_spaced, without_thoughts

# Most characters of an item of a list or a field.
MOST_ITEM = 1_000

# "3.", "3)", "(3)", "3:", "a)", "-", "*", "•" at the beginning of a line.
_MARKER = re.compile(r"^(?:[-*•–—]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])(?=\s|$|\*\*|[\"'“])\s*")
_FENCE = re.compile(r"```\w*")
_LABEL = re.compile(r"(?:final )?(?:answer|output|result|instruction|caption)\s*:\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "«": "»"}
_NUMBER = re.compile(r"(?<![\d.,-])\d{1,4}(?!\d|[.,]\d)")


def body(text: str) -> str:
    """Returns an answer without thoughts.

    Raises:
        ValueError: only thoughts, or nothing.
    """
    spoken, unfinished = without_thoughts(text)
    if not spoken.strip():
        raise ValueError("it only holds thoughts" if unfinished else "it is empty")
    return spoken


def json_object(text: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the first JSON object of an answer that has all keys, on its own or in a list.

    Raises:
        ValueError: there is none.
    """
    objects = json_objects(text)
    for found in objects:
        if all(key in found for key in keys):
            return found
    missing = [key for key in keys if key not in objects[0]]
    raise ValueError(f'its JSON lacks "{missing[0]}"')


def json_objects(text: str) -> list[dict[str, Any]]:
    """Returns the JSON objects of an answer in order, also those in lists, but none inside of others.

    Raises:
        ValueError: there is none.
    """
    found: list[dict[str, Any]] = []
    for value, _, _ in json_values(body(text)):
        items = value if isinstance(value, list) else [value]
        found += [item for item in items if isinstance(item, dict)]
    if not found:
        raise ValueError("it holds no JSON object")
    return found


def text_field(table: dict[str, Any], key: str) -> str:
    """Returns a text of a JSON object on one line, without quotes around it.

    Raises:
        ValueError: it is missing, empty, too long or no text.
    """
    value = table.get(key)
    if not isinstance(value, str):
        raise ValueError(f'"{key}" is no text')
    return _checked(unquoted(one_line(value)), f'"{key}"')


def rows_of(text: str, fields: int = 3) -> list[tuple[str, ...]]:
    """Returns the lines of an answer that have the form "a; b; c", each once. Skips other lines.

    Args:
        text: the answer.
        fields: number of fields in a line.

    Raises:
        ValueError: there is none, or a field is too long.
    """
    rows: dict[tuple[str, ...], None] = {}
    for line in _lines(text):
        parts = tuple(unquoted(part.strip()) for part in _item(line).strip("[]()").split(";"))
        # A semicolon at the end of a line ends its last field.
        parts = parts[:-1] if len(parts) == fields + 1 and not parts[-1] else parts
        if len(parts) == fields and all(parts):
            rows[tuple(_checked(part, "a field") for part in parts)] = None
    if not rows:
        raise ValueError(f"no line holds {fields} fields between semicolons")
    return list(rows)


def sentence_of(text: str, most: int = MOST_ITEM) -> str:
    """Returns an answer of one line, without quotes, a label such as "Answer:" or a code block around it.

    Args:
        text: the answer.
        most: largest number of characters.

    Raises:
        ValueError: it is empty, too long, or has several lines.
    """
    lines = _lines(text)
    if len(lines) > 1:
        raise ValueError(f"it has {len(lines)} lines; one is wanted")
    return _checked(_item(lines[0]) if lines else "", "it", most)


def choice_of(text: str, count: int) -> int:
    """Returns the number of the chosen candidate, counted from 1: the only number of 1 to ``count``.

    Raises:
        ValueError: there is no such number, or there are several.
    """
    numbers = {int(number) for number in _NUMBER.findall(body(text))}
    chosen = [number for number in numbers if 1 <= number <= count]
    if len(chosen) != 1:
        found = "several numbers" if chosen else "no number"
        raise ValueError(f"it names {found} from 1 to {count}; one is wanted")
    return chosen[0]


def unquoted(text: str) -> str:
    """Removes bold marks and quotes around a text."""
    text = text.strip()
    while len(text) > 1:
        if text.startswith("**") and text.endswith("**") and len(text) > 4:
            text = text[2:-2].strip()
        elif _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
            text = text[1:-1].strip()
        else:
            break
    return text


def _lines(text: str) -> list[str]:
    return single_spaced(_FENCE.sub("\n", body(text)))


def _item(line: str) -> str:
    line = unquoted(_MARKER.sub("", line, count=1))
    return unquoted(_LABEL.sub("", line, count=1) if _LABEL.match(line) else line)


def _checked(text: str, what: str, most: int = MOST_ITEM) -> str:
    if not text:
        raise ValueError(f"{what} is empty")
    if len(text) > most:
        raise ValueError(f"{what} has {len(text)} characters; at most {most} are read")
    return text
