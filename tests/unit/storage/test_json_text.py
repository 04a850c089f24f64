"""JSON texts and records from files, sound and damaged."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from instructbrush.core.storage.json_text import parse_json, read_record


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff", "'utf-8' codec can't decode"),
        ("[" * 100_000, "it is nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("[1e999]", "1e999 is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('{"\\uDC00": 1}', "surrogates not allowed"),
    ],
)
def test_rejects_damaged_json(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_accepts_byte_order_marks_surrogate_pairs_and_repeated_keys() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00", "a": 2}') == {"a": 2}
    assert parse_json("[Infinity, 1e999]", finite=False) == [float("inf")] * 2


@dataclass(frozen=True)
class Plain:
    name: str
    kind: Literal["one", "two"] = "one"
    number: int = 0
    share: float | None = None
    parts: tuple[float, ...] = ()
    on: bool = False


def test_reads_records_with_their_types() -> None:
    assert read_record(Plain, {"name": "x", "share": 1, "parts": [1, 0.5], "more": 3}) == Plain(
        "x", share=1.0, parts=(1.0, 0.5)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it is not a table"),
        ({}, "name is missing"),
        ({"name": None}, "name is None"),
        ({"name": "x" * 1_000_001}, "name is 'xxx"),
        ({"name": "x", "kind": "three"}, "kind is 'three'"),
        ({"name": "x", "number": 1.0}, r"number is 1\.0"),
        ({"name": "x", "number": True}, "number is True"),
        ({"name": "x", "number": 10**5000}, "number is a number out of range"),
        ({"name": "x", "share": "much"}, "share is 'much'"),
        ({"name": "x", "share": float("nan")}, "share is nan"),
        ({"name": "x", "parts": 0.5}, r"parts is 0\.5"),
        ({"name": "x", "parts": [[0.5]]}, "parts is a list"),
        ({"name": "x", "on": 1}, "on is 1"),
    ],
)
def test_rejects_records_with_wrong_types(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read_record(Plain, content)
