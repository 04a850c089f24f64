"""The guidance scales of nodes that may leave them to the instruction or the model."""

from comfy_api.latest import io

from ...core.editing.settings import SamplingSettings
from ...core.models.families import POCKET, SD15, Family

AUTO_SCALE = -1.0
"""The value of an input that leaves the scale to the instruction or the model."""

_USUAL = SD15


def scale_inputs(owner: str) -> list[io.Input]:
    """The inputs text_scale and image_scale.

    Args:
        owner: what is followed: "the instruction or the words".
    """
    found = " If both are auto, they are what was found when the instruction was learned."
    return [
        io.Float.Input(
            "text_scale",
            default=AUTO_SCALE,
            min=AUTO_SCALE,
            max=30.0,
            step=0.1,
            tooltip=f"How strongly to follow {owner}. auto (-1) is the model's own value: "
            f"{_USUAL.default_text_scale:g}, or {POCKET.default_text_scale:g} for the pocket editor."
            f"{found if 'instruction' in owner else ''}",
        ),
        io.Float.Input(
            "image_scale",
            default=AUTO_SCALE,
            min=AUTO_SCALE,
            max=10.0,
            step=0.05,
            tooltip="How closely to keep to the image. auto (-1) is the model's own value, "
            f"{_USUAL.default_image_scale:g}."
            f"{found if 'instruction' in owner else ''} With both at 1, the model has a third of the work.",
        ),
    ]


def scales_for(
    family: Family, text_scale: float, image_scale: float, own: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Returns s_T and s_I for the values of two inputs, see ``SamplingSettings.scales_for``."""
    given = SamplingSettings(
        text_scale=None if text_scale == AUTO_SCALE else text_scale,
        image_scale=None if image_scale == AUTO_SCALE else image_scale,
    )
    return given.scales_for(family, own)
