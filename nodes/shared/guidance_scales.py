"""The guidance scales of nodes that may leave them to the instruction or the model."""

from ...core.editing.settings import SamplingSettings
from ...core.models.families import Family

AUTO_SCALE = -1.0
"""The value of an input that leaves the scale to the instruction or the model."""


def scales_for(
    family: Family, text_scale: float, image_scale: float, own: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Returns s_T and s_I for the values of two inputs, see ``SamplingSettings.scales_for``."""
    given = SamplingSettings(
        text_scale=None if text_scale == AUTO_SCALE else text_scale,
        image_scale=None if image_scale == AUTO_SCALE else image_scale,
    )
    return given.scales_for(family, own)
