"""A LoRA on an effect's pairs, with the peft package: what people use today, to compare with.

A LoRA (Hu et al., 2021) adds ``B A x`` of rank r to linear layers of the model: here to q, k, v and out of
both attentions of every block, with alpha = r. It learns from the same samples as an instruction does: the
same number, the same timesteps, noise and weights, by Eq. 5 as printed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from ...editing.diffusers_denoiser import DiffusersDenoiser
from ...errors import EvaluationError
from ...learning.objective import PairLatents, collect, held_out_error, noise_errors
from ...learning.segment_streams import SegmentStream
from ...learning.settings import LearningSettings

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
RATES = (3e-3, 1e-2, 2e-2)
"""Learning rates to choose from; a LoRA at 0.03 diverged on the pocket editor."""

# A diverged LoRA stops after at most this many further steps. Each check waits for the device.
_CHECK_EVERY = 25
# Latent pixels of one model call while learning, so that a step at 512 px fits into 12 GB.
_PIXELS_AT_ONCE = 4096


@dataclass(frozen=True)
class LoraTask:
    """What a LoRA learns from."""

    denoiser: DiffusersDenoiser
    latents: PairLatents
    context: Tensor
    """Text states that stand for the edit, [L, D]."""
    settings: LearningSettings
    """Steps, segments, batch, weighting, seed and learning rates."""

    def at_rate(self, rate: float) -> LoraTask:
        """Returns the same task with another learning rate, whose last step is in the preset's proportion."""
        preset = self.settings
        final = rate * preset.final_learning_rate / preset.learning_rate
        return replace(self, settings=replace(preset, learning_rate=rate, final_learning_rate=final))

    def without_pair(self, index: int) -> LoraTask:
        """Returns the same task without one pair."""
        before, after = list(self.latents.before), list(self.latents.after)
        del before[index], after[index]
        return replace(self, latents=PairLatents(before, after))


@contextmanager
def lora_layers(unet: UNet2DConditionModel, rank: int, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Adds a LoRA to a UNet and removes it at the end: the UNet then has its own layers again, untouched.

    Args:
        unet: the frozen model.
        rank: r.
        seed: of A; B is zero, so the LoRA begins without an effect.

    Yields:
        Name -> A or B of every layer, fp32.

    Raises:
        EvaluationError: the peft package is missing.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise EvaluationError(
            "Benchmark: the LoRA methods need the peft package, which is not installed. "
            "Run: pip install peft, or leave these methods out."
        ) from error
    device = next(unet.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), lora_dropout=0.0)
        lora: Any = LoraModel(unet, config, "lora")
    try:
        parameters = {
            name: parameter for name, parameter in unet.named_parameters() if ".lora." in f"{name}."
        }
        for parameter in parameters.values():
            parameter.data = parameter.data.float()
        yield parameters
    finally:
        lora.unload()
        vars(unet).pop("peft_config", None)


def learn_lora(task: LoraTask, parameters: Mapping[str, Tensor]) -> float | None:
    """Optimizes the LoRA in place.

    Returns:
        The mean loss of the last tenth of the steps; None if the loss or the LoRA is not finite. The loss is
        checked every 25 steps, and learning stops there.
    """
    settings = replace(task.settings, objective="plain")
    streams = [SegmentStream(segment, settings) for segment in range(settings.segments)]
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=settings.learning_rate, weight_decay=0.0)
    pixels = max(math.prod(latent.shape[-2:]) for latent in task.latents.after)
    half = task.denoiser.dtype == torch.float16
    # Gradients of a mean over many pixels underflow in half precision; a power of two changes no digit.
    scale = 2.0 ** round(math.log2(max(pixels / 4, 1))) if half else 1.0
    losses: list[Tensor] = []
    with torch.enable_grad():
        for step in range(settings.steps):
            optimizer.param_groups[0]["lr"] = settings.rate_at(step)
            drawn = [stream.draw(task.latents) for stream in streams for _ in range(settings.batch)]
            optimizer.zero_grad(set_to_none=True)
            losses.append(_backward(task, drawn, settings, scale, max(_PIXELS_AT_ONCE // pixels, 1)))
            for parameter in parameters.values():
                if parameter.grad is not None and scale != 1:
                    parameter.grad.mul_(1 / scale)
            optimizer.step()
            if (step + 1) % _CHECK_EVERY == 0 and not torch.isfinite(losses[-1]):
                return None
    last = torch.stack(losses[-max(settings.steps // 10, 1) :]).mean().item()
    return last if math.isfinite(last) and is_finite(parameters) else None


def _backward(
    task: LoraTask,
    drawn: Sequence[tuple[int, int, Tensor]],
    settings: LearningSettings,
    scale: float,
    rows: int,
) -> Tensor:
    """Adds the gradients of drawn samples, at most ``rows`` of them at once. Returns their mean loss."""
    total = torch.zeros((), device=task.denoiser.device)
    for samples in collect(task.latents, drawn, task.denoiser.device):
        for chunk in samples.chunks(rows):
            errors = noise_errors(task.denoiser, chunk, task.context, task.context, None, settings)
            (errors.sum() * scale / settings.batch).backward()
            total += errors.detach().sum()
    return total / len(drawn)


def error_on(task: LoraTask, pair: int) -> float:
    """``held_out_error`` of the model as it is, by Eq. 5 as printed."""
    settings = replace(task.settings, objective="plain")
    contexts = task.context, task.context
    return held_out_error(task.denoiser, task.latents, pair, contexts, None, settings)


def choose_rate(task: LoraTask, rank: int, rates: Sequence[float] = RATES) -> tuple[float, dict[str, float]]:
    """Chooses the learning rate: that of the LoRA with the lowest error on the last pair, which it never saw.

    Returns:
        The rate, and the error of every rate that gave finite numbers.

    Raises:
        EvaluationError: no rate gave finite numbers.
    """
    held_out = len(task.latents.after) - 1
    errors: dict[float, float] = {}
    for rate in rates:
        with lora_layers(task.denoiser.unet, rank, task.settings.seed) as parameters:
            loss = learn_lora(task.without_pair(held_out).at_rate(rate), parameters)
            error = math.inf if loss is None else error_on(task, held_out)
        if math.isfinite(error):
            errors[rate] = error
    if not errors:
        raise EvaluationError(
            f"LoRA of rank {rank}: the loss is not finite at any rate of {', '.join(map(str, rates))}. "
            "Leave the method out of --methods; finished results are kept."
        )
    return min(errors, key=lambda rate: errors[rate]), {str(rate): error for rate, error in errors.items()}


def is_finite(parameters: Mapping[str, Tensor]) -> bool:
    """Whether all numbers of a LoRA are finite."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in parameters.values())


@torch.no_grad()
def round_to_half(parameters: Mapping[str, Tensor]) -> int:
    """Rounds a LoRA to fp16, as it is shared, and returns the bytes of its .safetensors file."""
    for parameter in parameters.values():
        parameter.copy_(parameter.half().float())
    return len(save({name: parameter.detach().half().cpu() for name, parameter in parameters.items()}))
