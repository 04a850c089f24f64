"""Nodes that edit images: Apply Instruction, Edit Guider and Fixed Noise."""

import logging

import torch
from comfy_api.latest import io

from ..core.diffusion.schedule import TRAIN_TIMESTEPS
from ..core.errors import InstructionError
from ..core.instruction.injection import Injection, inject
from ..core.instruction.instruction import Blend, Instruction, own_scales
from ..core.instruction.learned_noise import learned_noise_seed
from ..core.instruction.segment_strengths import common_segments, parse_segment_strengths
from .comfy.models.description import describe
from .comfy.sampling import text_encoding
from .comfy.sampling.fixed_noise import FixedNoise, fixed_noise_sampler
from .comfy.sampling.guider import EditGuider, with_image
from .comfy.sampling.instruction_patch import (
    Conditioning,
    attach_instruction,
    mark_applied,
    patch_model,
    scales_of,
)
from .comfy.sampling.latents import encode_with_mask
from .comfy.sampling.text_conditioning import with_learned_states
from .comfy.types import Clip, Model, Vae
from .shared.guidance_scales import scale_inputs, scales_for
from .shared.node import Node
from .shared.socket_types import InstructionSocket


class ApplyInstruction(Node):
    """Makes an instruction act in a model and a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushApply",
            display_name="Apply Instruction",
            category="InstructBrush/editing",
            description="Applies a learned instruction. Connect BOTH outputs: the CONDITIONING carries the "
            "instruction, and the MODEL applies it. Masks, areas, ControlNets, LoRAs and other attention "
            "patches work as usual.",
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
                    tooltip="The positive conditioning. Its words act where the instruction does not: at "
                    "strengths below 1 and outside the timestep range. It must contain the image: use "
                    "InstructPixToPixConditioning before or after this node.",
                ),
                InstructionSocket.Input("instruction", tooltip="The edit to apply."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="1 edits as learned, 0 changes nothing. Values between mix the instruction with "
                    "the words, values above 1 exaggerate it, values below 0 invert it.",
                ),
                io.Int.Input(
                    "start_timestep",
                    default=TRAIN_TIMESTEPS,
                    min=0,
                    max=TRAIN_TIMESTEPS,
                    optional=True,
                    tooltip="The instruction acts below this timestep. Sampling starts at 1000 (pure noise), "
                    "so 1000 acts from the start.",
                    advanced=True,
                ),
                io.Int.Input(
                    "end_timestep",
                    default=0,
                    min=0,
                    max=TRAIN_TIMESTEPS,
                    tooltip="The instruction acts down to this timestep (T in the paper's Fig. 3); below "
                    "it, the words act. At 0 the edit is complete, at 1000 only the words act. Higher values "
                    "keep more of the image's detail.",
                ),
                io.String.Input(
                    "segment_strengths",
                    default="",
                    optional=True,
                    tooltip="One factor for every segment, from low noise (detail) to high noise (layout), "
                    "for example: 1, 1, 1, 0.5, 0. Empty means 1 for all.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="For the sampler or guider. Without it the instruction does nothing.",
                ),
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="The conditioning with the instruction."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        conditioning: Conditioning,
        instruction: Instruction | Blend,
        strength: float,
        end_timestep: int,
        start_timestep: int = TRAIN_TIMESTEPS,
        segment_strengths: str = "",
    ) -> io.NodeOutput:
        factors = parse_segment_strengths(segment_strengths)
        _warn_of_misfits(instruction, model)
        injection = inject(instruction, strength, factors, start_timestep, end_timestep)
        scales = own_scales(instruction)
        return io.NodeOutput(*_apply(injection, model, conditioning, scales), ui=_segments_ui(instruction))


class EditGuiderNode(Node):
    """Prepares an edit for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushEditGuider",
            display_name="Edit Guider",
            category="InstructBrush/editing",
            description="Edits an image by an instruction or by words, with InstructPix2Pix's guidance. For "
            "both together connect Add Words to Instruction. It replaces three separate conditionings. "
            "Connect both outputs to SamplerCustomAdvanced.",
            search_aliases=[
                "dual cfg guider",
                "instruct pix2pix guider",
                "edit image",
                "instructbrush guider",
                "image guidance",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An InstructPix2Pix model."),
                io.Clip.Input("clip", tooltip="The model's text encoder."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input(
                    "image", tooltip="One or more images to edit. Sides are cropped to multiples of 8."
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    tooltip="The edit in words. With an instruction, the words may be empty; they act where "
                    "the strength of the instruction is below 1.",
                ),
                *scale_inputs("the instruction or the words"),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Strength of the instruction: 1 edits as learned, 0 only by the words.",
                ),
                InstructionSocket.Input(
                    "instruction",
                    optional=True,
                    tooltip="A learned instruction. Without it, the edit follows the words.",
                ),
                InstructionSocket.Input(
                    "avoid",
                    optional=True,
                    tooltip="An instruction to avoid. It takes the place of the empty words, so "
                    "guidance moves away from its edit.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit may act, for models that read a mask (12 or 48 channels): white "
                    "is edited, black stays. Without a mask these models edit everywhere.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Replaces words and instruction, for example with the output of Combine Regions "
                    "to edit several regions at once.",
                ),
                io.Int.Input(
                    "start_timestep",
                    default=TRAIN_TIMESTEPS,
                    min=0,
                    max=TRAIN_TIMESTEPS,
                    optional=True,
                    tooltip="The instruction acts below this timestep; above it, the words act. Sampling "
                    "starts at 1000 (pure noise), so 1000 acts from the start.",
                    advanced=True,
                ),
                io.Int.Input(
                    "end_timestep",
                    default=0,
                    min=0,
                    max=TRAIN_TIMESTEPS,
                    optional=True,
                    tooltip="The instruction acts down to this timestep (T in the paper's Fig. 3); below "
                    "it, the words act. At 0 the edit is complete. Higher values keep more of the image's "
                    "detail.",
                    advanced=True,
                ),
                io.String.Input(
                    "segment_strengths",
                    default="",
                    optional=True,
                    tooltip="One factor for every segment of the instruction, from low noise (detail) to "
                    "high noise (layout), for example: 1, 1, 1, 0.5, 0. Empty means 1 for all.",
                    advanced=True,
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
        model: Model,
        clip: Clip,
        vae: Vae,
        image: torch.Tensor,
        words: str,
        text_scale: float,
        image_scale: float,
        strength: float,
        instruction: Instruction | Blend | None = None,
        avoid: Instruction | Blend | None = None,
        mask: torch.Tensor | None = None,
        conditioning: Conditioning | None = None,
        start_timestep: int = TRAIN_TIMESTEPS,
        end_timestep: int = 0,
        segment_strengths: str = "",
    ) -> io.NodeOutput:
        if conditioning is not None and (instruction is not None or words.strip()):
            raise InstructionError(
                "Edit Guider: a conditioning takes the place of words and instruction, but both are given. "
                "Leave words empty and instruction unconnected, or disconnect the conditioning."
            )
        acts = (strength, start_timestep, end_timestep, segment_strengths.strip())
        if conditioning is not None and acts != (1.0, TRAIN_TIMESTEPS, 0, ""):
            logging.warning(
                "InstructBrush: Edit Guider: strength, timesteps and segment strengths act on its own "
                "instruction only. Set them in Apply Instruction, which made the conditioning."
            )
        description = describe(model)
        latents = encode_with_mask(description, vae, image, mask)
        none = text_encoding.encode(clip, "")
        full = text_encoding.encode(clip, words) if conditioning is None else conditioning
        own = None if conditioning is None else scales_of(conditioning)
        if instruction is not None:
            _warn_of_misfits(instruction, model)
            factors = parse_segment_strengths(segment_strengths)
            injection = inject(instruction, strength, factors, start_timestep, end_timestep)
            model, full = _apply(injection, model, full)
            # The scales were found with empty words in the middle branch, and without words beside the
            # instruction, which need the guidance that the model is used with.
            alone = injection.replaces_conditioning or not words.strip()
            if avoid is None and alone and not injection.is_identity:
                own = own_scales(instruction)
        text_scale, image_scale = scales_for(description.family, text_scale, image_scale, own)
        middle = none
        if avoid is not None:
            _warn_of_misfits(avoid, model)
            model, middle = _apply(inject(avoid), model, none)
            if text_scale == image_scale:
                logging.warning(
                    "InstructBrush: Edit Guider: with text_scale equal to image_scale, the middle branch has "
                    "no weight in Eq. 3, so 'avoid' does nothing. Raise text_scale."
                )
        guider = EditGuider(model, text_scale, image_scale)
        guider.set_branches(with_image(full, *latents), with_image(middle, *latents), none)
        empty = {"samples": torch.zeros_like(latents[0])}
        if instruction is None:
            return io.NodeOutput(guider, empty)
        return io.NodeOutput(guider, empty, ui=_segments_ui(instruction))


class FixedNoiseNode(Node):
    """Provides the fixed noise that an instruction was learned with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushFixedNoise",
            display_name="Fixed Noise",
            category="InstructBrush/editing",
            description="Samples with the noise that an instruction was learned with (Visii): the same image "
            "always gives the same edit. Connect both outputs to SamplerCustomAdvanced. The noise is the "
            "same only for images of the size that the instruction was learned at.",
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
                    display_name="NOISE", tooltip="The noise of the last timestep, where sampling starts."
                ),
                io.Sampler.Output(
                    display_name="SAMPLER",
                    tooltip="Euler ancestral. Adds the fixed noise of each timestep it reaches.",
                ),
            ],
        )

    @classmethod
    def execute(cls, instruction: Instruction | Blend) -> io.NodeOutput:
        seed = learned_noise_seed(instruction)
        return io.NodeOutput(FixedNoise(seed), fixed_noise_sampler(seed))


def _segments_ui(instruction: Instruction | Blend) -> dict[str, list[int]]:
    """The number of bars that the panel draws over the noise."""
    return {"segments": [common_segments(instruction)]}


def _warn_of_misfits(instruction: Instruction | Blend, model: Model) -> None:
    for remark in instruction.check_fits(describe(model)):
        logging.warning("InstructBrush: %s", remark)


def _apply(
    injection: Injection,
    model: Model,
    conditioning: Conditioning,
    scales: tuple[float, float] | None = None,
) -> tuple[Model, Conditioning]:
    """Returns a MODEL and a CONDITIONING in which the injection acts. Text states do not need the MODEL."""
    if injection.is_identity:
        return model, conditioning
    conditioning = mark_applied(conditioning, scales if injection.replaces_conditioning else None)
    if injection.is_text:
        sampling = model.get_model_object("model_sampling")
        return model, with_learned_states(conditioning, injection, sampling)
    return patch_model(model), attach_instruction(conditioning, injection, describe(model))
