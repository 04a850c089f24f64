"""The pack's socket types, and instructions that carry a thumbnail."""

from dataclasses import dataclass, fields

from comfy_api.latest import io
from PIL import Image

from ...core.instruction.instruction import Blend, Instruction, WeightedInstruction, parts_of

Pairs = io.Custom("INSTRUCTBRUSH_PAIRS")
"""Carries core's ``EditPairs``."""

InstructionSocket = io.Custom("INSTRUCTBRUSH_INSTRUCTION")
"""Carries core's ``Instruction`` or ``Blend``."""

OpenClip = io.Custom("INSTRUCTBRUSH_OPEN_CLIP")
"""Carries core's ``ClipModel``, which embeds images and words in one space."""

RegionFinder = io.Custom("INSTRUCTBRUSH_REGION_FINDER")
"""Carries core's ``RegionFinder``, which finds objects by words."""

MllmSocket = io.Custom("INSTRUCTBRUSH_MLLM")
"""Carries core's ``Mllm``, a vision-language model."""

ConnectorSocket = io.Custom("INSTRUCTBRUSH_CONNECTOR")
"""Carries core's ``Connector``, which maps an MLLM's states to an editor's text states."""


_MOST_THUMBNAILS = 4


@dataclass(frozen=True)
class InstructionWithThumbnail(Instruction):
    """An instruction with an image: before and after of its first pair, side by side."""

    thumbnail: Image.Image | None = None


def with_thumbnail(instruction: Instruction | Blend, thumbnail: Image.Image | None) -> Instruction | Blend:
    """Attaches a thumbnail to an instruction, or to every part of a blend. None changes nothing."""
    if thumbnail is None:
        return instruction
    if not isinstance(instruction, Blend):
        return _attach(instruction, thumbnail)
    parts = [
        WeightedInstruction(part.weight, _attach(part.instruction, thumbnail)) for part in instruction.parts
    ]
    return Blend(tuple(parts))


def thumbnail_of(*instructions: Instruction | Blend) -> Image.Image | None:
    """Returns all different thumbnails of the instructions below each other; None if there are none."""
    thumbnails = [
        part.instruction.thumbnail
        for instruction in instructions
        for part in parts_of(instruction)
        if isinstance(part.instruction, InstructionWithThumbnail)
    ]
    different = {(image.size, image.tobytes()): image for image in thumbnails if image is not None}
    images = list(different.values())[:_MOST_THUMBNAILS]
    if len(images) < 2:
        return images[0] if images else None
    size = (max(image.width for image in images), sum(image.height for image in images))
    joined = Image.new("RGB", size)
    top = 0
    for image in images:
        joined.paste(image, (0, top))
        top += image.height
    return joined


def _attach(instruction: Instruction, thumbnail: Image.Image) -> InstructionWithThumbnail:
    values = {field.name: getattr(instruction, field.name) for field in fields(Instruction)}
    return InstructionWithThumbnail(**values, thumbnail=thumbnail)
