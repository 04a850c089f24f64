"""The pack's own socket types, and what travels through them."""

from dataclasses import dataclass

from comfy_api.latest import io
from PIL import Image

from ..core.instruction.artefact import Instruction

Pairs = io.Custom("INSTRUCTBRUSH_PAIRS")
"""Carries core's ``EditPairs``."""

InstructionSocket = io.Custom("INSTRUCTBRUSH_INSTRUCTION")
"""Carries core's ``Instruction``."""


@dataclass(frozen=True)
class ShownInstruction(Instruction):
    """An instruction that knows its picture: before and after of the first pair, side by side."""

    thumbnail: Image.Image | None = None


def shown(instruction: Instruction, thumbnail: Image.Image | None) -> ShownInstruction:
    """The same instruction with a picture."""
    return ShownInstruction(instruction.keys, instruction.values, instruction.context, instruction.start, instruction.info, thumbnail)
