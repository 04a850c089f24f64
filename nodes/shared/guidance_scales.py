"""s_T where a node leaves it to the model."""

from ...core.models.families import Family

DEFAULT_SCALE = -1.0
"""Stands for the scale that suits the model."""


def scale_for(family: Family, text_scale: float) -> float:
    """s_T of a model whose user chose ``text_scale``, or left it at :data:`DEFAULT_SCALE`."""
    return family.default_text_scale if text_scale == DEFAULT_SCALE else text_scale
