"""Nodes that edit images."""

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ..core.diffusion.schedule import TRAIN_TIMESTEPS
from ..core.errors import InstructionError
from ..core.instruction.injection import Injection, inject
from ..core.instruction.instruction import Blend, Instruction, parts_of
from .comfy.models.description import describe
from .comfy.sampling import text_encoding as text
from .comfy.sampling.fixed_noise import FixedNoise, fixed_noise_sampler
from .comfy.sampling.guider import EditGuider, with_image
from .comfy.sampling.instruction_patch import attach_instruction, patch_model
from .comfy.sampling.latents import encode_with_mask
from .comfy.sampling.text_conditioning import with_learned_states
from .shared.guidance_scales import DEFAULT_SCALE, scale_for
from .shared.node import Node
from .shared.socket_types import InstructionSocket


class ApplyInstruction(Node):
    """An instruction into a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushApply",
            display_name="Apply Instruction",
            category="InstructBrush/editing",
            description="Lets a conditioning edit as the instruction has learned. Connect BOTH outputs: the instruction travels in the "
            "CONDITIONING and acts in the MODEL. Masks, areas, ControlNets, LoRA and other attention patches work as usual.",
            search_aliases=[
                "use instruction",
                "apply learned edit",
                "visual instruction",
                "instructbrush",
                "edit by example",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="An InstructPix2Pix model of the family that the instruction was learned on.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The positive conditioning. Its words act where the instruction does not: at strengths below 1 and outside the timestep range. "
                    "With the image in it (InstructPixToPixConditioning before or after).",
                ),
                InstructionSocket.Input("instruction", tooltip="What to do."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="1 as learned, 0 leaves the graph as it is, between them a mixture with the words; beyond 1 exaggerates, below 0 inverts.",
                ),
                io.Int.Input(
                    "start_timestep",
                    default=TRAIN_TIMESTEPS,
                    min=0,
                    max=TRAIN_TIMESTEPS,
                    optional=True,
                    tooltip="The instruction acts below this timestep. 1000 is pure noise, where sampling begins: 1000 acts from the beginning.",
                    advanced=True,
                ),
                io.Int.Input(
                    "end_timestep",
                    default=0,
                    min=0,
                    max=TRAIN_TIMESTEPS,
                    tooltip="The instruction acts down to this timestep, the words below it: T in the paper's Fig. 3. 0 edits fully, 1000 not at all; between "
                    "them lies how much of the image's detail is edited.",
                ),
                io.String.Input(
                    "segment_strengths",
                    default="",
                    optional=True,
                    tooltip="One factor for every segment, from low noise (detail) to high noise (layout), for example: 1, 1, 1, 0.5, 0. Empty is 1 for all.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="Goes to the sampler or guider: without it the instruction does nothing.",
                ),
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="The conditioning that carries the instruction."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioning: list[Any],
        instruction: Instruction | Blend,
        strength: float,
        end_timestep: int,
        start_timestep: int = TRAIN_TIMESTEPS,
        segment_strengths: str = "",
    ) -> io.NodeOutput:
        injection = _prepared(
            model, instruction, strength, _factors(segment_strengths), start_timestep, end_timestep
        )
        return io.NodeOutput(*_instructed(model, conditioning, injection))


class EditGuiderNode(Node):
    """Everything between an image and SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushEditGuider",
            display_name="Edit Guider",
            category="InstructBrush/editing",
            description="Edits an image by an instruction, by words, or by both, with InstructPix2Pix's guidance (Eq. 3): one node instead of "
            "three conditionings wired by hand. Both outputs go to SamplerCustomAdvanced.",
            search_aliases=[
                "dual cfg guider",
                "instruct pix2pix guider",
                "edit image",
                "instructbrush guider",
                "image guidance",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An InstructPix2Pix model."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                io.Image.Input(
                    "image", tooltip="The image to edit, or several. Sides are cropped to multiples of 8."
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    tooltip="What to do, in words. With an instruction they act as far as its strength leaves room; then they may be empty.",
                ),
                io.Float.Input(
                    "text_scale",
                    default=DEFAULT_SCALE,
                    min=DEFAULT_SCALE,
                    max=30.0,
                    step=0.1,
                    tooltip="s_T of Eq. 3: how strongly to follow the instruction. -1 takes what suits the model (7.5; 2 for the pocket editor).",
                ),
                io.Float.Input(
                    "image_scale",
                    default=1.5,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="s_I of Eq. 3: how closely to keep to the image.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Strength of the instruction: 1 as learned, 0 the words alone.",
                ),
                InstructionSocket.Input(
                    "instruction",
                    optional=True,
                    tooltip="A learned instruction. Without one, the words edit.",
                ),
                InstructionSocket.Input(
                    "avoid",
                    optional=True,
                    tooltip="An instruction to stay away from: it takes the place of the empty words in the middle branch of Eq. 3, so guidance leads away "
                    "from what it does.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit may act, for models that read a mask (12 or 48 channels): white edits, black stays. "
                    "Without one they edit everywhere.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="What to do, instead of words and instruction: from Combine Regions, to edit several regions at once, or from other nodes.",
                ),
            ],
            outputs=[
                io.Guider.Output(display_name="GUIDER", tooltip="For SamplerCustomAdvanced."),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="An empty latent of the image's size, for SamplerCustomAdvanced.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: torch.Tensor,
        words: str,
        text_scale: float,
        image_scale: float,
        strength: float,
        instruction: Instruction | Blend | None = None,
        avoid: Instruction | Blend | None = None,
        mask: torch.Tensor | None = None,
        conditioning: list[Any] | None = None,
    ) -> io.NodeOutput:
        if conditioning is not None and (instruction is not None or words.strip()):
            raise InstructionError(
                "Edit Guider: a conditioning takes the place of words and instruction, but both are given. Leave words empty and instruction unconnected, "
                "or disconnect the conditioning."
            )
        description = describe(model)
        latents = encode_with_mask(description, vae, image, mask)
        none = text.encode(clip, "")
        full = text.encode(clip, words) if conditioning is None else conditioning
        if instruction is not None:
            injection = _prepared(model, instruction, strength)
            model, full = _instructed(model, full, injection)
        middle = none
        if avoid is not None:
            model, middle = _instructed(model, none, _prepared(model, avoid, 1.0))
        guider = EditGuider(model, scale_for(description.family, text_scale), image_scale)
        guider.set_branches(with_image(full, *latents), with_image(middle, *latents), none)
        return io.NodeOutput(guider, {"samples": torch.zeros_like(latents[0])})


class FixedNoiseNode(Node):
    """The noise that an instruction was learned with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushFixedNoise",
            display_name="Fixed Noise",
            category="InstructBrush/editing",
            description="Samples with the very noise that an instruction was learned with (Visii): the same image always gives the same edit. Both outputs "
            "go to SamplerCustomAdvanced. Images must be as large as those it was learned from for the noise to be the same.",
            search_aliases=[
                "visii noise",
                "learned noise",
                "deterministic noise",
                "noise of training",
                "fixed noise sampler",
            ],
            inputs=[
                InstructionSocket.Input(
                    "instruction", tooltip="An instruction that was learned with noise set to 'fixed'."
                )
            ],
            outputs=[
                io.Noise.Output(
                    display_name="NOISE", tooltip="The noise of the last timestep, where sampling begins."
                ),
                io.Sampler.Output(
                    display_name="SAMPLER",
                    tooltip="Euler ancestral that adds the noise of every timestep it comes to.",
                ),
            ],
        )

    @classmethod
    def execute(cls, instruction: Instruction | Blend) -> io.NodeOutput:
        settings = [part.instruction.info.settings for part in parts_of(instruction)]
        seeds = {int(each.get("seed", 0)) for each in settings if each.get("noise") == "fixed"}
        if len(seeds) != 1 or any(each.get("noise") != "fixed" for each in settings):
            raise InstructionError(
                f"Fixed Noise: '{instruction.title}' was not learned with one fixed noise. Learn it with noise set to 'fixed', or use Random Noise instead."
            )
        (seed,) = seeds
        return io.NodeOutput(FixedNoise(seed), fixed_noise_sampler(seed))


def _prepared(
    model: Any,
    instruction: Instruction | Blend,
    strength: float,
    factors: list[float] | None = None,
    start: int = TRAIN_TIMESTEPS,
    end: int = 0,
) -> Injection:
    for remark in instruction.check_fits(describe(model)):
        logging.warning("InstructBrush: %s", remark)
    return inject(instruction, strength, factors, start, end)


def _instructed(model: Any, conditioning: list[Any], injection: Injection) -> tuple[Any, list[Any]]:
    """MODEL and CONDITIONING with an instruction in them; text states need no hand in the MODEL."""
    if injection.is_identity:
        return model, conditioning
    if injection.is_text:
        return model, with_learned_states(conditioning, injection)
    return patch_model(model), attach_instruction(conditioning, injection, describe(model))


def _factors(words: str) -> list[float] | None:
    if not words.strip():
        return None
    try:
        return [float(word) for word in words.replace(";", ",").split(",")]
    except ValueError as error:
        raise InstructionError(
            f"Segment strengths: '{words}' is no list of numbers ({error}). Write for example: 1, 1, 1, 0.5, 0"
        ) from error
