"""The pack's own socket types, and what travels through them."""

from dataclasses import dataclass

from comfy_api.latest import io
from PIL import Image

from ...core.instruction.instruction import Blend, Instruction, WeightedInstruction, parts_of

Pairs = io.Custom("INSTRUCTBRUSH_PAIRS")
"""Carries core's ``EditPairs``."""

InstructionSocket = io.Custom("INSTRUCTBRUSH_INSTRUCTION")
"""Carries core's ``Instruction`` or ``Blend``."""

OpenClip = io.Custom("INSTRUCTBRUSH_OPEN_CLIP")
"""Carries core's ``ClipModel``: images and words in one space."""

RegionFinder = io.Custom("INSTRUCTBRUSH_REGION_FINDER")
"""Carries core's ``RegionFinder``: finds objects by words."""

MllmSocket = io.Custom("INSTRUCTBRUSH_MLLM")
"""Carries core's ``Mllm``: reads an image together with words."""

ConnectorSocket = io.Custom("INSTRUCTBRUSH_CONNECTOR")
"""Carries core's ``Connector``: from an MLLM's states to an editor's text states."""


@dataclass(frozen=True)
class InstructionWithThumbnail(Instruction):
    """An instruction that knows its image: before and after of the first pair, side by side."""

    thumbnail: Image.Image | None = None


_IMAGES = 4


def with_thumbnail(instruction: Instruction | Blend, thumbnail: Image.Image | None) -> Instruction | Blend:
    """The same with an image: every part of a blend gets it, so that it stays whatever becomes of the others. Without one, images are left as they are."""
    if thumbnail is None:
        return instruction
    if isinstance(instruction, Blend):
        return Blend(
            tuple(WeightedInstruction(part.weight, _shown(part.instruction, thumbnail)) for part in instruction.parts)
        )
    return _shown(instruction, thumbnail)


def thumbnail_of(*instructions: Instruction | Blend) -> Image.Image | None:
    """The images that they know, each once, below each other; None where there is none."""
    parts = [part.instruction for each in instructions for part in parts_of(each)]
    known = [
        part.thumbnail for part in parts if isinstance(part, InstructionWithThumbnail) and part.thumbnail is not None
    ]
    images = list({(image.size, image.tobytes()): image for image in known}.values())[:_IMAGES]
    if len(images) < 2:
        return images[0] if images else None
    whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)))
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole


def _shown(instruction: Instruction, thumbnail: Image.Image) -> InstructionWithThumbnail:
    return InstructionWithThumbnail(
        instruction.keys,
        instruction.values,
        instruction.context,
        instruction.start,
        instruction.info,
        instruction.rows,
        thumbnail,
    )
