"""The node that learns instructions in adapter space."""

from typing import Any

from comfy_api.latest import io

from ...core.learning.settings import POCKET_ADAPTER
from ..shared import learning_inputs as inputs
from .runs import CommonInputs, LearningNode, run_learning


class LearnAdapterInstruction(LearningNode):
    """Learns an instruction in adapter space from pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLearnAdapter",
            display_name="Learn Instruction (adapter)",
            category="InstructBrush/learning",
            description="Learns the edit that the pairs have in common as an adapter: small changes in every "
            "attention layer, like a LoRA, that act only where the instruction acts. Everything that works "
            "with an instruction works with it: strength, masks, mixing, words. The model itself is not "
            "changed.",
            search_aliases=[
                "lora",
                "train lora",
                "adapter",
                "learn edit",
                "before after",
                "train instruction",
                "instructbrush",
                "edit from examples",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                *inputs.sources(),
                inputs.preset(
                    "adapter",
                    "auto: pocket for the pocket editor, full_size for other models. custom: the "
                    "values below. pocket: best for the pocket editor. full_size: common values of LoRAs, "
                    "not measured here. Every preset but custom takes its own values; "
                    "the seed, previews, pair to hold out, memory and saves stay yours.",
                ),
                io.Int.Input(
                    "rank",
                    default=POCKET_ADAPTER.rank,
                    min=0,
                    max=128,
                    tooltip="Rank of the changes of queries, keys, values and outputs in every attention "
                    "layer. A higher rank can hold more, and makes the file larger.",
                ),
                io.Int.Input(
                    "bypass",
                    default=POCKET_ADAPTER.bypass,
                    min=0,
                    max=128,
                    tooltip="Width of a small network beside every cross-attention layer. 0 has none.",
                ),
                io.Int.Input(
                    "tokens",
                    default=POCKET_ADAPTER.tokens or 0,
                    min=0,
                    max=75,  # not 76 as elsewhere: the newer renderer knows inputs by name and range alone
                    tooltip="The number of rows learned in every cross-attention layer (m), as Learn "
                    "Instruction learns them. 0 learns none.",
                ),
                io.Int.Input(
                    "steps",
                    default=POCKET_ADAPTER.steps,
                    min=1,
                    max=100_000,
                    tooltip="Learning steps. Each step sees five samples.",
                ),
                inputs.learning_rate(
                    POCKET_ADAPTER.learning_rate, "Learning rate of the rows in the first step."
                ),
                io.Float.Input(
                    "adapter_rate",
                    default=POCKET_ADAPTER.adapter_rate,
                    min=0.000001,
                    max=1.0,
                    step=0.0001,
                    round=0.000001,
                    tooltip="Learning rate of everything but the rows in the first step; the second half of "
                    "each change learns four times as fast. 0.004 works for the pocket editor; it was not "
                    "measured on other models. Too high a rate ruins the result.",
                ),
                *inputs.watching(),
                *inputs.running(),
                inputs.final_learning_rate(),
                inputs.weighting(POCKET_ADAPTER.weighting),
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
        rank: int,
        bypass: int,
        adapter_rate: float,
        weighting: Any = POCKET_ADAPTER.weighting,
        **common: Any,
    ) -> io.NodeOutput:
        own = {"rank": rank, "bypass": bypass, "adapter_rate": adapter_rate, "weighting": weighting}
        return run_learning(cls.hidden, CommonInputs(**common), "adapter", own)
