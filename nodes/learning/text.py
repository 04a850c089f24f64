"""The node that learns text states (Visii)."""

from typing import Any

from comfy_api.latest import io

from ...core.encoders.clip import OpenClipModel
from ...core.learning.settings import POCKET_TEXT
from ..shared import learning_inputs as inputs
from ..shared.node import Choice
from ..shared.socket_types import OpenClip
from .runs import CommonInputs, LearningNode, run_learning


class LearnTextInstruction(LearningNode):
    """Learns an instruction in text space from pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLearnText",
            display_name="Learn Instruction (CLIP space)",
            category="InstructBrush/learning",
            description="Learns the edit that the pairs have in common as text states that replace words "
            "(Visii). It reproduces an edit less closely than Learn Instruction, but works in every model "
            "with the same text encoder, as plain CONDITIONING, and can be combined with your own words.",
            search_aliases=[
                "visii",
                "visual instruction inversion",
                "textual inversion",
                "prompt inversion",
                "learn edit",
                "before after",
                "instructbrush",
                "embedding",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                *inputs.sources(),
                inputs.preset(
                    "text",
                    "auto: pocket for the pocket editor, paper for other models. custom: the values "
                    "below. pocket: best for the pocket editor. paper: Visii's values (the rows of the init "
                    "text, 1000 steps, rate 0.001, guided error). Every preset but custom takes its own "
                    "values; the seed, previews, pair to hold out, memory and saves stay yours.",
                ),
                io.Int.Input(
                    "tokens",
                    default=POCKET_TEXT.tokens or 0,
                    min=0,
                    max=76,
                    tooltip="The number of learned rows of text states (m). auto (0) takes the number of "
                    "tokens of the init text (10 when it is empty).",
                ),
                io.Int.Input(
                    "steps", default=POCKET_TEXT.steps, min=1, max=100_000, tooltip="Learning steps."
                ),
                io.Int.Input(
                    "batch",
                    default=POCKET_TEXT.batch,
                    min=1,
                    max=64,
                    tooltip="Number of samples in a step. Visii uses one.",
                ),
                inputs.learning_rate(
                    POCKET_TEXT.learning_rate,
                    "Learning rate of the first step. 0.08 works for the pocket editor; Visii uses 0.001 on "
                    "SD1.5.",
                ),
                io.Float.Input(
                    "direction_weight",
                    default=POCKET_TEXT.direction_weight,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Weight of the CLIP direction: how strongly the text states must point, in CLIP "
                    "space, from the images before to those after. Needs OPEN_CLIP. 0 switches it off.",
                ),
                *inputs.watching(),
                OpenClip.Input(
                    "open_clip",
                    optional=True,
                    tooltip="The CLIP that the editing model's text encoder belongs to: the pocket CLIP for "
                    "the pocket editor, ViT-L-14 for SD1.5, ViT-H-14 for SD2.1. Without it, "
                    "the direction is left out, and the node says so.",
                ),
                *inputs.running(),
                inputs.final_learning_rate(),
                Choice(
                    "objective",
                    optional=True,
                    options=["plain", "guided"],
                    default=POCKET_TEXT.objective,
                    tooltip="guided: minimizes the error of the guided prediction of three branches "
                    "(Visii). plain: minimizes the error of the instructed branch; faster.",
                    advanced=True,
                ),
                io.Int.Input(
                    "segments",
                    optional=True,
                    default=POCKET_TEXT.segments,
                    min=1,
                    max=50,
                    tooltip="j, the number of segments: parts of the noise schedule with separate text "
                    "states. Visii has one.",
                    advanced=True,
                ),
                *inputs.scales(),
                inputs.noise(),
                inputs.guidance(),
                inputs.save_every(),
            ],
            outputs=[inputs.learned()],
        )

    @classmethod
    def execute(
        cls,
        batch: int,
        direction_weight: float,
        open_clip: OpenClipModel | None = None,
        objective: Any = POCKET_TEXT.objective,
        segments: int = POCKET_TEXT.segments,
        **common: Any,
    ) -> io.NodeOutput:
        own = {
            "batch": batch,
            "direction_weight": direction_weight,
            "objective": objective,
            "segments": segments,
        }
        return run_learning(cls.hidden, CommonInputs(**common), "text", own, open_clip)
