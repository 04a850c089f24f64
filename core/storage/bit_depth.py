"""The rule that scales pixel values of any bit depth to 8 bits."""

import numpy as np

_RANGES = (1.0, 255.0, 65535.0)


def to_eight_bits(values: np.ndarray, top: float | None = None) -> tuple[np.ndarray, list[str]]:
    """Scales values of any kind to 0..255 in uint8.

    If ``top`` is known, it becomes 255. Otherwise the values decide: values up to 1 are read as 0..1, up to
    255 as 0..255, up to 65535 as 0..65535, and beyond that the largest value becomes 255. Floats of which at
    most half exceed 1 are read as 0..1 with highlights, which are clipped. Values below 0 are clipped.

    Args:
        values: integers or floats.
        top: the largest possible value, if the file states it.

    Returns:
        The values, and remarks about what was scaled or clipped.

    Raises:
        ValueError: some values are not finite.
    """
    remarks = []
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if values.min() < 0:
        remarks.append(f"holds values down to {values.min():g}; those below 0 are clipped")
    if top is None:
        largest = float(values.max())
        if is_float and largest > 1 and 2 * np.count_nonzero(values > 1) <= values.size:
            top = 1.0
            remarks.append(f"holds values up to {largest:g}; those above 1 are clipped")
        else:
            top = next((bound for bound in _RANGES if largest <= bound), largest)
            if top != 1:
                remarks.append(
                    f"does not state its range; its values go up to {largest:g} and are read as 0 to {top:g}"
                )
    scaled = np.multiply(values, 255 / top, dtype=np.float32 if values.dtype.itemsize <= 4 else np.float64)
    return scaled.round(out=scaled).clip(0, 255, out=scaled).astype(np.uint8), remarks
