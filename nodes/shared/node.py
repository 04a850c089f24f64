"""What every node of the pack does with inputs that come by wire."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any
from uuid import uuid4

from comfy_api.latest import io

from ...core.errors import InstructBrushError


class Choice(io.Combo.Input):
    """One of a list, chosen in the node or sent as a text by wire."""

    def get_io_type(self) -> str:
        """COMBO, which a text fits as well."""
        return _ListOrText(super().get_io_type())


class NameChoice(Choice):
    """One of what lies in the user's folders, which may change: execute itself says what is not there."""


class Node(io.ComfyNode):
    """A node that checks texts and numbers which came by wire.

    ComfyUI gives None to validate_inputs and fingerprint_inputs for what comes by wire: it is known, and checked, when the node runs.
    """

    @classmethod
    def check_lazy_status(cls, **values: Any) -> list[str]:
        """Check choices, texts and numbers; nothing is lazy. ComfyUI calls this with all values just before the node runs.

        Raises:
            InstructBrushError: one is no text or no number, none of its list, or out of its range.
        """
        schema = cls.define_schema()
        for each in schema.inputs:
            check = (
                _check_number
                if isinstance(each, io.Int.Input | io.Float.Input)
                else _check
                if isinstance(each, io.Combo.Input | io.String.Input)
                else None
            )
            if check is not None and each.id in values:
                for value in values[each.id] if schema.is_input_list else [values[each.id]]:
                    check(schema.display_name or cls.__name__, each, value)
        return []


def check_names(look: Callable[..., object], *names: Any) -> bool | str:
    """What validate_inputs answers for names of what lies in folders: ``look`` gets them and raises an InstructBrushError for one that is not there."""
    if None in names:
        return True
    foreign = next((name for name in names if not isinstance(name, str)), None)
    if foreign is not None:
        return f"{foreign!r} is no name. Choose one of the list."
    try:
        look(*names)
    except InstructBrushError as error:
        return str(error)
    return True


class FileFingerprints:
    """What fingerprint_inputs answers for names of what lies in folders: a text that is another one as soon as something has changed there.

    Of a name that comes by wire nothing is known before the node runs. There the answer stays the same until something changes under one of the names that were
    read so far.

    Args:
        state: gets the names, and changes whenever what lies there does; raises an InstructBrushError where nothing does.
    """

    def __init__(self, state: Callable[..., str]) -> None:
        self._look = state
        self._read: dict[tuple[str, ...], str] = {}
        # No other process gives the same answer: ComfyUI may keep results longer than it runs itself.
        self._answer = uuid4().hex

    def fingerprint(self, *names: str | None) -> str:
        """The answer for a node's names."""
        if None not in names:
            return self._look(*names)
        now = {read: self._state(read) for read in self._read}
        if now != self._read:
            self._read, self._answer = now, uuid4().hex
        return self._answer

    def record(self, *names: str) -> None:
        """To be called before a node reads what lies under its names.

        Raises:
            InstructBrushError: nothing lies there.
        """
        self._read[names] = self._look(*names)

    def _state(self, names: tuple[str, ...]) -> str:
        try:
            return self._look(*names)
        except InstructBrushError:
            return ""


class _ListOrText(str):
    """ComfyUI asks with ``!=`` whether the type of an output differs from that of an input."""

    def __ne__(self, other: object) -> bool:
        return not (self == other or (isinstance(other, str) and io.String.io_type in other.split(",")))


def _check_number(title: str, wanted: Any, value: object) -> None:
    whole = isinstance(wanted, io.Int.Input)
    if not isinstance(value, Integral if whole else Real):
        needed = "a whole number" if whole else "a number"
        raise InstructBrushError(
            f"{title}: {wanted.id} must be {needed}, not {type(value).__name__}. Connect {needed}, or write one into the node."
        )
    if not wanted.min <= value <= wanted.max:
        raise InstructBrushError(
            f"{title}: {wanted.id} is {value}; it must lie between {wanted.min} and {wanted.max}."
        )


def _check(title: str, wanted: Any, value: object) -> None:
    if not isinstance(value, str):
        raise InstructBrushError(
            f"{title}: {wanted.id} must be a text, not {type(value).__name__}. Connect a text, or write one into the node."
        )
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        raise InstructBrushError(f"{title}: {wanted.id} holds half a character. Write it anew.")
    if (
        isinstance(wanted, io.Combo.Input)
        and not isinstance(wanted, NameChoice)
        and value not in wanted.options
    ):
        raise InstructBrushError(
            f"{title}: '{value}' is no choice for {wanted.id}. Choose one of: {', '.join(map(str, wanted.options))}."
        )
