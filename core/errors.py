"""What went wrong, where, and how to mend it: every error this package raises for its users."""


class InstructBrushError(Exception):
    """Base of all errors meant for the user. The message names what failed, the offending value and what to do."""


class ModelError(InstructBrushError):
    """A model cannot be read, is of an unknown or unsuitable kind, or does not fit what it is used with."""


class PairError(InstructBrushError):
    """Before/after pairs are missing, mismatched, unreadable or unfit for learning."""


class InstructionError(InstructBrushError):
    """An instruction, or the file that holds one, is malformed or does not fit the model."""


class LearningError(InstructBrushError):
    """Learning cannot start, cannot resume, or produced something that must not be kept."""


class WorthlessError(LearningError):
    """What was learned so far is not worth keeping, nor worth going on with: it is not finite, or nothing moved."""


class DataError(InstructBrushError):
    """A data set's tables cannot be read: damaged, without a column or an image, or what reads them is missing."""


class EvaluationError(InstructBrushError):
    """Edits cannot be measured: a benchmark's folder is malformed, or something that measures is missing."""


class RegionError(InstructBrushError):
    """A region cannot be used: a mask or a box is malformed, refused, or does not fit the image."""


class StorageError(InstructBrushError):
    """A file cannot be written: no space, no permission, or its folder is gone."""


class DeviceError(InstructBrushError):
    """A device was named that this machine, or this torch, does not have."""
