"""Errors that are meant for users. A message names what failed, the offending value and what to do."""

import re

# Names of files and headers may hold anything.
_MOST_CHARACTERS = 2000
# Surrogates stand for bytes of names that are no text, and cannot be printed.
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def shown_text(text: str) -> str:
    """Replaces control characters except line feeds by spaces, and cuts a text at 2000 characters."""
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[: _MOST_CHARACTERS - 3]}..."
    return _UNPRINTABLE.sub(" ", text)


class InstructBrushError(Exception):
    """Base of all errors below. Its texts are those of ``shown_text``."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(shown_text(each) if isinstance(each, str) else each for each in args))


class ModelError(InstructBrushError):
    """A model is unreadable, of an unsupported kind, or does not fit what it is used with."""


class PairError(InstructBrushError):
    """Before/after pairs are missing, mismatched, unreadable or unfit for learning."""


class InstructionError(InstructBrushError):
    """An instruction or its file is malformed, or does not fit the model."""


class LearningError(InstructBrushError):
    """Learning or training cannot start or resume, or its result is unusable."""


class WorthlessError(LearningError):
    """The result so far is not finite or has not changed, so it is neither kept nor resumed."""


class DataError(InstructBrushError):
    """A data set is damaged, lacks a column or an image, or needs a library that is not installed."""


class EvaluationError(InstructBrushError):
    """A benchmark's folder is malformed, or something that a metric needs is missing."""


class UnfinishedError(EvaluationError):
    """A benchmark stopped because its time is over. The same command continues it."""


class RegionError(InstructBrushError):
    """A mask or a box is malformed, or does not fit the image."""


class StorageError(InstructBrushError):
    """A file cannot be written: no space, no permission, or no folder."""


class DeviceError(InstructBrushError):
    """This machine or this build of torch does not have the named device."""


class BuildError(InstructBrushError):
    """A build of a data set cannot go on: its settings, its folder or a model that it needs.

    Nothing is lost.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, for other messages."""
    return shown_text(str(error).strip().split("\n")[0] or type(error).__name__)[:300]
