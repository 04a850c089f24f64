"""What the learning nodes share: settings, the pair to preview, and the run."""

from dataclasses import replace

from comfy_api.latest import io

from ...core.learning.settings import (
    LearningSettings,
    preset_for,
)
from ...core.pairs.pairs import EditPair, EditPairs, thumbnail
from ..comfy.learning.session import Display, LearningInputs, LearningSession
from ..shared.socket_types import with_thumbnail

CUSTOM = "custom"
"""Name for the values of the node's own inputs."""


def settings_of(family: str, space: str, preset: str, seed: int) -> LearningSettings:
    """The settings of a preset."""
    return replace(preset_for(family, space, preset), seed=seed)


def split_pairs(pairs: EditPairs, hold_out: int) -> tuple[EditPairs, EditPair]:
    """The pairs to learn from, and the pair to preview: the one that is held out, or the first one."""
    if not hold_out:
        return pairs, pairs[0]
    return pairs.without(hold_out - 1), pairs[(hold_out - 1) % len(pairs)]


def run_learning(inputs: LearningInputs, display: Display, resume: bool) -> io.NodeOutput:
    """Learns, and returns what a learning node gives."""
    instruction, summary = LearningSession(inputs).run(display, resume)
    return io.NodeOutput(with_thumbnail(instruction, thumbnail(inputs.pairs)), ui={"learning": [summary]})
