"""A strength for every segment of the noise schedule."""

from collections.abc import Sequence

from ..errors import InstructionError
from .instruction import Blend, Instruction, parts_of


def parse_segment_strengths(text: str) -> list[float] | None:
    """Reads factors such as "1, 1, 1, 0.5, 0", from low to high noise. None if the text is empty.

    Raises:
        InstructionError: a factor is not a number.
    """
    if not text.strip():
        return None
    try:
        return [float(word) for word in text.replace(";", ",").split(",")]
    except ValueError as error:
        raise InstructionError(
            f"Segment strengths: '{text}' is not a list of numbers ({error}). "
            "Write for example: 1, 1, 1, 0.5, 0"
        ) from error


def common_segments(instruction: Instruction | Blend) -> int:
    """Returns how many segment strengths an instruction takes: 1 for a blend of different segments."""
    counts = _segment_counts(instruction)
    return counts[0] if len(counts) == 1 else 1


def segment_factors(
    instruction: Instruction | Blend, segment_strengths: Sequence[float] | None
) -> list[float]:
    """Returns one factor for every segment, or a single one for a blend of different segments.

    Raises:
        InstructionError: there are too many or too few values, or a single one is needed.
    """
    counts = _segment_counts(instruction)
    segments = common_segments(instruction)
    factors = [1.0] if segment_strengths is None else [float(value) for value in segment_strengths]
    if len(factors) == 1:
        return factors * segments
    if len(counts) > 1:
        raise InstructionError(
            f"Segment strengths: the blended instructions have {counts} segments, so their segments are not "
            "the same. Give one value for all."
        )
    if len(factors) != segments:
        raise InstructionError(
            f"Segment strengths: {len(factors)} values were given, but the instruction has {segments} "
            f"segments. Give {segments} values, from low noise to high, or one for all."
        )
    return factors


def _segment_counts(instruction: Instruction | Blend) -> list[int]:
    """The different numbers of segments of the parts that act, or of all parts if none acts."""
    parts = parts_of(instruction)
    acting = [part for part in parts if part.weight != 0.0]
    return sorted({part.instruction.info.segments for part in acting or parts})
