"""Region stage 2: the pocket region editor, the UNet's 12-channel sister, tuned from it on free-form and region pairs.

    python -m tools.pocket.stages.train_region --seconds 2400

Keys and values of every cross-attention layer stay as they are, so an instruction learned on one editor acts in the other; the middle block stays too,
so that the difference between both, which is all that is shipped, is small.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from ..models.architecture import make_unet, make_vae, tuned
from .cache_latents import encode
from .cache_regions import VALIDATION, load_shards, shard_path
from .export import export_region
from .train_unet import Noise, Pairs, Texts, exact_output, squared_error
from .training_run import Run, arguments, load_average

FREE_SHARE = 0.35
"""Share of pairs without a region: their mask is white."""
SNR_LIMIT = 20.0
"""Marks and corners are decided where there is little noise, which min(SNR, 5) hardly counts."""


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same UNet with four channels more at its input, whose weights are zero; trainable where the sisters may differ."""
    wide = make_unet(in_channels=12)
    states = unet.state_dict()
    states["conv_in.weight"] = torch.cat(
        [states["conv_in.weight"], torch.zeros_like(states["conv_in.weight"][:, :4])], 1
    )
    wide.load_state_dict(states)
    for name, parameter in wide.named_parameters():
        parameter.requires_grad_(tuned(name))
    return wide


class RegionPairs:
    """The cached region pairs, and text states of their words."""

    def __init__(self, texts: Texts) -> None:
        self.latents, words = load_shards()
        self.table, self.rows = texts.table(words)

    def draw(self, rng: np.random.Generator, count: int, device: str) -> tuple[torch.Tensor, ...]:
        """Latents before, after and of the mask, [count, 4, 16, 16], and text states [count, 32, 128], fp32."""
        index = torch.from_numpy(rng.integers(0, len(self.rows), count))
        before, after, mask = self.latents[index].float().to(device).unbind(1)
        return before, after, mask, self.table[self.rows[index]].float()


@torch.no_grad()
def validate(unet: UNet2DConditionModel, noise: Noise, data: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Mean squared error of the predicted noise at four timesteps, on unseen region pairs and always the same noise."""
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
    """Train until the budget ends."""
    options = arguments(__doc__ or "", seconds=2400, batch=32, rate=3e-4)
    device = options.device
    texts, noise = Texts(device), Noise(device, SNR_LIMIT)
    vae, base = make_vae(), make_unet()
    load_average("vae", vae)
    load_average("unet", base)
    white = encode(vae.to(device), np.ones((1, 128, 128, 3), np.float32), device).float().to(device)
    free, regions, null = Pairs(texts), RegionPairs(texts), texts.states([""])[0].float()
    shard = torch.load(shard_path(VALIDATION), weights_only=True)
    unseen = (
        *shard["latents"][:100].float().to(device).unbind(1),
        texts.states(shard["words"][:100]).float(),
    )
    unet = widened(base).to(device)
    unet.set_attn_processor(AttnProcessor())
    exact_output(unet, device)
    run = Run("region", unet, options, decay=0.999)
    began, done = time.monotonic(), run.step
    while run.share < 1:
        rng = run.randomness()
        count = round(FREE_SHARE * options.batch)
        plain, masked = free.draw(rng, count, device), regions.draw(rng, options.batch - count, device)
        before, after, context = (
            torch.cat(both) for both in zip(plain, (masked[0], masked[1], masked[3]), strict=True)
        )
        mask = torch.cat([white.expand(count, -1, -1, -1), masked[2]])
        draw = torch.from_numpy(rng.random(options.batch).astype(np.float32)).to(device)
        context[draw < 0.10] = null  # 5 % without text, 5 % without both, 5 % without the image and its mask
        nothing = (draw >= 0.05) & (draw < 0.15)
        before[nothing], mask[nothing] = 0, 0
        timesteps, epsilon = noise.draw(options.batch), torch.randn_like(after)
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
                rate=round((run.step - done) * options.batch / (time.monotonic() - began), 1),
                pairs=len(regions.rows),
                **errors,
            )
            run.save()
    run.save()
    export_region()


if __name__ == "__main__":
    main()
