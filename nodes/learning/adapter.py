"""The node that learns instructions in adapter space."""

from typing import Any

from comfy_api.latest import io

from ...core.learning.run import wants_scales
from ...core.learning.settings import AUTO, POCKET_ADAPTER, PRESETS
from ...core.pairs.pairs import EditPairs
from ..comfy.learning.session import Display, LearningInputs
from ..comfy.models.description import describe
from ..comfy.types import Clip, Model, Vae
from ..shared import learning_inputs as inputs
from ..shared.guidance_scales import AUTO_SCALE, scales_for
from ..shared.node import Choice, Node
from .runs import CUSTOM, run_learning, settings_of, split_pairs


class LearnAdapterInstruction(Node):
    """Learns an instruction in adapter space from pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLearnAdapter",
            display_name="Learn Instruction (adapter)",
            category="InstructBrush/learning",
            description="Learns the edit that the pairs have in common as an adapter: small changes in every "
            "attention layer, like a LoRA, that act only where the instruction acts. Its file is smaller "
            "than that of Learn Instruction. Everything that works with an instruction works with it: "
            "strength, masks, mixing, words. The model itself is not changed.",
            search_aliases=[
                "lora",
                "train lora",
                "adapter",
                "learn edit",
                "train instruction",
                "instructbrush",
                "edit from examples",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *inputs.sources(),
                Choice(
                    "preset",
                    options=[AUTO, CUSTOM, *PRESETS["adapter"]],
                    default=AUTO,
                    tooltip="auto: pocket for the pocket editor, full_size for other models. custom: the "
                    "values below. pocket: best for the pocket editor. full_size: common values of LoRAs, "
                    "not measured here. Every preset but custom replaces all values below, except the seed "
                    "and the previews.",
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
                    max=76,
                    tooltip="m, the number of rows learned in every cross-attention layer, as Learn "
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
            ],
            outputs=[inputs.learned()],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Clip,
        vae: Vae,
        pairs: EditPairs,
        init_text: str,
        preset: str,
        rank: int,
        bypass: int,
        tokens: int,
        steps: int,
        learning_rate: float,
        adapter_rate: float,
        seed: int,
        preview_every: int,
        hold_out: int,
        gradient_checkpointing: bool = False,
        resume: bool = True,
        final_learning_rate: float = inputs.FOLLOW,
        weighting: Any = POCKET_ADAPTER.weighting,
        text_scale: float = AUTO_SCALE,
        image_scale: float = 1.5,
        noise: Any = "fresh",
        guidance: Any = "search",
    ) -> io.NodeOutput:
        family = describe(model).family
        if preset == CUSTOM:
            base = settings_of(family.name, "adapter", AUTO, seed)
            settings = base.changed(
                rank=rank,
                bypass=bypass,
                tokens=tokens,
                steps=steps,
                learning_rate=learning_rate,
                final_learning_rate=inputs.final_rate(base, learning_rate, final_learning_rate),
                adapter_rate=adapter_rate,
                weighting=weighting,
                text_scale=scales_for(family, text_scale, image_scale)[0],
                image_scale=image_scale,
                noise=noise,
            )
        else:
            settings = settings_of(family.name, "adapter", preset, seed)
        used, watched = split_pairs(pairs, hold_out)
        run_inputs = LearningInputs(
            model,
            clip,
            vae,
            used,
            watched,
            init_text,
            settings,
            checkpointing=gradient_checkpointing,
            search_scales=wants_scales(preset, None if guidance == "search" else guidance),
        )
        return run_learning(run_inputs, Display(cls.hidden.unique_id, preview_every), resume)
