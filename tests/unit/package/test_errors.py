"""Messages of errors, which may repeat names and headers of files from elsewhere."""

import pickle
from pathlib import Path

import pytest

from instructbrush.core.errors import (
    DataError,
    InstructBrushError,
    PairError,
    UnfinishedError,
    first_line,
    shown_text,
)
from instructbrush.core.pairs.layouts import MissingPartnerError
from instructbrush.core.reasoning.answers import one_line, printable


def kinds(base: type[InstructBrushError] = InstructBrushError) -> list[type[InstructBrushError]]:
    return [base, *(each for kind in base.__subclasses__() for each in kinds(kind))]


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind is not MissingPartnerError])
def test_messages_hold_no_control_characters_and_end(kind: type[InstructBrushError]) -> None:
    message = str(kind("\x1b]0;x\x07\x9b1m\ud800 \r\nlast\tone é雪"))
    assert message == " ]0;x  1m   \nlast one é雪"
    long = str(kind("a" * 60_000_000))
    assert len(long) == 2000 and long.endswith("a...")
    assert str(kind("a" * 2000)) == "a" * 2000


def test_errors_keep_their_other_arguments() -> None:
    image = Path("x\x1b.png")
    error = MissingPartnerError("Image 'x\x1b.png' has no partner.", image, "before")
    assert str(error) == "Image 'x .png' has no partner." and error.args == (str(error),)
    assert (error.image, error.side, error.partner) == (image, "before", None)
    assert DataError("a\0", 3, None).args == ("a ", 3, None) and str(PairError()) == ""
    copy = pickle.loads(pickle.dumps(UnfinishedError("b" * 3000)))  # noqa: S301 (made here)
    assert type(copy) is UnfinishedError and str(copy) == "b" * 1997 + "..."


def test_other_texts_can_be_printed_too() -> None:
    assert first_line(ValueError("\x1b[2J\nmore")) == " [2J"
    assert shown_text("one\ntwo") == "one\ntwo"
    assert printable("a\x7f\x80\x9b\x9fb\nc") == "a    b\nc" and one_line("a\x9b31mb") == "a 31mb"
