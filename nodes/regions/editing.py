"""Nodes that edit within regions."""

from typing import Any

import torch
from comfy_api.latest import io

from ..comfy.models.description import describe
from ..comfy.sampling.guider import with_image
from ..comfy.sampling.latents import encode_with_mask
from ..comfy.sampling.region_blending import keep_region, with_region
from ..comfy.types import Model, Vae
from ..shared.node import Node


class RegionConditioning(Node):
    """Adds an image and a mask to a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushRegionConditioning",
            display_name="Region Conditioning",
            category="InstructBrush/regions",
            description="Adds the image to edit to a conditioning and, for models that read a mask "
            "(UltraEdit, the pocket region editor), the region to edit. Use it on the positive conditioning "
            "and on the empty one for DualCFGGuider's cond2, but not on the negative one.",
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
                    tooltip="The model for sampling. A model without mask channels takes the image alone: "
                    "connect no mask then.",
                ),
                io.Conditioning.Input(
                    "conditioning", tooltip="The encoded words, or an instruction from Apply Instruction."
                ),
                io.Vae.Input("vae", tooltip="The model's VAE. It encodes image and mask."),
                io.Image.Input(
                    "image", tooltip="One or more images to edit. Sides are cropped to multiples of 8."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit may act: white is edited, black stays. One mask for all images "
                    "or one for each, with the image's aspect ratio. Without a mask the model edits "
                    "everywhere (free-form).",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="The conditioning with image and mask."
                ),
                io.Latent.Output(
                    display_name="LATENT", tooltip="An empty latent with the image's size, for the sampler."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        conditioning: list[Any],
        vae: Vae,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        latents = encode_with_mask(describe(model), vae, image, mask)
        return io.NodeOutput(with_image(conditioning, *latents), {"samples": torch.zeros_like(latents[0])})


class RegionEdit(Node):
    """Keeps an edit inside a region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushRegionEdit",
            display_name="Region Edit",
            category="InstructBrush/regions",
            description="Keeps an edit inside a mask, with any model and any sampler (UltraEdit, Eq. 1). "
            "During sampling, the original image is restored outside the mask every few steps and at the "
            "end. Connect both outputs to the sampler or guider.",
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
                io.Model.Input("model", tooltip="The model for sampling."),
                io.Latent.Input("latent", tooltip="The image to edit, from VAE Encode."),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the edit may act: white is edited, black stays, gray is mixed. One mask "
                    "for all images or one for each, with the image's aspect ratio. Soft Region makes a soft "
                    "mask.",
                ),
                io.Int.Input(
                    "blend_every",
                    default=2,
                    min=1,
                    max=1000,
                    tooltip="Steps from one blending to the next. UltraEdit uses 2: the steps in between let "
                    "the edit adapt to its surroundings. 1 blends at every step. The last step always "
                    "blends.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL", tooltip="The model that keeps the edit inside the latent's region."
                ),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The image's latent with the mask, for the sampler's latent input.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Model, latent: dict[str, Any], mask: torch.Tensor, blend_every: int
    ) -> io.NodeOutput:
        return io.NodeOutput(keep_region(model, blend_every), with_region(latent, mask))
