"""Stage 4 trains the editor, an InstructPix2Pix UNet, on cached latents and frozen text states."""

from __future__ import annotations

import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional

from ..models.architecture import CONTEXT, alphas_cumprod, make_unet
from ..models.tokenizer import tokenizer
from .cache_latents import EDITS, VALIDATION, load_shards, shard_path
from .export import export
from .train_clip import Trainee, clip_model
from .training_run import Run, arguments, load_average

# Seconds between exports of the averaged weights.
EXPORT_EVERY = 600.0


class TextEncoder:
    """Computes text states with the frozen text tower."""

    def __init__(self, device: str) -> None:
        trainee = Trainee(clip_model())
        load_average("clip", trainee)
        self.tower = trainee.clip.text_model.to(device).eval().requires_grad_(False)
        self.tokenizer = tokenizer()
        self.device = device

    @torch.no_grad()
    def states(self, texts: list[str]) -> torch.Tensor:
        """Returns the states of `texts`, fp16 [n, 32, 128]."""
        parts = []
        for start in range(0, len(texts), 256):
            tokens = self.tokenizer(
                texts[start : start + 256],
                padding="max_length",
                truncation=True,
                max_length=CONTEXT,
                return_tensors="pt",
            ).input_ids
            parts.append(self.tower(tokens.to(self.device)).last_hidden_state.half())
        return torch.cat(parts)

    def table(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the states of the distinct texts, fp16 [texts, 32, 128], and the row of each given text."""
        distinct = list(dict.fromkeys(texts))
        row = {text: index for index, text in enumerate(distinct)}
        return self.states(distinct), torch.tensor([row[text] for text in texts])


class Noise:
    """Noise schedule, loss weights and the density of timesteps.

    Errors at high noise become color drift over the whole image, so the weight is min(SNR, limit) / SNR x
    sqrt(1 + 1 / SNR), which grows towards t = 999. Half of the timesteps are drawn in proportion to this
    weight, and the loss weights are divided by the density: the expected loss stays the same, with less noise
    in its gradient.
    """

    def __init__(self, device: str, limit: float = 5.0) -> None:
        self.alphas = alphas_cumprod().to(device)
        snr = self.alphas / (1 - self.alphas)
        weight = snr.clamp(max=limit) / snr * (1 + 1 / snr).sqrt()
        weight = weight / weight.mean()
        self.density = 0.5 + 0.5 * weight
        self.weights = weight / self.density
        self.coarse = (0.2 / snr).clamp(1, 4)

    def draw(self, count: int) -> torch.Tensor:
        """Draws timesteps [count]."""
        return torch.multinomial(self.density, count, replacement=True)

    def add(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Returns the noisy latents."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


@torch.no_grad()
def validate(
    unet: UNet2DConditionModel, noise: Noise, data: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> dict[str, float]:
    """Returns the mean squared error of the predicted noise at four timesteps, for unseen pairs."""
    before, after, context = data
    generator = torch.Generator().manual_seed(1)
    errors = {}
    for timestep in (100, 400, 700, 950):
        epsilon = torch.randn(after.shape, generator=generator).to(after.device)
        steps = torch.full((len(after),), timestep, device=after.device)
        predicted = unet(torch.cat([noise.add(after, epsilon, steps), before], 1), steps, context).sample
        errors[f"e{timestep}"] = round(float((predicted - epsilon).square().mean()), 4)
    return errors


def squared_error(difference: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Returns the squared error of each sample [n], with extra weight `coarse` [n] for its coarse parts.

    At high noise the main error of an image is its mean color. It is one component in 256 of the noise, and
    later steps keep it because they read it from the noisy latent. So the errors of the means over the image
    and over 4 x 4 blocks are added. The minimum is still the conditional mean, but training reaches it
    sooner.
    """
    whole = difference.mean((2, 3)).square().mean(1)
    blocks = functional.avg_pool2d(difference, 4).square().mean((1, 2, 3))
    return difference.square().mean((1, 2, 3)) + coarse * (6 * whole + 2 * blocks)


class CachedPairs:
    """The cached pairs. Other processes may write shards during training; `refresh` loads them."""

    def __init__(self, texts: TextEncoder) -> None:
        self.texts = texts
        self.count = 0
        self.refresh()

    def refresh(self) -> None:
        """Loads the shards again if there are at least 25 % more than last time."""
        available = len(list(shard_path(0).parent.glob("*.pt")))
        if available < 1.25 * self.count:
            return
        self.count = available
        self.latents, words, _ = load_shards()
        self.table, self.rows = self.texts.table(words)
        print(f"{len(self.rows)} pairs, {len(self.table)} distinct instructions", flush=True)

    def draw(
        self, rng: np.random.Generator, count: int, device: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draws pairs: latents before and after [count, 4, 16, 16] and text states [count, 32, 128], fp32."""
        index = torch.from_numpy(rng.integers(0, len(self.rows), count))
        group = index // EDITS
        edit = 1 + index % EDITS
        before = self.latents[group, 0].float().to(device)
        after = self.latents[group, edit].float().to(device)
        return before, after, self.table[self.rows[index]].float()


def exact_output(unet: UNet2DConditionModel, device: str) -> None:
    """Keeps the last convolution in fp32 under autocast, so that no rounding reaches the prediction."""
    plain = unet.conv_out.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, enabled=False):
            return plain(x.float())

    unet.conv_out.forward = forward


def _unseen(texts: TextEncoder, count: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loads `count` validation pairs: latents before and after, text states."""
    shard = torch.load(shard_path(VALIDATION), weights_only=True)
    rows = torch.arange(count)
    pick = rows % EDITS
    words = [shard["words"][index][int(k)] for index, k in enumerate(pick)]
    latents = shard["latents"].float().to(device)
    return latents[rows, 0], latents[rows, 1 + pick], texts.states(words).float()


def main() -> None:
    """Trains until the budget ends. Exports the averaged weights every ten minutes."""
    options = arguments(__doc__ or "", seconds=10500, batch=32, rate=8e-4)
    device = options.device
    texts = TextEncoder(device)
    noise = Noise(device)
    pairs = CachedPairs(texts)
    null = texts.states([""])[0].float()
    unseen = _unseen(texts, 60, device)
    unet = make_unet().to(device)
    unet.set_attn_processor(AttnProcessor())  # its backward pass is faster than that of SDPA on CPU
    exact_output(unet, device)
    run = Run("unet", unet, options, decay=0.9993)
    first_step = run.step
    began = time.monotonic()
    exported = began
    while run.share < 1:
        rng = run.randomness()
        before, after, context = pairs.draw(rng, options.batch, device)
        draw = torch.from_numpy(rng.random(options.batch).astype(np.float32)).to(device)
        context[draw < 0.10] = null  # 5 % without text, 5 % without both, 5 % without the image
        before[(draw >= 0.05) & (draw < 0.15)] = 0
        timesteps = noise.draw(options.batch)
        epsilon = torch.randn_like(after)
        with torch.autocast(device, torch.bfloat16):
            predicted = unet(
                torch.cat([noise.add(after, epsilon, timesteps), before], 1), timesteps, context
            ).sample
        error = squared_error(predicted.float() - epsilon, noise.coarse[timesteps])
        run.apply((error * noise.weights[timesteps]).mean(), warmup=200, floor=0.03)
        if run.step % 200 == 0:
            run.swap()
            unet.eval()
            errors = validate(unet, noise, unseen)
            unet.train()
            run.swap()
            run.log(
                rate=round((run.step - first_step) * options.batch / (time.monotonic() - began), 1),
                pairs=len(pairs.rows),
                **errors,
            )
            run.save()
            pairs.refresh()
        if time.monotonic() - exported > EXPORT_EVERY:
            run.save()
            export()
            exported = time.monotonic()
    run.save()
    export()


if __name__ == "__main__":
    main()
