"""The node that learns."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.learning.pairs import EditPairs
from ..core.learning.settings import POCKET, PRESETS, LearningSettings, preset_for
from ..core.pictures import thumbnail
from .comfy.describe import describe
from .comfy.session import LearningSession
from .sockets import InstructionSocket, Pairs, shown

_AUTO, _CUSTOM = "auto", "custom"
_OWN_SCALE = -1.0


class LearnInstruction(io.ComfyNode):
    """An instruction from pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLearn",
            display_name="Learn Instruction",
            category="InstructBrush/learning",
            description="Learns what the pairs have in common: keys and values for every cross-attention layer of the model (InstructBrush). "
            "The model itself is not changed. A cancelled run keeps what it learned in output/instructions/unfinished, and goes on when it is "
            "run again with the same settings.",
            search_aliases=["train instruction", "instructbrush", "learn edit", "visual instruction", "inversion", "textual inversion", "edit from examples"],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="An InstructPix2Pix model, with whatever LoRA it is to be used with."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                Pairs.Input(
                    "pairs",
                    tooltip="Pictures before and after the edit. Four to ten pairs that share the edit and little else work best; one is enough to begin.",
                ),
                io.String.Input(
                    "init_text",
                    default="",
                    tooltip="Words that come close to the edit, such as 'make it snowy'. Learning begins with them; empty begins with nothing.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[_AUTO, _CUSTOM, *PRESETS],
                    default=_AUTO,
                    tooltip="auto: what suits the model, pocket or paper. custom: the values below. pocket: what served the pocket editor best. paper: the "
                    "paper's (as many tokens as the init text, 1000 steps, rate 0.001, separate segments). Unless it is custom, the preset takes the "
                    "place of every value below, except the seed and the previews.",
                ),
                io.Int.Input(
                    "tokens",
                    default=POCKET.tokens or 0,
                    min=0,
                    max=76,
                    tooltip="m, rows that are learned in every layer: more hold more. 0 takes as many as the init text has (10 when it is empty).",
                ),
                io.Int.Input(
                    "segments",
                    default=POCKET.segments,
                    min=1,
                    max=50,
                    tooltip="j, parts of the noise schedule with an instruction each: layout is decided where there is much noise, detail where "
                    "there is little.",
                ),
                io.Combo.Input(
                    "segment_mode",
                    options=["shared", "separate"],
                    default=POCKET.parametrisation,
                    tooltip="shared: what the segments have in common is learned together, and their differences; learns faster. "
                    "separate: each for itself (the paper).",
                ),
                io.Int.Input("steps", default=POCKET.steps, min=1, max=100_000, tooltip="Learning steps. Each trains all segments, one sample each."),
                io.Float.Input(
                    "learning_rate",
                    default=POCKET.learning_rate,
                    min=0.000001,
                    max=1.0,
                    step=0.0001,
                    round=0.000001,
                    tooltip="Size of the steps at the beginning. 0.03 suits the pocket editor; the paper uses 0.001 on SD1.5.",
                ),
                io.Combo.Input(
                    "objective",
                    options=["plain", "guided"],
                    default=POCKET.objective,
                    tooltip="plain: the instructed branch alone must predict the noise (Eq. 5); cheaper. guided: the guided prediction of three "
                    "branches must (Eq. 3); slower, and made for the scales it is learned with.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="The same seed, pairs and settings learn the same instruction.",
                ),
                io.Int.Input(
                    "preview_every", default=50, min=0, max=10_000, tooltip="Steps between previews of one pair, always from the same noise. 0 shows none."
                ),
                io.Int.Input(
                    "hold_out",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Number of a pair that is kept out of learning and previewed: whether it comes out right shows what was really learned. "
                    "0 keeps none out and previews the first.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    optional=True,
                    default=False,
                    tooltip="Recompute instead of keeping: about a third slower, a fraction of the memory. Switch it on when memory runs out.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "resume",
                    optional=True,
                    default=True,
                    tooltip="Go on where a cancelled run with the same model, pairs and settings stopped. The result is the same as without stopping.",
                    advanced=True,
                ),
                io.Float.Input(
                    "final_learning_rate",
                    optional=True,
                    default=POCKET.final_learning_rate,
                    min=0.000001,
                    max=1.0,
                    step=0.0001,
                    round=0.000001,
                    tooltip="The rate falls to this value by the last step.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "weighting",
                    optional=True,
                    options=["min_snr", "none"],
                    default=POCKET.weighting,
                    tooltip="min_snr: noise levels count by how much there is to learn in them. none: all alike (the paper).",
                    advanced=True,
                ),
                io.Boolean.Input("include_bos", default=False, optional=True, tooltip="Learn the start-of-text row too.", advanced=True),
                io.Float.Input(
                    "text_scale",
                    optional=True,
                    default=_OWN_SCALE,
                    min=_OWN_SCALE,
                    max=30.0,
                    step=0.1,
                    tooltip="s_T of the guided objective and of previews. -1 takes what suits the model (7.5; 2 for the pocket editor).",
                    advanced=True,
                ),
                io.Float.Input(
                    "image_scale",
                    optional=True,
                    default=1.5,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="s_I of the guided objective and of previews.",
                    advanced=True,
                ),
            ],
            outputs=[
                InstructionSocket.Output(display_name="INSTRUCTION", tooltip="What was learned, for Apply Instruction, Edit Guider and Save Instruction.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        pairs: EditPairs,
        init_text: str,
        preset: str,
        tokens: int,
        segments: int,
        segment_mode: Any,
        steps: int,
        learning_rate: float,
        objective: Any,
        seed: int,
        preview_every: int,
        hold_out: int,
        gradient_checkpointing: bool = False,
        resume: bool = True,
        final_learning_rate: float = POCKET.final_learning_rate,
        weighting: Any = POCKET.weighting,
        include_bos: bool = False,
        text_scale: float = _OWN_SCALE,
        image_scale: float = 1.5,
    ) -> io.NodeOutput:
        family = describe(model).family
        if preset == _CUSTOM:
            settings = LearningSettings(
                tokens=tokens or None,
                segments=segments,
                steps=steps,
                learning_rate=learning_rate,
                final_learning_rate=min(final_learning_rate, learning_rate),
                objective=objective,
                parametrisation=segment_mode,
                weighting=weighting,
                include_bos=include_bos,
                text_scale=family.default_text_scale if text_scale == _OWN_SCALE else text_scale,
                image_scale=image_scale,
                seed=seed,
            )
        else:
            settings = replace(preset_for(family.name) if preset == _AUTO else PRESETS[preset], seed=seed)
        watched = pairs[(hold_out - 1) % len(pairs) if hold_out else 0]
        learned_from = pairs.without(hold_out - 1) if hold_out else pairs
        session = LearningSession(model, clip, vae, learned_from, watched, init_text, settings, gradient_checkpointing)
        instruction, summary = session.run(cls.hidden.unique_id, preview_every, resume)
        return io.NodeOutput(shown(instruction, thumbnail(learned_from)), ui={"learning": [summary]})
