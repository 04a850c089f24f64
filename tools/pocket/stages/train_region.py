"""Region stage 2 fine-tunes the pocket editor to the region editor, on pairs with and without a region.

    python -m tools.pocket.stages.train_region --seconds 2400

The UNet gets 12 input channels. Keys and values of cross-attention do not change, so an instruction learned
with one editor works in the other. The middle block does not change either, which keeps the exported
difference small.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from ..models.architecture import is_tuned, make_unet, make_vae
from .cache_latents import encode
from .cache_regions import VALIDATION, load_shards, shard_path
from .export import export_region
from .train_unet import CachedPairs, Noise, TextEncoder, exact_output, squared_error
from .training_run import Run, arguments, load_average

# Share of pairs without a region. Their mask is white.
FREE_SHARE = 0.35
# Low noise decides about marks and corners, and min(SNR, 5) gives it little weight.
SNR_LIMIT = 20.0


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Returns the UNet with four more input channels with zero weights.

    Only the tuned parameters require gradients.
    """
    wide = make_unet(in_channels=12)
    states = unet.state_dict()
    weight = states["conv_in.weight"]
    states["conv_in.weight"] = torch.cat([weight, torch.zeros_like(weight[:, :4])], 1)
    wide.load_state_dict(states)
    for name, parameter in wide.named_parameters():
        parameter.requires_grad_(is_tuned(name))
    return wide


class CachedRegionPairs:
    """The cached region pairs with the text states of their words."""

    def __init__(self, texts: TextEncoder) -> None:
        self.latents, words = load_shards()
        self.table, self.rows = texts.table(words)

    def draw(self, rng: np.random.Generator, count: int, device: str) -> tuple[torch.Tensor, ...]:
        """Returns the mean squared error of the predicted noise at four timesteps, for unseen pairs."""
        index = torch.from_numpy(rng.integers(0, len(self.rows), count))
        before, after, mask = self.latents[index].float().to(device).unbind(1)
        return before, after, mask, self.table[self.rows[index]].float()


def mixed_batch(
    rng: np.random.Generator, free: CachedPairs, regions: CachedRegionPairs, white: torch.Tensor, count: int
) -> tuple[torch.Tensor, ...]:
    """Draws latents before, after and of the mask, and text states, of pairs without and with a region.

    `white` is the latent of the white mask; the batch is on its device.
    """
    device = str(white.device)
    free_count = round(FREE_SHARE * count)
    free_before, free_after, free_context = free.draw(rng, free_count, device)
    before, after, mask, context = regions.draw(rng, count - free_count, device)
    return (
        torch.cat([free_before, before]),
        torch.cat([free_after, after]),
        torch.cat([white.expand(free_count, -1, -1, -1), mask]),
        torch.cat([free_context, context]),
    )


@torch.no_grad()
def validate(unet: UNet2DConditionModel, noise: Noise, data: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Draws latents before, after and of the mask [count, 4, 16, 16], and text states [count, 32, 128]."""
    before, after, mask, context = data
    generator = torch.Generator().manual_seed(1)
    errors = {}
    for timestep in (100, 400, 700, 950):
        epsilon = torch.randn(after.shape, generator=generator).to(after.device)
        steps = torch.full((len(after),), timestep, device=after.device)
        predicted = unet(
            torch.cat([noise.add(after, epsilon, steps), before, mask], 1), steps, context
        ).sample
        errors[f"e{timestep}"] = round(float((predicted - epsilon).square().mean()), 4)
    return errors


def main() -> None:
    """Trains until the budget ends."""
    options = arguments(__doc__ or "", seconds=2400, batch=32, rate=3e-4)
    device = options.device
    texts = TextEncoder(device)
    noise = Noise(device, SNR_LIMIT)
    vae = make_vae()
    base = make_unet()
    load_average("vae", vae)
    load_average("unet", base)
    white = encode(vae.to(device), np.ones((1, 128, 128, 3), np.float32), device).float().to(device)
    free = CachedPairs(texts)
    regions = CachedRegionPairs(texts)
    null = texts.states([""])[0].float()
    shard = torch.load(shard_path(VALIDATION), weights_only=True)
    unseen = (
        *shard["latents"][:100].float().to(device).unbind(1),
        texts.states(shard["words"][:100]).float(),
    )
    unet = widened(base).to(device)
    unet.set_attn_processor(AttnProcessor())
    exact_output(unet, device)
    run = Run("region", unet, options, decay=0.999)
    first_step = run.step
    began = time.monotonic()
    while run.share < 1:
        rng = run.randomness()
        before, after, mask, context = mixed_batch(rng, free, regions, white, options.batch)
        draw = torch.from_numpy(rng.random(options.batch).astype(np.float32)).to(device)
        context[draw < 0.10] = null  # 5 % without text, 5 % without both, 5 % without the image and its mask
        nothing = (draw >= 0.05) & (draw < 0.15)
        before[nothing] = 0
        mask[nothing] = 0
        timesteps = noise.draw(options.batch)
        epsilon = torch.randn_like(after)
        with torch.autocast(device, torch.bfloat16):
            predicted = unet(
                torch.cat([noise.add(after, epsilon, timesteps), before, mask], 1), timesteps, context
            ).sample
        error = squared_error(predicted.float() - epsilon, noise.coarse[timesteps])
        run.apply((error * noise.weights[timesteps]).mean(), warmup=100, floor=0.03)
        if run.step % 200 == 0:
            run.swap()
            unet.eval()
            errors = validate(unet, noise, unseen)
            unet.train()
            run.swap()
            run.log(
                rate=round((run.step - first_step) * options.batch / (time.monotonic() - began), 1),
                pairs=len(regions.rows),
                **errors,
            )
            run.save()
    run.save()
    export_region()


if __name__ == "__main__":
    main()
