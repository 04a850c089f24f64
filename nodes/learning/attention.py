"""The node that learns keys and values of every cross-attention layer (InstructBrush)."""

from typing import Any

from comfy_api.latest import io

from ...core.learning.settings import FORMER_NAMES, POCKET
from ..shared import learning_inputs as inputs
from ..shared.node import Choice
from .runs import CommonInputs, LearningNode, run_learning


class LearnInstruction(LearningNode):
    """Learns an instruction from pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLearn",
            display_name="Learn Instruction",
            category="InstructBrush/learning",
            description="Learns the edit that the pairs have in common, as keys and values for every "
            "cross-attention layer of the model (InstructBrush). The model itself is not changed. A "
            "cancelled run is kept in output/instructions/unfinished, and resumes when it is run again with "
            "the same settings.",
            search_aliases=[
                "train instruction",
                "instructbrush",
                "learn edit",
                "learn an edit from pairs",
                "before after",
                "visual instruction",
                "inversion",
                "textual inversion",
                "edit from examples",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                *inputs.sources(),
                inputs.preset(
                    "attention",
                    "auto: pocket for the pocket editor, paper for other models. custom: the values "
                    "below. pocket: best for the pocket editor. paper: the paper's values (1000 steps, rate "
                    "0.001, separate segments, plain objective). paper_guided: the same with the guided "
                    "objective, the paper's other reading. Every preset but custom takes its own values; "
                    "the seed, previews, pair to hold out, memory and saves stay yours.",
                ),
                io.Int.Input(
                    "tokens",
                    default=POCKET.tokens or 0,
                    min=0,
                    max=76,
                    tooltip="The number of rows learned in every layer (m). More rows hold more details. "
                    "auto (0) takes the number of tokens of the init text (10 when it is empty).",
                ),
                io.Int.Input(
                    "segments",
                    default=POCKET.segments,
                    min=1,
                    max=50,
                    tooltip="j, the number of segments: parts of the noise schedule with separate learned "
                    "rows. Segments with much noise decide the layout, segments with little noise "
                    "decide the detail.",
                ),
                Choice(
                    "segment_mode",
                    options=["shared", "separate"],
                    default=POCKET.parametrisation,
                    tooltip="shared: learns what the segments have in common, and their differences; faster. "
                    "separate: learns each segment alone (the paper).",
                ),
                io.Int.Input(
                    "steps",
                    default=POCKET.steps,
                    min=1,
                    max=100_000,
                    tooltip="Learning steps. Each step trains all segments on one sample each.",
                ),
                inputs.learning_rate(
                    POCKET.learning_rate,
                    "Learning rate of the first step. 0.06 works for the pocket editor; the paper uses "
                    "0.001 on SD1.5.",
                ),
                Choice(
                    "objective",
                    options=["plain", "guided"],
                    default=POCKET.objective,
                    tooltip="plain: minimizes the error of the instructed branch (Eq. 5); faster. guided: "
                    "minimizes the error of the guided prediction of three branches (Eq. 3); slower, and "
                    "tied to the guidance scales it is learned with.",
                ),
                *inputs.watching(),
                *inputs.running(),
                inputs.final_learning_rate(),
                inputs.weighting(POCKET.weighting),
                io.Boolean.Input(
                    "include_bos",
                    default=False,
                    optional=True,
                    tooltip="Also learns the start-of-text row.",
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
    def validate_inputs(cls, weighting: Any = POCKET.weighting) -> bool | str:
        """Accepts former names of weights, which saved workflows hold and ComfyUI would refuse."""
        if weighting is not None and _current_weighting(weighting) not in inputs.WEIGHTINGS:
            return (
                f"'{weighting}' is not a choice for weighting. Choose one of: {', '.join(inputs.WEIGHTINGS)}."
            )
        return True

    @classmethod
    def check_lazy_status(cls, **values: Any) -> list[str]:
        """As in all nodes, also with former names of weights."""
        if "weighting" in values:
            values["weighting"] = _current_weighting(values["weighting"])
        return super().check_lazy_status(**values)

    @classmethod
    def execute(
        cls,
        segments: int,
        segment_mode: Any,
        objective: Any,
        weighting: Any = POCKET.weighting,
        include_bos: bool = False,
        **common: Any,
    ) -> io.NodeOutput:
        own = {
            "segments": segments,
            "parametrisation": segment_mode,
            "objective": objective,
            "weighting": weighting,
            "include_bos": include_bos,
        }
        return run_learning(cls.hidden, CommonInputs(**common), "attention", own)


def _current_weighting(value: Any) -> Any:
    return FORMER_NAMES["weighting"].get(value, value) if isinstance(value, str) else value
