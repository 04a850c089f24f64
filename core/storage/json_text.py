"""Parses JSON from files that may be damaged: everything wrong with it raises ``ValueError``."""

import dataclasses
import json
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_INTEGERS = range(-(2**63), 2**64)
# Most characters of a text in a record.
_MOST_TEXT = 1_000_000

Record = TypeVar("Record")


def parse_json(text: str | bytes, *, finite: bool = True, unique: bool = False) -> Any:
    """Parses a JSON text.

    Args:
        text: a text, or UTF-8 bytes with or without a byte order mark.
        finite: whether to reject NaN, Infinity and numbers too large for a float.
        unique: whether to reject a table with a repeated key; otherwise the last value wins.

    Raises:
        ValueError: not JSON, not UTF-8, nested too deeply, a number with thousands of digits, an unpaired
            surrogate, or something that ``finite`` or ``unique`` rejects.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    hooks: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
    if unique:
        hooks["object_pairs_hook"] = _unique
    try:
        content = json.loads(text, **hooks)
        if "\\ud" in text.lower():
            # Rejects unpaired surrogates, which cannot be encoded in file names or shown as text.
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return content


def decoded_text(content: bytes) -> str:
    """Decodes a text of UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        ValueError: it is none of them.
    """
    return content.decode(json.detect_encoding(content))


def read_record(kind: type[Record], content: Any, *, finite: bool = True) -> Record:
    """Creates a dataclass of plain values from a JSON table.

    Fields with a default may be missing. Unknown keys are ignored.

    Args:
        kind: a dataclass whose fields are texts, numbers, ``Literal``, tuples of them or
            ``Mapping[str, Any]``, all optionally None.
        content: a result of ``parse_json``.
        finite: whether to reject floats that are not finite.

    Raises:
        ValueError: a field is missing or of another type. Errors of ``kind`` itself are passed on.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in content:
            values[field.name] = _value(content[field.name], hints[field.name], field.name, finite)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{field.name} is missing")
    return kind(**values)


def read_choice(text: str, names: Sequence[str], most: int) -> list[tuple[str, ...]] | None:
    """Reads what a user chose in a widget: a JSON table with a list of texts for each name.

    Args:
        text: may be empty, if nothing is chosen.
        names: keys of the table. A missing one stands for an empty list.
        most: largest number of characters.

    Returns:
        The lists in the order of ``names``, each without duplicates; None for an empty text.

    Raises:
        ValueError: the text is too long, no JSON, or no such table.
    """
    if not text.strip():
        return None
    if len(text) > most:
        raise ValueError(f"{len(text)} characters are too many")
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    return [_texts(name, content.get(name, [])) for name in names]


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"'{name}' is not a list of texts")
    return tuple(dict.fromkeys(value))


def _value(value: Any, hint: Any, name: str, finite: bool) -> Any:
    """Checks a value against its field's type, and returns it converted to that type."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = next(argument for argument in arguments if argument is not type(None))
        return _value(value, inner, name, finite)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(item, arguments[0], name, finite) for item in value)
    if hint is float and _is_float(value, finite):
        return float(value)
    if origin is Literal:
        # 1 and True are equal, but only one of them is the choice.
        fits = any(type(value) is type(choice) and value == choice for choice in arguments)
    elif origin is Mapping:
        fits = isinstance(value, dict)
    elif hint is int:
        fits = _is_integer(value)
    elif hint is str:
        fits = isinstance(value, str) and len(value) <= _MOST_TEXT
    else:
        fits = hint is bool and isinstance(value, bool)
    if not fits:
        raise ValueError(f"{name} is {_shown(value)}")
    return value


def _is_integer(value: Any) -> bool:
    return type(value) is int and value in _INTEGERS


def _is_float(value: Any, finite: bool) -> bool:
    return _is_integer(value) or (isinstance(value, float) and (not finite or math.isfinite(value)))


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    # Python refuses to print integers with thousands of digits.
    shown = "a number out of range" if isinstance(value, int) and value not in _INTEGERS else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key appears twice")
    return table
