"""Inputs and outputs of the learning nodes."""

from typing import Any

from comfy_api.latest import io

from ...core.diffusion.schedule import SEEDS
from ...core.learning.settings import AUTO, PRESETS, LearningSettings, preset_name
from ...core.models.families import FAMILIES
from .guidance_scales import AUTO_SCALE
from .node import Choice
from .socket_types import InstructionSocket, Pairs

CUSTOM = "custom"
"""The preset that stands for the values of the node's own inputs."""
FOLLOW = 0.0
"""A final learning rate that follows the first one."""
WEIGHTINGS = ["snr", "none"]
"""Weights of the noise levels."""


def sources() -> list[io.Input]:
    """Model, pairs and init text."""
    return [
        io.Model.Input(
            "model", tooltip="An InstructPix2Pix model, with the LoRAs that it will be used with."
        ),
        io.Clip.Input("clip", tooltip="Its text encoder."),
        io.Vae.Input("vae", tooltip="Its autoencoder."),
        Pairs.Input(
            "pairs",
            tooltip="Images before and after the edit. Four to ten pairs that share the edit and little "
            "else work best; one pair is enough to start.",
        ),
        io.String.Input(
            "init_text",
            default="",
            tooltip="Words that are close to the edit, such as 'make it snowy'. Learning starts from them. "
            "May be empty. Words that do not fit into the text encoder's window are cut.",
        ),
    ]


def preset(space: str, tooltip: str) -> io.Input:
    """Which settings to learn with. The front end gets the presets' steps, and the preset that ``auto``
    stands for by family, to tell them; and the presets' values, which ``custom`` begins with."""
    steps = {name: settings.steps for name, settings in PRESETS[space].items()}
    values = {name: _input_values(settings) for name, settings in PRESETS[space].items()}
    auto = {family: preset_name(family, space) for family in FAMILIES}
    return Choice(
        "preset",
        options=[AUTO, CUSTOM, *PRESETS[space]],
        default=AUTO,
        tooltip=tooltip,
        extra_dict={"steps": steps, "values": values, "preset_of": auto},
    )


def _input_values(settings: LearningSettings) -> dict[str, Any]:
    """The values of a learning node's inputs that stand for a preset. No node has all of these inputs."""
    same = (
        *("rank", "bypass", "segments", "steps", "batch", "learning_rate", "final_learning_rate"),
        *("adapter_rate", "direction_weight", "objective", "weighting", "include_bos", "noise"),
    )
    values = {name: getattr(settings, name) for name in same}
    values |= {"tokens": settings.tokens or 0, "segment_mode": settings.parametrisation}
    if settings.objective == "guided":
        # Elsewhere they are those of previews, which the model decides.
        values |= {"text_scale": settings.text_scale, "image_scale": settings.image_scale}
    return values


def watching() -> list[io.Input]:
    """Seed and previews."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=SEEDS - 1,
            control_after_generate=False,
            tooltip="The same seed, pairs and settings learn the same instruction.",
        ),
        io.Int.Input(
            "preview_every",
            default=50,
            min=0,
            max=10_000,
            tooltip="Steps between previews of one pair, always from the same noise. 0 shows none.",
        ),
        io.Int.Input(
            "hold_out",
            default=0,
            min=0,
            max=1000,
            tooltip="Number of a pair that is previewed and not used for learning, to show how well the "
            "edit transfers. 0 takes the pair with the star on the pairs board; without a star all pairs are "
            "learned from, and the first is previewed.",
        ),
    ]


def running() -> list[io.Input]:
    """Memory and resuming."""
    return [
        io.Boolean.Input(
            "gradient_checkpointing",
            optional=True,
            default=False,
            tooltip="Recomputes activations instead of storing them: learning is about a third slower and "
            "takes a third of the memory (SDXL at 1024 px: an eighth). A run that does not fit into memory "
            "switches it on.",
            advanced=True,
        ),
        io.Boolean.Input(
            "resume",
            optional=True,
            default=True,
            tooltip="Resumes a stopped run of the same model, pairs, words and settings. The number of "
            "steps and the previews may differ. With the same steps the result is the same as without "
            "stopping.",
            advanced=True,
        ),
    ]


def scales() -> list[io.Input]:
    """Guidance scales of previews, and of a guided objective."""
    return [
        io.Float.Input(
            "text_scale",
            optional=True,
            default=AUTO_SCALE,
            min=AUTO_SCALE,
            max=30.0,
            step=0.1,
            tooltip="How strongly previews follow the instruction; with a guided objective "
            "also while learning. auto (-1) is the model's own value: 7.5, or 2 for the pocket editor.",
            advanced=True,
        ),
        io.Float.Input(
            "image_scale",
            optional=True,
            default=1.5,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="How closely previews keep to the image; with a guided objective also while learning.",
            advanced=True,
        ),
    ]


def noise() -> io.Input:
    """Fresh or fixed noise."""
    return Choice(
        "noise",
        options=["fresh", "fixed"],
        default="fresh",
        optional=True,
        tooltip="fresh: new noise for every sample. fixed: every timestep always has the same noise and the "
        "same pair, and Fixed Noise samples with the same noise (Visii). Acts with the preset custom.",
        advanced=True,
    )


def guidance() -> io.Input:
    """Whether guidance scales are searched."""
    return Choice(
        "guidance",
        options=["search", "default"],
        default="search",
        optional=True,
        tooltip="search: after learning, tries a few guidance scales on the pair that is held out, or on up "
        "to four pairs with new noise, and stores the best in the instruction, where Edit Guider finds them. "
        "This takes at most 15 % of the time. default: stores none. The presets named after a paper store "
        "none, so that edits have the paper's scales.",
        advanced=True,
    )


def save_every() -> io.Input:
    """Steps between saved instructions."""
    return io.Int.Input(
        "save_every",
        optional=True,
        default=0,
        min=0,
        max=100_000,
        tooltip="Steps between instruction files in output/instructions/steps, to compare what was learned "
        "at different steps. Their names end in the step. 0 saves none.",
        advanced=True,
    )


def learning_rate(default: float, tooltip: str) -> io.Input:
    """Learning rate of the first step."""
    return io.Float.Input(
        "learning_rate", default=default, min=0.000001, max=1.0, step=0.0001, round=0.000001, tooltip=tooltip
    )


def final_learning_rate() -> io.Input:
    """Learning rate of the last step."""
    return io.Float.Input(
        "final_learning_rate",
        optional=True,
        default=FOLLOW,
        min=FOLLOW,
        max=1.0,
        step=0.0001,
        round=0.000001,
        tooltip="The learning rate falls to this value by the last step. auto (0) keeps the proportion to "
        "the learning rate that the model's preset has.",
        advanced=True,
    )


def final_rate(preset: LearningSettings, learning_rate: float, final_learning_rate: float) -> float:
    """The final learning rate by the rule of ``LearningSettings.changed``.

    Args:
        preset: of the model.
        learning_rate: of the first step.
        final_learning_rate: of the last step. At most the first one counts, because workflows of version 0.1
            hold a default that does not follow.
    """
    final = None if final_learning_rate == FOLLOW else min(final_learning_rate, learning_rate)
    changed = preset.changed(learning_rate=learning_rate, final_learning_rate=final)
    return changed.final_learning_rate


def weighting(default: str) -> io.Input:
    """Weights of the noise levels."""
    return Choice(
        "weighting",
        optional=True,
        options=WEIGHTINGS,
        default=default,
        tooltip="snr: weights the noise levels by their signal-to-noise ratio: less for little noise, as "
        "Min-SNR, and more for much noise. none: weights all noise levels the same, as InstructBrush does.",
        advanced=True,
    )


def learned() -> io.Output:
    """The learned instruction."""
    return InstructionSocket.Output(
        display_name="INSTRUCTION",
        tooltip="The learned instruction, for Apply Instruction, Edit Guider and Save Instruction.",
    )
