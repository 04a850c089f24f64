"""Reason stage 3: the connector from the reader to the editor, and the editor tuned with it, on direct and indirect instructions.

    python -m tools.pocket.reasoning_stages.train_reason --seconds 5400

First the connector alone learns to make of a wish the text states of the instruction that fulfils it, which the editor knows already: with the editor's loss
alone 400 steps hardly brought it anywhere. Then both learn with InstructPix2Pix's loss and dropout. The reader itself is not needed any more, its states are
in the cache. Keys and values of every cross-attention layer stay as they are, so an instruction learned on the editor acts in the tuned one; middle block and
time embedding stay too, so that what is shipped, the difference between both, is small.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import nn

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.mllm import Mllm, load_mllm
from instructbrush.core.reasoning.connector import (
    Connector,
    config_for,
    new_connector,
    save_connector,
    text_fingerprint,
)
from instructbrush.core.reasoning.state_cache import padded

from ..models.architecture import tuned
from ..stages.cache_latents import VALIDATION
from ..stages.export import TARGET
from ..stages.train_unet import Noise, exact_output, squared_error
from ..stages.training_run import Run, arguments, load_average
from .cache_reason import load_shard, shard_path, wishes_path
from .train_reader import READER_TARGET

REASON_TARGET = TARGET.with_name("pocket_reason")
INDIRECT_SHARE = 0.5
"""Share of pairs that are shown with an indirect wish."""
SNR_LIMIT = 20.0
"""As the region editor's: marks and corners are decided where there is little noise."""
LEAD_SHARE, LEAD_BATCH, LEAD_RATE = 0.4, 64, 1e-3
"""Of the time, for the connector alone; chats in its steps, a quarter of them direct instructions, and its rate."""
MEANT_WEIGHT = 0.05
"""Of the connector's own loss beside the editor's."""

Meaning = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Text states [n, 32, 128], the reader's states [n, L, D] and their mask [n, L], and the text states of what is meant [n, 32, 128]: of a wish those of the
direct instruction that fulfils it, of a direct instruction its own."""
Batch = tuple[torch.Tensor, torch.Tensor, Meaning]
"""Latents before and after [n, 4, 16, 16], and what is said of them."""


class Reasoning(nn.Module):
    """What is trained: the connector, and the UNet where the sisters may differ."""

    def __init__(self, connector: Connector, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.connector, self.unet = connector, unet
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(tuned(name))

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        batch: Batch,
        null: torch.Tensor,
        without: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the noise [n, 4, 16, 16]; where `without` [n] is true with the empty instruction, which never passes through the connector."""
        before, _, (text, states, mask, _) = batch
        context = torch.where(without[:, None, None], null, self.connector(text, states, mask))
        return self.unet(torch.cat([noisy, before], 1), timesteps, context).sample


def make_reasoning(editor: DiffusersEditor, reader: Mllm) -> Reasoning:
    """The editor with an untrained connector: it does what the editor did."""
    config = config_for(
        editor.description.family,
        reader.width,
        text_fingerprint=text_fingerprint(editor.text_encoder.state_dict()),
        mllm_name=reader.name,
        mllm_fingerprint=reader.fingerprint,
    )
    return Reasoning(new_connector(config), editor.denoiser.unet)


def text_table(editor: DiffusersEditor, texts: list[str]) -> tuple[torch.Tensor, dict[str, int]]:
    """The states of every different text, fp16 [n, 32, 128], and its row there."""
    distinct = list(dict.fromkeys(texts))
    table = torch.cat(
        [editor.encode_text(distinct[i : i + 256]).half() for i in range(0, len(distinct), 256)]
    )
    return table, {text: row for row, text in enumerate(distinct)}


class Wishes:
    """The cached wishes of some shards, and the text states of their words and of what they mean."""

    def __init__(self, editor: DiffusersEditor, shards: list[dict]) -> None:
        self.states = [states for shard in shards for states in shard["states"]]
        words, meant = ([text for shard in shards for text in shard[each]] for each in ("words", "meant"))
        self.table, number = text_table(editor, words + meant)
        self.rows = [(number[text], number[other]) for text, other in zip(words, meant, strict=True)]

    def draw(self, rng: np.random.Generator, count: int, device: str) -> Meaning:
        """Draw wishes."""
        chosen = rng.integers(len(self.rows), size=count)
        text, meant = (
            self.table[[self.rows[row][side] for row in chosen]].float().to(device) for side in (0, 1)
        )
        states, mask = padded([self.states[row] for row in chosen])
        return text, states.to(device), mask.to(device), meant


class ReasonPairs:
    """The cached chats of some shards, and the text states of their words."""

    def __init__(self, editor: DiffusersEditor, reader: str, shards: list[int]) -> None:
        latents, starts, words, self.states, self.rows = [], [], [], [], []
        for index in shards:
            shard = load_shard(shard_path(index), reader)
            first = sum(map(len, latents))
            latents.append(shard["latents"])
            starts.append(shard["starts"])
            self.states += shard["states"]
            self.rows += [(first + image, result) for image, result, _ in shard["rows"]]
            words += [
                (text, bool(indirect))
                for text, (_, _, indirect) in zip(shard["words"], shard["rows"], strict=True)
            ]
        self.latents, self.starts = torch.cat(latents), torch.cat(starts)
        self.indirect, self.direct = (
            [row for row, (_, each) in enumerate(words) if each == kind] for kind in (True, False)
        )
        self.table, number = text_table(editor, [text for text, _ in words])
        self.text = [number[text] for text, _ in words]
        # What fulfils a wish comes right after it.
        self.meant = [self.text[row + wish] for row, (_, wish) in enumerate(words)]

    def take(self, chats: list[int], device: str) -> Batch:
        """Some chats as a batch, fp32."""
        images, results = zip(*(self.rows[chat] for chat in chats), strict=True)
        before, after = self.latents[list(images), 0], self.latents[list(images), list(results)]
        states, mask = padded(
            [
                torch.cat([self.starts[image], self.states[chat]])
                for image, chat in zip(images, chats, strict=True)
            ]
        )
        text, meant = (
            self.table[[rows[chat] for chat in chats]].float().to(device) for rows in (self.text, self.meant)
        )
        return (
            before.float().to(device),
            after.float().to(device),
            (text, states.to(device), mask.to(device), meant),
        )

    def draw(self, rng: np.random.Generator, count: int, device: str) -> Batch:
        """Draw chats, INDIRECT_SHARE of them indirect."""
        wishes = round(INDIRECT_SHARE * count)
        chats = [*rng.choice(self.indirect, wishes), *rng.choice(self.direct, count - wishes)]
        return self.take([int(chat) for chat in chats], device)


def meant_error(connector: Connector, meaning: Meaning) -> torch.Tensor:
    """Mean squared error of the text states that a connector makes."""
    text, states, mask, meant = meaning
    return (connector(text, states, mask).float() - meant).square().mean()


@torch.no_grad()
def validate(
    model: Reasoning, noise: Noise, null: torch.Tensor, batches: dict[str, Batch]
) -> dict[str, float]:
    """Mean squared error of the predicted noise on unseen pairs with always the same noise, mean over four timesteps: `direct`, `indirect`, and `base`,
    which is `indirect` with the text states alone."""
    errors: dict[str, float] = {}
    for name, batch in batches.items():
        generator = torch.Generator().manual_seed(1)
        total = 0.0
        for timestep in (100, 400, 700, 950):
            after = batch[1]
            epsilon = torch.randn(after.shape, generator=generator).to(after.device)
            steps = torch.full((len(after),), timestep, device=after.device)
            noisy = noise.add(after, epsilon, steps)
            if name == "base":
                predicted = model.unet(torch.cat([noisy, batch[0]], 1), steps, batch[2][0]).sample
            else:
                predicted = model(
                    noisy, steps, batch, null, torch.zeros(len(after), dtype=torch.bool, device=after.device)
                )
            total += float((predicted - epsilon).square().mean()) / 4
        errors[name] = round(total, 5)
    errors["meant"] = round(float(meant_error(model.connector, batches["indirect"][2])), 5)
    return errors


def lead(
    connector: Connector,
    wishes: Wishes,
    pairs: ReasonPairs,
    watched: dict[str, Batch],
    options: argparse.Namespace,
) -> None:
    """Teach the connector what wishes mean and that direct instructions mean themselves, unless that was done before."""
    run = Run("connector", connector, options, decay=0.998)
    direct = LEAD_BATCH // 4
    while run.share < 1:
        rng = run.randomness()
        own = pairs.take([int(chat) for chat in rng.choice(pairs.direct, direct)], options.device)[2]
        with torch.autocast(options.device, torch.bfloat16):
            loss = 0.75 * meant_error(
                connector, wishes.draw(rng, LEAD_BATCH - direct, options.device)
            ) + 0.25 * meant_error(connector, own)
        run.apply(loss, warmup=100, floor=0.03)
        if run.step % 200 == 0:
            run.swap()
            with torch.no_grad():
                run.log(
                    **{
                        name: round(float(meant_error(connector, batch[2])), 5)
                        for name, batch in watched.items()
                    }
                )
            run.swap()
            run.save()
    run.save()
    load_average("connector", connector)


def part_of(options: argparse.Namespace, share: float, **changes: float) -> argparse.Namespace:
    """Options for a share of the training."""
    return argparse.Namespace(
        **{
            **vars(options),
            "seconds": share * options.seconds,
            "steps": round(share * options.steps),
            **changes,
        }
    )


def export_reason(target: Path = REASON_TARGET) -> int:
    """Write the connector, and the UNet's configuration with the tensors that are not the editor's own, in fp16. Returns their bytes."""
    editor = load_editor()
    known = {name: tensor.clone() for name, tensor in editor.denoiser.unet.state_dict().items()}
    model = make_reasoning(editor, load_mllm(READER_TARGET, lazily=True))
    load_average("reason", model)
    own = {
        name: t.half().contiguous()
        for name, t in model.unet.state_dict().items()
        if not torch.equal(t, known[name])
    }
    folder = target / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    model.unet.save_config(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file(own, file.with_suffix(".tmp"), metadata={"format": "pt"})
    os.replace(file.with_suffix(".tmp"), file)
    save_connector(model.connector, target / "connector.safetensors", torch.float16)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def main() -> None:
    """Train until the budget ends."""
    options = arguments(__doc__ or "", seconds=5400, batch=32, rate=3e-4)
    device = options.device
    editor, reader = load_editor(device=device), load_mllm(READER_TARGET, lazily=True)
    shards = sorted(
        int(path.stem) for path in shard_path(0).parent.glob("[0-9]*.pt") if path != shard_path(VALIDATION)
    )
    pairs, unseen = (
        ReasonPairs(editor, reader.fingerprint, shards),
        ReasonPairs(editor, reader.fingerprint, [VALIDATION]),
    )
    null, noise = editor.encode_text([""])[0], Noise(device, SNR_LIMIT)
    print(
        f"{len(pairs.rows)} chats, {len(pairs.indirect)} of them indirect, {len(pairs.table)} distinct texts",
        flush=True,
    )
    watched = {
        "direct": unseen.take(unseen.direct[:100], device),
        "indirect": unseen.take(unseen.indirect[:100], device),
    }
    model = make_reasoning(editor, reader).to(device)
    model.unet.set_attn_processor(AttnProcessor())
    exact_output(model.unet, device)
    wishes = Wishes(
        editor,
        [load_shard(path, reader.fingerprint) for path in sorted(wishes_path(0).parent.glob("wishes_*.pt"))],
    )
    lead(model.connector, wishes, pairs, watched, part_of(options, LEAD_SHARE, rate=LEAD_RATE))
    del wishes
    run = Run("reason", model, part_of(options, 1 - LEAD_SHARE), decay=0.999)
    began, done = time.monotonic(), run.step
    while run.share < 1:
        rng = run.randomness()
        batch = pairs.draw(rng, options.batch, device)
        draw = torch.from_numpy(rng.random(options.batch).astype(np.float32)).to(device)
        batch[0][(draw >= 0.05) & (draw < 0.15)] = (
            0  # 5 % without text, 5 % without both, 5 % without the image
        )
        timesteps, epsilon = noise.draw(options.batch), torch.randn_like(batch[1])
        with torch.autocast(device, torch.bfloat16):
            predicted = model(noise.add(batch[1], epsilon, timesteps), timesteps, batch, null, draw < 0.10)
        error = squared_error(predicted.float() - epsilon, noise.coarse[timesteps])
        loss = (error * noise.weights[timesteps]).mean() + MEANT_WEIGHT * meant_error(
            model.connector, batch[2]
        )
        run.apply(loss, warmup=100, floor=0.03)
        if run.step % 200 == 0:
            run.swap()
            model.eval()
            errors = validate(model, noise, null, {**watched, "base": watched["indirect"]})
            model.train()
            run.swap()
            run.log(rate=round((run.step - done) * options.batch / (time.monotonic() - began), 1), **errors)
            run.save()
    run.save()
    print(f"{export_reason() / 2**20:.2f} MiB in {REASON_TARGET.name}")


if __name__ == "__main__":
    main()
