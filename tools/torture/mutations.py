"""Damage as hypothesis strategies: changed or lost bytes, other JSON values, headers that do not match."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from typing import Any

from hypothesis import strategies as st

Damaged = st.SearchStrategy[bytes]
Slot = tuple[MutableMapping[str, Any] | MutableSequence[Any], Any]
"""Place of a value in a JSON tree: its object or array, and its key there."""

# Marker -> text that no JSON writer would write. Markers are replaced after the tree is written.
_RAW = {
    f"\x01{name}": text
    for name, text in {
        "long number": "9" * 5000,
        "deep": "[" * 100_000 + "]" * 100_000,
        "deep table": '{"a":' * 20_000 + "1" + "}" * 20_000,
        "half a character": '"\\ud800"',
        "infinity": "Infinity",
        "not a number": "NaN",
        "too large": "1e999",
        "negative zero": "-0",
        "control": '"\x00"',
        "no end": '"',
        "comma": ",",
        "nothing": "",
    }.items()
}
# Most bytes that one step of damage adds.
_MOST_BYTES = 200_000
_PLACES = st.floats(0, 1, exclude_max=True)
_HOSTILE = [
    "",
    "../x",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "CON",
    "x" * 300,
    "é" * 300,
    "\u202e",
    "<think>",
    "0",
    "-1",
    "F16",
    "F4",
    "text",
    "left",
]

values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(sorted(_RAW)),
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            1,
            2**31,
            2**53,
            2**63,
            2**64,
            10**400,
            0.5,
            -0.0,
            1e300,
            [],
            {},
            [[]],
            [None],
        ]
    ),
    st.sampled_from(_HOSTILE),
    st.integers(-10, 10_000),
    st.floats(width=32),
    st.text(max_size=20),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
).map(copy.deepcopy)
"""Unexpected JSON values. Copies, because later steps change them."""


@st.composite
def of_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """Changes some bytes, removes, doubles or replaces a part, or cuts off the end."""
    content = bytearray(sound)
    kind = draw(st.sampled_from(["bytes", "bytes", "cut", "lost", "doubled", "foreign", "zeros"]))
    place = int(draw(_PLACES) * (len(content) + 1))
    # Headers are in the first bytes, where most can go wrong.
    place = place if draw(st.booleans()) else min(place, draw(st.integers(0, 64)))
    length = draw(st.integers(0, 64))
    if kind == "bytes":
        for _ in range(draw(st.integers(1, 8))):
            if content:
                content[min(len(content) - 1, place + draw(st.integers(0, 64)))] = draw(st.integers(0, 255))
    elif kind == "cut":
        del content[place:]
    elif kind == "lost":
        del content[place : place + length]
    elif kind == "doubled":
        content[place:place] = content[place : place + length]
    else:
        content[place : place + length] = bytes(length) if kind == "zeros" else draw(st.binary(max_size=64))
    return bytes(content)


@st.composite
def of_json_text(draw: st.DrawFn, sound: str) -> str:
    """Changes, removes or doubles one to three values of a JSON text."""
    tree: Any = [json.loads(sound)]
    for _ in range(draw(st.integers(1, 3))):
        slots = list(_slots(tree))
        holder, key = slots[int(draw(_PLACES) * len(slots))]
        old = holder[key]
        kind = draw(st.sampled_from(["value", "value", "value", "inner", "gone", "more", "other"]))
        if kind == "inner" and _holds_json(old):
            holder[key] = draw(of_json_text(old))
        elif kind == "gone" and holder is not tree:
            del holder[key]
        elif kind == "more" and isinstance(old, dict):
            old[draw(st.text(max_size=10) | st.sampled_from(_HOSTILE))] = draw(values)
        elif kind == "more" and isinstance(old, list):
            room = _MOST_BYTES // (len(json.dumps(old[:1])) + 1)
            old.extend(copy.deepcopy(old[:1]) * min(draw(st.sampled_from([1, 10, 200])), room))
        elif kind == "other":
            other, place = slots[int(draw(_PLACES) * len(slots))]
            holder[key] = json.loads(json.dumps(other[place]))
        else:
            holder[key] = draw(values)
    text = json.dumps(tree[0])
    for mark, raw in _RAW.items():
        text = text.replace(json.dumps(mark), raw, 2)
    return text


def of_json_file(sound: bytes) -> Damaged:
    """Damages the values or the bytes of a JSON file."""
    text = sound.decode()
    changed = of_json_text(text).map(lambda changed: changed.encode("utf-8", "surrogatepass"))
    return st.one_of(
        changed, changed, of_bytes(sound), changed.map(lambda content: b"\xef\xbb\xbf" + content)
    )


@st.composite
def of_lines(draw: st.DrawFn, sound: bytes) -> bytes:
    """Changes, doubles or removes a line of a JSON lines file, or damages its bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(of_bytes(sound))
    lines = sound.split(b"\n")
    place = int(draw(_PLACES) * (len(lines) - 1))
    kind = draw(st.sampled_from(["value", "value", "doubled", "gone"]))
    if kind == "value":
        lines[place] = draw(of_json_text(lines[place].decode())).encode("utf-8", "surrogatepass")
    elif kind == "doubled":
        lines.insert(place, lines[place])
    else:
        del lines[place]
    return b"\n".join(lines)


@st.composite
def of_tensors(draw: st.DrawFn, sound: bytes) -> bytes:
    """Damages the header's values, the header's length or the bytes of a safetensors file."""
    if draw(st.integers(0, 2)) == 0:
        return draw(of_bytes(sound))
    length = int.from_bytes(sound[:8], "little")
    header = draw(of_json_text(sound[8 : 8 + length].decode())).encode("utf-8", "surrogatepass")
    excess = draw(st.sampled_from([0] * 20 + [1, -1, 8, 2**32, 2**63, -len(header)]))
    return ((len(header) + excess) % 2**64).to_bytes(8, "little") + header + sound[8 + length :]


def of_thumbnail(key: str) -> Callable[[bytes], Damaged]:
    """Damages the bytes or the base64 text of an image in a safetensors header."""

    def damaged(sound: bytes) -> Damaged:
        length = int.from_bytes(sound[:8], "little")
        header = json.loads(sound[8 : 8 + length])
        start, _, encoded = header["__metadata__"][key].partition("base64,")

        def written(text: str) -> bytes:
            header["__metadata__"][key] = text
            raw = json.dumps(header).encode()
            return len(raw).to_bytes(8, "little") + raw + sound[8 + length :]

        images = of_bytes(base64.b64decode(encoded)).map(
            lambda content: f"{start}base64,{base64.b64encode(content).decode()}"
        )
        texts = of_bytes(encoded.encode()).map(lambda content: f"{start}base64,{content.decode('latin-1')}")
        return st.one_of(images, images, texts).map(written)

    return damaged


def _holds_json(value: Any) -> bool:
    """Returns whether a value is a text that holds a JSON object or array."""
    try:
        return isinstance(value, str) and isinstance(json.loads(value), dict | list)
    except (ValueError, RecursionError):
        return False


def _slots(tree: Any) -> Iterator[Slot]:
    """Yields every place of a value in a tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _slots(tree[key])
