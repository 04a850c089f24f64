"""The text guidance scale s_T of nodes that may leave it to the model."""

from ...core.models.families import Family

DEFAULT_SCALE = -1.0
"""The input's value that stands for the family's default."""


def scale_for(family: Family, text_scale: float) -> float:
    """Returns ``text_scale``, or the family's default for ``DEFAULT_SCALE``."""
    return family.default_text_scale if text_scale == DEFAULT_SCALE else text_scale
