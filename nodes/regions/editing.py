"""Nodes that edit in regions."""

from typing import Any

import torch
from comfy_api.latest import io

from ..comfy.models.description import describe
from ..comfy.sampling.guider import with_image
from ..comfy.sampling.latents import encode_both
from ..comfy.sampling.region_blending import keep_region, with_region
from ..shared.node import Node


class RegionConditioning(Node):
    """An image and a mask into a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushRegionConditioning",
            display_name="Region Conditioning",
            category="InstructBrush/regions",
            description="Gives a conditioning the image to edit and, for models that read a mask (UltraEdit, the pocket region editor), where to edit it. "
            "Use it on the positive words and on the empty ones of DualCFGGuider's cond2, and leave its negative as it is.",
            search_aliases=[
                "ultraedit",
                "mask conditioning",
                "instruct pix2pix mask",
                "masked edit",
                "local edit",
                "inpaint by instruction",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that will sample. Models without mask channels take the image alone.",
                ),
                io.Conditioning.Input(
                    "conditioning", tooltip="The words, or an instruction from Apply Instruction."
                ),
                io.Vae.Input("vae", tooltip="The model's autoencoder: image and mask go through it."),
                io.Image.Input(
                    "image", tooltip="The image to edit, or several. Sides are cropped to multiples of 8."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit may act: white edits, black stays. One for all images or one for each, of the image's aspect ratio. "
                    "Without one the model edits everywhere (free-form).",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="The conditioning that carries image and mask."
                ),
                io.Latent.Output(
                    display_name="LATENT", tooltip="An empty latent of the image's size, for the sampler."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioning: list[Any],
        vae: Any,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        latents = encode_both(describe(model), vae, image, mask)
        return io.NodeOutput(with_image(conditioning, *latents), {"samples": torch.zeros_like(latents[0])})


class RegionEdit(Node):
    """An edit that stays in a region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushRegionEdit",
            display_name="Region Edit",
            category="InstructBrush/regions",
            description="Keeps an edit inside a mask, with any model and any sampler (UltraEdit, Eq. 1): while sampling, the image itself is put back "
            "outside the mask every few steps, and at the end. Both outputs go on to the sampler or guider.",
            search_aliases=[
                "region edit",
                "masked edit",
                "local edit",
                "inpaint by instruction",
                "blended diffusion",
                "soft mask",
                "ultraedit",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample."),
                io.Latent.Input("latent", tooltip="The image to edit, from VAE Encode."),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the edit may act: white edits, black stays, grey mixes. One for all images or one for each, of the image's aspect "
                    "ratio. Soft Region makes a soft one.",
                ),
                io.Int.Input(
                    "blend_every",
                    default=2,
                    min=1,
                    max=1000,
                    tooltip="Steps from one blending to the next. 2 is UltraEdit's: the steps between let the edit grow together with its surroundings. "
                    "1 blends every step. The last step always blends.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL", tooltip="The model, keeping to the region that the latent carries."
                ),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The image's latent with the mask, for the sampler's latent input.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, latent: dict[str, Any], mask: torch.Tensor, blend_every: int
    ) -> io.NodeOutput:
        return io.NodeOutput(keep_region(model, blend_every), with_region(latent, mask))
