"""Edits that the benchmarks time: 20 Euler ancestral steps by Edit Guider or by diffusers' pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from instructbrush.core.instruction.injection import inject
from instructbrush.core.instruction.instruction import Instruction
from instructbrush.tools.benchmarks.timing import Times, side_by_side

STEPS = 20


def time_edit_guider(
    model: Any,
    words: Any,
    none: Any,
    image: Tensor,
    instruction: Instruction,
    scales: dict[str, float],
    rounds: int,
) -> Times:
    """Times edits in ComfyUI by words, by an instruction and by the instruction at half strength.

    Args:
        model: the MODEL.
        words, none: CONDITIONING of the words and of "".
        image: latent of the image [1, 4, h, w].
        instruction: an instruction for this model.
        scales: text_scale (s_T) and image_scale (s_I).
        rounds: see ``side_by_side``.
    """
    import comfy.samplers

    from instructbrush.nodes.comfy.models.description import describe
    from instructbrush.nodes.comfy.sampling.guider import EditGuider, with_image
    from instructbrush.nodes.comfy.sampling.instruction_patch import attach_instruction, patch_model

    sampler = comfy.samplers.sampler_object("euler_ancestral")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)

    def edit(strength: float | None) -> Callable[[], object]:
        patched = model
        full = words
        if strength is not None:
            patched = patch_model(model)
            full = attach_instruction(words, inject(instruction, strength), describe(model))
        guider = EditGuider(patched, scales["text_scale"], scales["image_scale"])
        guider.set_branches(with_image(full, image), with_image(none, image), none)
        return lambda: guider.sample(
            torch.randn_like(image), torch.zeros_like(image), sampler, sigmas, disable_pbar=True
        )

    with torch.inference_mode():
        return side_by_side(rounds, 2, words=edit(None), instruction=edit(1.0), half_strength=edit(0.5))


def pipeline_edit(
    pipeline: Any, context: Tensor, null: Tensor, image: Tensor, scales: dict[str, float]
) -> Tensor:
    """Edits an image's latent [1, 4, h, w] with diffusers' pipeline and seed 0.

    `context` and `null` are the text states [L, D] of the words and of "".
    """
    return pipeline(
        prompt_embeds=context[None],
        negative_prompt_embeds=null[None],
        image=image,
        num_inference_steps=STEPS,
        guidance_scale=scales["text_scale"],
        image_guidance_scale=scales["image_scale"],
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
