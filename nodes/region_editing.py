"""Nodes that edit in regions."""

from typing import Any

import torch
from comfy_api.latest import io

from .comfy.describe import describe
from .comfy.guider import with_picture
from .comfy.latents import encode_both


class RegionConditioning(io.ComfyNode):
    """A picture and a mask into a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushRegionConditioning",
            display_name="Region Conditioning",
            category="InstructBrush/regions",
            description="Gives a conditioning the picture to edit and, for models that read a mask (UltraEdit, the pocket region editor), where to edit it. "
            "Use it on the positive words and on the empty ones of DualCFGGuider's cond2, and leave its negative as it is.",
            search_aliases=["ultraedit", "mask conditioning", "instruct pix2pix mask", "masked edit", "local edit", "inpaint by instruction"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample. Models without mask channels take the picture alone."),
                io.Conditioning.Input("conditioning", tooltip="The words, or an instruction from Apply Instruction."),
                io.Vae.Input("vae", tooltip="The model's autoencoder: picture and mask go through it."),
                io.Image.Input("image", tooltip="The picture to edit, or several. Sides are cropped to multiples of 8."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit may act: white edits, black stays. One for all pictures or one for each, of the picture's aspect ratio. "
                    "Without one the model edits everywhere (free-form).",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="CONDITIONING", tooltip="The conditioning that carries picture and mask."),
                io.Latent.Output(display_name="LATENT", tooltip="An empty latent of the picture's size, for the sampler."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, conditioning: list[Any], vae: Any, image: torch.Tensor, mask: torch.Tensor | None = None) -> io.NodeOutput:
        latents = encode_both(describe(model), vae, image, mask)
        return io.NodeOutput(with_picture(conditioning, *latents), {"samples": torch.zeros_like(latents[0])})
