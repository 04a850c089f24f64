"""The values of a setting that is varied, such as T in Fig. 3 of InstructBrush."""

import math
from collections.abc import Sequence

from ..errors import InstructBrushError

MOST_VALUES = 100


def parse_values(text: str) -> list[float]:
    """Reads values such as "0, 0.5, 1" or ranges such as "0:1000:200", which means 0, 200, ..., 1000.

    Values may be separated by commas, semicolons or spaces. A value that appears again is left out.

    Raises:
        InstructBrushError: a value is not a number, a range is not start:stop:step, or there are no values or
            more than 100.
    """
    values: list[float] = []
    for word in text.replace(",", " ").replace(";", " ").split():
        parts = [_number(part, word) for part in word.split(":")]
        if len(parts) == 1:
            values += parts
        elif len(parts) == 3:
            values += _range((parts[0], parts[1], parts[2]), word)
        else:
            raise InstructBrushError(
                f"Values: '{word}' is no range. Write start:stop:step, for example 0:1000:200."
            )
    values = list(dict.fromkeys(values))
    if not 1 <= len(values) <= MOST_VALUES:
        raise InstructBrushError(
            f"Values: '{text.strip()[:60]}' gives {len(values)} values, between 1 and {MOST_VALUES} are "
            "needed. Write for example: 0, 200, 400"
        )
    return values


def labels(name: str, values: Sequence[float]) -> list[str]:
    """Returns the titles of the columns of a contact sheet, such as "T = 200"."""
    return [f"{name} = {shortest(value)}" if name else shortest(value) for value in values]


def shortest(value: float) -> str:
    """Returns the shortest text of a number that tells it from all others, such as "1" or "0.12345671"."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def _number(text: str, word: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InstructBrushError(f"Values: '{word[:40]}' is not a number. Write for example: 0, 200, 400")
    return number


def _range(bounds: tuple[float, float, float], word: str) -> list[float]:
    start, stop, step = bounds
    count = (stop - start) / step if step else math.inf
    if not 0 <= count < MOST_VALUES:
        raise InstructBrushError(
            f"Values: the range '{word}' gives no values, or more than {MOST_VALUES}. Choose another step."
        )
    # A little tolerance, so that 0:1:0.1 ends with 1. Rounding removes the error of the multiplication.
    return [round(start + index * step, 10) for index in range(math.floor(count + 1e-9) + 1)]
