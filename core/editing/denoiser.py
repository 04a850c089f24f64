"""How a model is used: the protocol that every engine keeps, and the diffusers engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import ModelError
from ..models.families import ModelDescription

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from ..instruction.injection import AnyInjection, InjectedCall


class Denoiser(Protocol):
    """A frozen InstructPix2Pix model."""

    description: ModelDescription
    device: torch.device
    dtype: torch.dtype
    """What it computes in."""
    alphas_cumprod: Tensor
    """abar, [1000] fp32 on ``device``."""

    @property
    def checkpointing(self) -> bool:
        """Whether blocks recompute their activations in the backward pass; set as memory asks for it."""
        ...

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None: ...

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        image_latent: Tensor,
        context: Tensor,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """The noise that the model sees in a latent.

        Args:
            noisy: ``sqrt(abar_t) z + sqrt(1 - abar_t) e`` [B, 4, h, w].
            timesteps: [B], 0..999, int64 or the float positions that samplers take.
            image_latent: the image condition [B, C, h, w] as the editor makes it: the image's latent, unscaled, and in a model that reads a mask the
                mask's after it (C is ``description.condition_channels``). Zeros are the null image, and the null mask with it.
            context: text states [B, L, D].
            injection: learned keys and values, used in every row at every site; or those of equally large groups of rows.

        Returns:
            eps, fp32 [B, 4, h, w], whatever the model itself predicts. Differentiable in the injection's tensors; the model's weights never get
            gradients.
        """
        ...

    def project(self, context: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The model's own keys and values of text states.

        Args:
            context: [L, D].

        Returns:
            Site name -> (``to_k context``, ``to_v context``), each fp32 [L, width], without gradients.
        """
        ...


class _Attention:
    """diffusers' attention with one place more: between the projections and the product, a site asks the injection for its keys and values.

    The state of a call arrives as an argument (``cross_attention_kwargs``), so calls on several threads, and recomputation under gradient
    checkpointing, see their own. Self-attention layers get this class too, without a site, because the argument reaches them as well.
    """

    def __init__(self, site: str | None) -> None:
        self.site = site

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
        keys, values = attn.to_k(source), attn.to_v(source)
        if instruction is not None and self.site is not None:
            keys, values = instruction.keys_values(self.site, keys, values)
        batch, _, width = query.shape
        query, keys, values = (
            rows.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)
            for rows in (query, keys, values)
        )
        mixed = F.scaled_dot_product_attention(query, keys, values)
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).reshape(batch, -1, width)))


class DiffusersDenoiser:
    """A diffusers UNet as a :class:`Denoiser`. Freezes the UNet and keeps no second copy of it.

    Args:
        unet: an 8- or 12-channel ``UNet2DConditionModel`` of the pocket, SD1.5 or SD2.1 family, on its device, in fp32, fp16 or bf16.
        description: its description.
        alphas_cumprod: abar [1000].

    Raises:
        ModelError: an SDXL-like model, whose extra conditioning only ComfyUI's engine supplies, or sites that the description does not list.
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
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the order that the tensor cores read
        self.alphas_cumprod = alphas_cumprod.to(self.device, torch.float32)
        self._sites = {site.name: unet.get_submodule(site.name) for site in description.sites}
        unet.set_attn_processor(
            {
                name: _Attention(site if (site := name.removesuffix(".processor")) in self._sites else None)
                for name in unet.attn_processors
            }  # type: ignore[arg-type]
        )

    @property
    def checkpointing(self) -> bool:
        """See :attr:`Denoiser.checkpointing`."""
        return self.unet.is_gradient_checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        if wanted and not self.checkpointing:
            # Nothing in the model draws random numbers, and a CUDA graph cannot be made of what keeps their state.
            self.unet.enable_gradient_checkpointing(
                lambda module, *inputs: checkpoint(
                    module, *inputs, use_reentrant=False, preserve_rng_state=False
                )
            )
        elif self.checkpointing and not wanted:
            self.unet.disable_gradient_checkpointing()

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        image_latent: Tensor,
        context: Tensor,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """See :meth:`Denoiser.predict`.

        Raises:
            ModelError: latents or text states of a shape the model cannot take.
        """
        self._check(noisy, image_latent, context)
        context, call = context.to(self.dtype), None
        if injection is not None and not injection.is_identity:
            begun = injection.begin(context, timesteps)
            context, call = begun.context, {"instruction": begun}
        sample = torch.cat([noisy, image_latent], dim=1).to(self.dtype)
        output = self.unet(sample, timesteps, context, cross_attention_kwargs=call, return_dict=False)[
            0
        ].float()
        if self.description.family.prediction == "epsilon":
            return output
        abar = self.alphas_cumprod[timesteps.round().long()].view(-1, 1, 1, 1)
        return abar.sqrt() * output + (1 - abar).sqrt() * noisy

    @torch.no_grad()
    def project(self, context: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """See :meth:`Denoiser.project`."""
        states = context.to(self.device, self.dtype)
        projected = {}
        for name, attn in self._sites.items():
            keys, values = attn.to_k(states), attn.to_v(states)  # type: ignore[operator]
            projected[name] = keys.float(), values.float()
        return projected

    def _check(self, noisy: Tensor, image_latent: Tensor, context: Tensor) -> None:
        if (
            noisy.ndim != 4
            or noisy.shape[1] != 4
            or image_latent.shape[:1] + image_latent.shape[2:] != noisy.shape[:1] + noisy.shape[2:]
        ):
            raise ModelError(
                f"Latents: noisy {tuple(noisy.shape)} and image {tuple(image_latent.shape)} must have the same shape [batch, 4, height, width]."
            )
        needed, given = self.description.condition_channels, image_latent.shape[1]
        if given != needed:
            takes = (
                "reads a mask as well: give it the latents of image and mask"
                if needed > 4
                else "reads no mask: give it the image's latent alone"
            )
            raise ModelError(
                f"{self.description.title}: its image condition has {needed} channels, {given} were given. It {takes}, as DiffusersEditor.condition makes it."
            )
        width = self.description.family.context_width
        if context.ndim != 3 or context.shape[0] != noisy.shape[0] or context.shape[2] != width:
            raise ModelError(
                f"Text states: shape {tuple(context.shape)} does not fit; [{noisy.shape[0]}, tokens, {width}] is needed."
            )


def comfyui_only_message(description: ModelDescription) -> str:
    """Why a model of the SDXL or SD3 kind does not run outside ComfyUI."""
    nodes = (
        "Load InstructPix2Pix, Learn Instruction and Apply Instruction"
        if description.sites
        else "Load InstructPix2Pix and Edit Guider"
    )
    return (
        f"{description.title}: {description.family.title} runs in ComfyUI only: use the nodes {nodes}. "
        "Outside ComfyUI the pocket editor, SD1.5 and SD2.1 models run."
    )
