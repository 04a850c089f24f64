"""The base class of nodes. Labels inputs, checks values that come by wire, and fingerprints files."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any
from uuid import uuid4

from comfy_api.latest import io

from ...core.errors import InstructBrushError
from .labels import add_labels


class Choice(io.Combo.Input):
    """One of a list, chosen in the node or connected as a text."""

    def get_io_type(self) -> str:
        """COMBO, which also accepts a text output."""
        return _ListOrText(super().get_io_type())


class NameChoice(Choice):
    """The name of something in the user's folders. Folders may change, so ``execute`` checks the name."""


class _Labelled(classmethod):
    """A define_schema with labels."""

    def __init__(self, own: Callable[[Any], io.Schema]) -> None:
        super().__init__(lambda node: add_labels(own(node)))


class Node(io.ComfyNode):
    """A node that checks the values that come by wire.

    ComfyUI passes None for them to validate_inputs and fingerprint_inputs. Their values are known only when
    the node runs.
    """

    def __init_subclass__(cls) -> None:
        """Adds labels to the schema that the node defines."""
        super().__init_subclass__()
        defined = cls.__dict__.get("define_schema")
        # ComfyUI runs a node as a copy of its class, which is locked and has the labels already.
        if defined is not None and not isinstance(defined, _Labelled):
            cls.define_schema = _Labelled(defined.__func__)  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def check_lazy_status(cls, **values: Any) -> list[str]:
        """Checks values that come by wire. ComfyUI calls this with all values just before the node runs.

        Returns:
            An empty list, because no input is lazy.

        Raises:
            InstructBrushError: a value has the wrong type, is no choice of its list, is out of range, or is
                missing.
        """
        schema = cls.define_schema()
        title = schema.display_name or cls.__name__
        for each in schema.inputs:
            if isinstance(each, io.Int.Input | io.Float.Input):
                check = _check_number
            elif isinstance(each, io.Combo.Input | io.String.Input):
                check = _check_text
            else:
                continue
            if each.id in values:
                for value in values[each.id] if schema.is_input_list else [values[each.id]]:
                    check(title, each, value)
        for each in schema.inputs:
            if isinstance(each, io.Input) and not each.optional and values.get(each.id, each) is None:
                raise InstructBrushError(
                    f"{title}: nothing came through {_named(each)}, because the node that is connected there "
                    "has no result. Connect another one, or give that node what it needs."
                )
        return []


def check_names(find: Callable[..., object], *names: Any) -> bool | str:
    """The answer of validate_inputs for names of files and folders.

    Args:
        find: gets the names and raises an InstructBrushError if one does not exist.
        names: None for a name that comes by wire, which cannot be checked yet.

    Returns:
        True, or an error message.
    """
    if None in names:
        return True
    for name in names:
        if not isinstance(name, str):
            return f"{name!r} is not a name. Choose one from the list."
    try:
        find(*names)
    except InstructBrushError as error:
        return str(error)
    return True


class FileFingerprints:
    """The answers of fingerprint_inputs for names of files and folders. They change when the files change.

    A name that comes by wire is unknown before the node runs. Its fingerprint changes when a file changes
    that was read under any name so far.

    Args:
        state: gets the names and returns a text that changes with the files. Raises an InstructBrushError if
            they do not exist.
    """

    def __init__(self, state: Callable[..., str]) -> None:
        self._state_of = state
        self._states_read: dict[tuple[str, ...], str] = {}
        # Unique across processes, because ComfyUI may keep results longer than it runs.
        self._wire_fingerprint = uuid4().hex

    def fingerprint(self, *names: str | None) -> str:
        """Returns the fingerprint for a node's names; None for a name that comes by wire."""
        if None not in names:
            return self._state_of(*names)
        states = {read: self._state_or_empty(read) for read in self._states_read}
        if states != self._states_read:
            self._states_read = states
            self._wire_fingerprint = uuid4().hex
        return self._wire_fingerprint

    def record(self, *names: str) -> None:
        """Must be called before a node reads the files under its names.

        Raises:
            InstructBrushError: they do not exist.
        """
        state = self._state_of(*names)
        if self._states_read.get(names, state) != state:
            self._wire_fingerprint = uuid4().hex
        self._states_read[names] = state

    def _state_or_empty(self, names: tuple[str, ...]) -> str:
        try:
            return self._state_of(*names)
        except InstructBrushError:
            return ""


class _ListOrText(str):
    """A type name that accepts text outputs. ComfyUI compares the types of output and input with ``!=``."""

    def __ne__(self, other: object) -> bool:
        return not (self == other or (isinstance(other, str) and io.String.io_type in other.split(",")))


def _named(declared: Any) -> str:
    """The name of an input that the user reads, with its id, which stands in saved workflows."""
    label = declared.display_name
    return label if label == declared.id.replace("_", " ") else f"{label} ({declared.id})"


def _check_number(title: str, declared: Any, value: object) -> None:
    whole = isinstance(declared, io.Int.Input)
    if not isinstance(value, Integral if whole else Real):
        needed = "a whole number" if whole else "a number"
        raise InstructBrushError(
            f"{title}: {_named(declared)} must be {needed}, not {type(value).__name__}. Connect {needed}, or "
            "write one into the node."
        )
    if not declared.min <= value <= declared.max:
        raise InstructBrushError(
            f"{title}: {_named(declared)} is {value}; it must lie between {declared.min} and {declared.max}."
        )


def _check_text(title: str, declared: Any, value: object) -> None:
    if not isinstance(value, str):
        raise InstructBrushError(
            f"{title}: {_named(declared)} must be a text, not {type(value).__name__}. Connect a text, or "
            "write one into the node."
        )
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        raise InstructBrushError(
            f"{title}: {_named(declared)} holds an incomplete character. Type the text again."
        )
    is_choice = isinstance(declared, io.Combo.Input) and not isinstance(declared, NameChoice)
    if is_choice and value not in declared.options:
        raise InstructBrushError(
            f"{title}: '{value}' is not a choice for {_named(declared)}. Choose one of: "
            f"{', '.join(map(str, declared.options))}."
        )
