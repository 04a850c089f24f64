"""What the learning nodes share: their common inputs, their settings, and the run."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from comfy_api.latest import io

from ...core.encoders.clip import OpenClipModel
from ...core.errors import PairError
from ...core.learning.run import wants_scales
from ...core.learning.settings import LearningSettings, preset_for, preset_name
from ...core.models.families import Family
from ...core.pairs.pairs import EditPair, EditPairs
from ...core.pairs.thumbnail import thumbnail
from ..comfy.learning import active
from ..comfy.learning.callbacks import Display
from ..comfy.learning.progress import LearningProgress
from ..comfy.learning.session import LearningInputs, LearningSession
from ..comfy.models.description import describe
from ..comfy.types import Clip, Model, Vae
from ..shared.guidance_scales import AUTO_SCALE, scales_for
from ..shared.learning_inputs import CUSTOM, FOLLOW, final_rate
from ..shared.node import Node
from ..shared.socket_types import with_thumbnail


@dataclass(frozen=True)
class CommonInputs:
    """The inputs that every learning node has, under their names."""

    model: Model
    clip: Clip
    vae: Vae
    pairs: EditPairs
    init_text: str
    preset: str
    tokens: int
    steps: int
    learning_rate: float
    seed: int
    preview_every: int
    hold_out: int
    gradient_checkpointing: bool = False
    resume: bool = True
    final_learning_rate: float = FOLLOW
    text_scale: float = AUTO_SCALE
    image_scale: float = 1.5
    noise: Literal["fresh", "fixed"] = "fresh"
    guidance: Literal["search", "default"] = "search"
    save_every: int = 0

    def settings(self, family: Family, space: str, own: dict[str, Any]) -> LearningSettings:
        """The settings of the preset, or of the inputs if the preset is ``custom``.

        Args:
            family: of the model.
            space: the space to learn in.
            own: settings from the inputs that only this node has.
        """
        if self.preset != CUSTOM:
            return replace(preset_for(family.name, space, self.preset), seed=self.seed)
        common: dict[str, Any] = {
            # An adapter may have no rows; elsewhere 0 stands for the number of the init text's tokens.
            "tokens": self.tokens if space == "adapter" else self.tokens or None,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "final_learning_rate": final_rate(
                preset_for(family.name, space), self.learning_rate, self.final_learning_rate
            ),
            "text_scale": scales_for(family, self.text_scale, self.image_scale)[0],
            "image_scale": self.image_scale,
            "noise": self.noise,
            "seed": self.seed,
        }
        return replace(preset_for(family.name, space), **common, **own)

    def split_pairs(self) -> tuple[EditPairs, EditPair]:
        """The pairs to learn from, and the pair to preview: the one that is held out, or the first one.

        The node's own number comes before the star on the pairs board. A single pair is learned from and
        previewed.

        Raises:
            PairError: the node's number is larger than the number of pairs.
        """
        held_out = self.hold_out - 1 if self.hold_out else self.pairs.held_out
        if held_out is None:
            return self.pairs, self.pairs[0]
        if held_out >= len(self.pairs):
            raise PairError(
                f"Pair to hold out is {self.hold_out}, but there are {len(self.pairs)} pairs. Choose a "
                "smaller number, or none."
            )
        return self.pairs.without(held_out), self.pairs[held_out]


def run_learning(
    hidden: io.HiddenHolder,
    common: CommonInputs,
    space: str,
    own: dict[str, Any],
    open_clip: OpenClipModel | None = None,
) -> io.NodeOutput:
    """Learns, and returns what a learning node gives.

    Args:
        hidden: its id and the workflow.
        common: the inputs that it shares with the other learning nodes.
        space: the space to learn in.
        own: settings from its other inputs, which act with the preset ``custom``.
        open_clip: the CLIP of the direction loss.
    """
    pairs, watched = common.split_pairs()
    family = describe(common.model).family
    settings = common.settings(family, space, own)
    inputs = LearningInputs(
        common.model,
        common.clip,
        common.vae,
        pairs,
        watched,
        common.init_text,
        settings,
        open_clip,
        common.gradient_checkpointing,
        wants_scales(common.preset, None if common.guidance == "search" else common.guidance),
    )
    workflow = str(((hidden.extra_pnginfo or {}).get("workflow") or {}).get("id") or "")
    progress = LearningProgress(hidden.unique_id, settings.steps, len(pairs), workflow)
    display = Display(common.preview_every, common.save_every, common.resume)
    with progress.shown():
        instruction = LearningSession(inputs, progress).run(display)
    learned = with_thumbnail(instruction, thumbnail(pairs))
    used = {"preset": preset_name(family.name, space, common.preset)}
    return io.NodeOutput(learned, ui={"learning": [progress.result() | used]})


class LearningNode(Node):
    """What the learning nodes share: a run that ended early can be continued with the panel's button."""

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> int:
        """Changes when the user continues a run that ended early, whose result ComfyUI has in its cache."""
        return active.fingerprint(cls.hidden.unique_id, inputs) if cls.hidden else 0
