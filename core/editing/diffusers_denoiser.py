"""The diffusers engine: a UNet of diffusers as a ``Denoiser``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import ModelError
from ..models.families import ModelDescription

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from ..instruction.injection import AnyInjection, InjectedCall

_LEAST_ABAR = 2.0**-24


class _Attention:
    """Attention processor that lets an injection change what a layer projects.

    The call's state arrives as an argument (``cross_attention_kwargs``). Calls on several threads, and
    recomputation under gradient checkpointing, therefore see their own state.
    """

    def __init__(self, layer: str, is_site: bool) -> None:
        self.layer = layer
        self.is_site = is_site

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        instruction: InjectedCall | None = None,
    ) -> Tensor:
        query = attn.to_q(hidden_states)
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        keys = attn.to_k(source)
        values = attn.to_v(source)
        if instruction is not None:
            if instruction.adapts:
                instruction.adapt(self.layer, "q", hidden_states, query)
                instruction.adapt(self.layer, "k", source, keys)
                instruction.adapt(self.layer, "v", source, values)
            if self.is_site:
                keys, values = instruction.keys_values(self.layer, keys, values)
        batch, _, width = query.shape

        def split_heads(states: Tensor) -> Tensor:
            return states.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(split_heads(query), split_heads(keys), split_heads(values))
        mixed = mixed.transpose(1, 2).reshape(batch, -1, width)
        output = attn.to_out[0](mixed)
        if instruction is not None and instruction.adapts:
            instruction.adapt(self.layer, "out", mixed, output)
            instruction.adapt(self.layer, "bypass", hidden_states, output)
        return attn.to_out[1](output)


class DiffusersDenoiser:
    """A diffusers UNet as a ``Denoiser``. Freezes the UNet and does not copy it.

    Args:
        unet: an 8- or 12-channel UNet of the pocket, SD1.5 or SD2.1 family, on its device, in fp32, fp16 or
            bf16.
        description: its description.
        alphas_cumprod: abar [1000]. Zero becomes ``2^-24``, as in diffusers' Euler samplers.

    Raises:
        ModelError: the model is SDXL-like and needs extra conditioning that only ComfyUI's engine supplies.
    """

    def __init__(
        self, unet: UNet2DConditionModel, description: ModelDescription, alphas_cumprod: Tensor
    ) -> None:
        if description.family.comfyui_only:
            raise ModelError(comfyui_only_message(description))
        self.unet = unet.eval().requires_grad_(False)
        self.description = description
        self.device = next(unet.parameters()).device
        self.dtype = next(unet.parameters()).dtype
        if self.device.type == "cuda":
            network: torch.nn.Module = unet
            # Tensor cores read this memory order fastest.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Schedules rescaled to zero terminal SNR end at 0, where the noise level would be infinite.
        self.alphas_cumprod = alphas_cumprod.to(self.device, torch.float32).clamp_min(_LEAST_ABAR)
        self._sites = {site.name: unet.get_submodule(site.name) for site in description.sites}
        processors: dict[str, Any] = {}
        for name in unet.attn_processors:
            layer = name.removesuffix(".processor")
            processors[name] = _Attention(layer, layer in self._sites)
        unet.set_attn_processor(processors)

    @property
    def checkpointing(self) -> bool:
        """See ``Denoiser.checkpointing``."""
        return self.unet.is_gradient_checkpointing

    @checkpointing.setter
    def checkpointing(self, enabled: bool) -> None:
        if enabled and not self.checkpointing:
            # The model draws no random numbers. Saving their state would prevent CUDA graphs.
            self.unet.enable_gradient_checkpointing(
                lambda module, *inputs: checkpoint(
                    module, *inputs, use_reentrant=False, preserve_rng_state=False
                )
            )
        elif self.checkpointing and not enabled:
            self.unet.disable_gradient_checkpointing()

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        image_latent: Tensor,
        context: Tensor,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """See ``Denoiser.predict``.

        Raises:
            ModelError: the latents or text states have the wrong shape for the model.
        """
        self._check_shapes(noisy, image_latent, context)
        context = context.to(self.dtype)
        attention_options = None
        if injection is not None and not injection.is_identity:
            call = injection.begin(context, timesteps)
            context = call.context
            attention_options = {"instruction": call}
        sample = torch.cat([noisy, image_latent], dim=1).to(self.dtype)
        outputs = self.unet(
            sample, timesteps, context, cross_attention_kwargs=attention_options, return_dict=False
        )
        predicted = outputs[0].float()
        if self.description.family.prediction == "epsilon":
            return predicted
        abar = self.alphas_cumprod[timesteps.round().long()].view(-1, 1, 1, 1)
        return abar.sqrt() * predicted + (1 - abar).sqrt() * noisy

    @torch.no_grad()
    def project(self, context: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """See ``Denoiser.project``."""
        states = context.to(self.device, self.dtype)
        projected = {}
        for name, layer in self._sites.items():
            attn: Any = layer
            projected[name] = attn.to_k(states).float(), attn.to_v(states).float()
        return projected

    def _check_shapes(self, noisy: Tensor, image_latent: Tensor, context: Tensor) -> None:
        if (
            noisy.ndim != 4
            or noisy.shape[1] != 4
            or image_latent.shape[:1] + image_latent.shape[2:] != noisy.shape[:1] + noisy.shape[2:]
        ):
            raise ModelError(
                f"Latents: noisy {tuple(noisy.shape)} and image {tuple(image_latent.shape)} must have "
                "the same shape [batch, 4, height, width]."
            )
        needed = self.description.condition_channels
        channels = image_latent.shape[1]
        if channels != needed:
            advice = (
                "reads a mask as well: give it the latents of image and mask"
                if needed > 4
                else "reads no mask: give it the image's latent alone"
            )
            raise ModelError(
                f"{self.description.title}: its image condition has {needed} channels, {channels} were given."
                f" It {advice}, as DiffusersEditor.condition makes it."
            )
        width = self.description.family.context_width
        if context.ndim != 3 or context.shape[0] != noisy.shape[0] or context.shape[2] != width:
            raise ModelError(
                f"Text states: shape {tuple(context.shape)} does not fit; "
                f"[{noisy.shape[0]}, tokens, {width}] is needed."
            )


def comfyui_only_message(description: ModelDescription) -> str:
    """Explains that an SDXL-like or SD3 model runs in ComfyUI only."""
    nodes = (
        "Load InstructPix2Pix, Learn Instruction and Apply Instruction"
        if description.sites
        else "Load InstructPix2Pix and Edit Guider"
    )
    return (
        f"{description.title}: {description.family.title} runs in ComfyUI only: use the nodes {nodes}. "
        "Outside ComfyUI the pocket editor, SD1.5 and SD2.1 models run."
    )
