"""The ComfyUI engine: a MODEL as a ``Denoiser`` (core/editing/denoiser.py), with gradients.

It uses the same weights, patches and LoRAs as sampling does. Nodes run in inference mode, whose tensors
autograd rejects: use this engine within ``torch.inference_mode(False)``.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from comfy import model_management
from comfy.ldm.modules.attention import BasicTransformerBlock, attention_pytorch, get_attn_precision
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import copy_nested_dicts, merge_nested_dicts
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....core.diffusion.schedule import TRAIN_TIMESTEPS
from ....core.errors import LearningError
from ....core.instruction.injection import AnyInjection
from ..models.description import describe
from ..models.plain_weights import override_attribute, plain, plain_weights, static_clone
from .instruction_patch import prepare_call

# Wrappers that make sampling faster and fail, or help nothing, beside gradients.
_LEFT_OUT = ("easycache", "lazycache", "torch.compile")


class ComfyDenoiser:
    """A MODEL as a ``Denoiser``.

    Args:
        model: the MODEL. It is cloned, not changed.
        pooled: pooled text states [1, D] of the empty text, for models that use them (SDXL). An instruction
            takes the place of the words, so it acts beside these in Edit Guider.
        checkpointing: recompute activations in the backward pass. This is about a third slower and takes a
            fraction of the memory.

    Raises:
        ModelError: the model is not an InstructPix2Pix model of a known family, or has no cross-attention
            layers.
        LearningError: another node changed the number of its noise levels.
    """

    def __init__(
        self,
        model: ModelPatcher,
        pooled: Tensor | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.description = describe(model)
        self.description.require_sites()
        self.patcher = static_clone(model)
        self.device = torch.device(model.load_device)
        self.dtype = model.model.get_dtype_inference()
        self.checkpointing = checkpointing
        self._pooled = pooled
        self._pooled_cache: dict[tuple[int, int], Tensor] = {}
        # EDM models accept any sigma. Their timesteps are positions in Stable Diffusion's schedule.
        edm = self.description.family.prediction == "edm_v"
        table: Any = ModelSamplingDiscrete() if edm else self.patcher.get_model_object("model_sampling")
        self._sigmas = plain(table.sigmas).to(self.device, torch.float32)
        if len(self._sigmas) != TRAIN_TIMESTEPS:
            raise LearningError(
                f"Learning: the MODEL has {len(self._sigmas)} noise levels in place of {TRAIN_TIMESTEPS}. "
                "Connect ModelSamplingDiscrete (lcm) to the sampler only, and not to the learning node."
            )
        self.alphas_cumprod = 1 / (self._sigmas.square() + 1)

    @contextmanager
    def loaded(self) -> Iterator["ComfyDenoiser"]:
        """Keeps the model on its device, ready for gradients."""
        with plain_weights(self.patcher), ExitStack() as undo:
            self.patcher.pre_run()
            undo.callback(self.patcher.cleanup)
            for module in self.unet.modules():
                if isinstance(module, (BasicTransformerBlock, ResBlock)):
                    override_attribute(module, "forward", self._recomputed(module.forward), undo)
            yield self

    @contextmanager
    def projecting(self) -> Iterator["ComfyDenoiser"]:
        """Keeps only the layers that ``project`` needs on the device."""
        layers = {
            f"diffusion_model.{site.native_name}.{name}"
            for site in self.description.sites
            for name in ("to_k", "to_v")
        }
        with plain_weights(self.patcher, layers.__contains__):
            yield self

    @property
    def unet(self) -> Any:
        """The UNet."""
        return self.patcher.model.diffusion_model

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        image_latent: Tensor,
        context: Tensor,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """See ``Denoiser.predict``.

        ComfyUI's models take ``x = z + sigma e`` and return the clean latent ``z``, whatever the UNet
        predicts. So ``x = noisy / sqrt(abar)`` and ``e = (x - z) / sigma``.
        """
        base = self.patcher.model
        timesteps = timesteps.round().long()  # samplers pass floats
        options = self._transformer_options(timesteps)
        context = context.to(self.dtype)
        if injection is not None and not injection.is_identity:
            context, options = prepare_call(injection, self.description.sites, timesteps, context, options)
        sigma = self._sigmas[timesteps]
        wide_sigma = sigma.view(-1, 1, 1, 1)
        x = noisy * (wide_sigma.square() + 1).sqrt()
        image = base.process_ip2p_image_in(image_latent)
        denoised = base.apply_model(
            x,
            sigma,
            c_concat=image,
            c_crossattn=context,
            transformer_options=options,
            **self._sdxl_conditioning(noisy),
        )
        return (x - denoised).float() / wide_sigma

    @torch.no_grad()
    def project(self, context: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """See ``Denoiser.project``."""
        states = context.to(self.device, self.dtype)
        layers: dict[str, Any] = {
            site.name: self.unet.get_submodule(site.native_name) for site in self.description.sites
        }
        return {
            name: (layer.to_k(states).float(), layer.to_v(states).float()) for name, layer in layers.items()
        }

    def _transformer_options(self, timesteps: Tensor) -> dict[str, Any]:
        options = copy_nested_dicts(self.patcher.model_options.get("transformer_options", {}))
        wrappers = {
            kind: {key: each for key, each in keyed.items() if key not in _LEFT_OUT}
            for kind, keyed in self.patcher.wrappers.items()
        }
        options = merge_nested_dicts(options, {"wrappers": wrappers})
        # Patches such as IPAdapter's read the branch of the rows (0 is the instructed one) and the noise
        # level.
        options.update(cond_or_uncond=[0], uuids=[], sigmas=self._sigmas[timesteps])
        options["optimized_attention_override"] = _attention
        return options

    def _sdxl_conditioning(self, noisy: Tensor) -> dict[str, Tensor]:
        """SDXL's extra conditioning, [B, adm]: pooled text states and image size."""
        if self._pooled is None or not self.patcher.model.adm_channels:
            return {}
        height, width = (8 * side for side in noisy.shape[2:])
        if (height, width) not in self._pooled_cache:
            adm = self.patcher.model.encode_adm(
                pooled_output=self._pooled.to(self.device), width=width, height=height, device=self.device
            )
            self._pooled_cache[height, width] = adm.to(self.device)
        return {"y": self._pooled_cache[height, width].expand(len(noisy), -1)}

    def _recomputed(self, forward: Any) -> Any:
        """A block's forward that runs again in the backward pass if ``checkpointing`` is set."""

        def run(*inputs: Any, **named: Any) -> Any:
            if not self.checkpointing or not torch.is_grad_enabled():
                return forward(*inputs, **named)
            if "transformer_options" in named:
                # ComfyUI writes each block's name into this dict. Recomputation needs its present content.
                named["transformer_options"] = named["transformer_options"].copy()
            return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

        return run


def _attention(_: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Tensor:
    """torch's attention in place of the server's (Sage, sub-quadratic), which may have no backward pass, or a
    costly one."""
    precision = get_attn_precision(named.get("attn_precision"), q.dtype)
    if precision != torch.float32 or q.dtype == precision or model_management.pytorch_attention_enabled():
        return attention_pytorch(q, k, v, *rest, **named)
    # Where ComfyUI does not use torch's attention (Apple, some AMD cards), fp16 may overflow: it samples in
    # fp32, which torch's attention does not do by itself.
    return attention_pytorch(q.float(), k.float(), v.float(), *rest, **named).to(q.dtype)
