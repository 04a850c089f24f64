"""Reason stage 3 trains the connector from reader to editor, and fine-tunes the editor with it.

    python -m tools.pocket.reasoning_stages.train_reason --seconds 5400

First the connector alone trains: from a wish it predicts the text states of the instruction that fulfills it,
which the editor knows already. With the editor's loss alone it hardly changed in 400 steps. Then both train
with InstructPix2Pix's loss and dropout, on direct and indirect instructions. The reader's states come from
the cache. Keys and values of cross-attention do not change, so an instruction learned with the editor works
in the fine-tuned one. Middle block and time embedding do not change either, which keeps the exported
difference small.

`python -m instructbrush reason train` has the same two stages for any model; docs/training.md has the
command. This stage remains because the shipped files were made by it. Only here are photographs among the
images, extra weight for errors of coarse parts and at high noise, and the density of timesteps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.mllm import Mllm, load_mllm
from instructbrush.core.finetuning.reasoning.first_stage import MeaningLoss
from instructbrush.core.reasoning.connector import (
    Connector,
    config_for,
    new_connector,
    save_connector,
    text_fingerprint,
)
from instructbrush.core.reasoning.state_cache import padded

from ..models.architecture import is_tuned
from ..stages.cache_latents import VALIDATION
from ..stages.export import TARGET, write_difference
from ..stages.train_unet import Noise, exact_output, squared_error
from ..stages.training_run import Run, arguments, load_average
from .cache_reason import load_shard, shard_path, wishes_path
from .train_reader import READER_TARGET

REASON_TARGET = TARGET.with_name("pocket_reason")
# Share of pairs with an indirect wish.
INDIRECT_SHARE = 0.5
# As for the region editor: low noise decides about marks and corners.
SNR_LIMIT = 20.0
# The connector trains alone first: share of the time, batch size (a quarter of it direct instructions),
# learning rate.
LEAD_SHARE = 0.4
LEAD_BATCH = 64
LEAD_RATE = 1e-3
# Weight of the connector's loss beside the editor's.
MEANT_WEIGHT = 0.05

# Text states [n, 32, 128], reader states [n, L, D], their mask [n, L], and meant text states [n, 32, 128].
# The meant text states of a wish are those of the instruction that fulfills it; those of a direct instruction
# are its own.
Meaning = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
# Latents before and after [n, 4, 16, 16], and the words about them.
Batch = tuple[torch.Tensor, torch.Tensor, Meaning]


class Reasoning(nn.Module):
    """The trained model: the connector, and the tuned parameters of the UNet."""

    def __init__(self, connector: Connector, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.connector = connector
        self.unet = unet
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(is_tuned(name))

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        batch: Batch,
        null: torch.Tensor,
        without: torch.Tensor,
    ) -> torch.Tensor:
        """Predicts the noise [n, 4, 16, 16].

        Where `without` [n] is true, the text is the empty instruction `null`, which never passes through the
        connector.
        """
        before, _, (text, states, mask, _) = batch
        context = torch.where(without[:, None, None], null, self.connector(text, states, mask))
        return self.unet(torch.cat([noisy, before], 1), timesteps, context).sample


def make_reasoning(editor: DiffusersEditor, reader: Mllm) -> Reasoning:
    """Builds the editor with an untrained connector, which changes nothing yet."""
    config = config_for(
        editor.description.family,
        reader.width,
        text_fingerprint=text_fingerprint(editor.text_encoder.state_dict()),
        mllm_name=reader.name,
        mllm_fingerprint=reader.fingerprint,
    )
    return Reasoning(new_connector(config), editor.denoiser.unet)


def text_table(editor: DiffusersEditor, texts: list[str]) -> tuple[torch.Tensor, dict[str, int]]:
    """Returns the states of the distinct texts, fp16 [n, 32, 128], and the row of each text."""
    distinct = list(dict.fromkeys(texts))
    table = torch.cat(
        [editor.encode_text(distinct[i : i + 256]).half() for i in range(0, len(distinct), 256)]
    )
    return table, {text: row for row, text in enumerate(distinct)}


class CachedWishes:
    """The cached wishes of some shards, with text states of their words and of the meant instructions."""

    def __init__(self, editor: DiffusersEditor, shards: list[dict]) -> None:
        self.states = [states for shard in shards for states in shard["states"]]
        words = [text for shard in shards for text in shard["words"]]
        meant = [text for shard in shards for text in shard["meant"]]
        self.table, row_of = text_table(editor, words + meant)
        self.word_rows = [row_of[text] for text in words]
        self.meant_rows = [row_of[text] for text in meant]

    def draw(self, rng: np.random.Generator, count: int, device: str) -> Meaning:
        """Draws wishes."""
        chosen = rng.integers(len(self.word_rows), size=count)
        text = self.table[[self.word_rows[row] for row in chosen]].float().to(device)
        meant = self.table[[self.meant_rows[row] for row in chosen]].float().to(device)
        states, mask = padded([self.states[row] for row in chosen])
        return text, states.to(device), mask.to(device), meant


class CachedChats:
    """The cached chats of some shards, with text states of their words."""

    def __init__(self, editor: DiffusersEditor, reader: str, shards: list[int]) -> None:
        latents: list[torch.Tensor] = []
        starts: list[torch.Tensor] = []
        words: list[str] = []
        indirect: list[bool] = []
        self.states: list[torch.Tensor] = []
        self.rows: list[tuple[int, int]] = []
        for index in shards:
            shard = load_shard(shard_path(index), reader)
            first = sum(len(part) for part in latents)
            latents.append(shard["latents"])
            starts.append(shard["starts"])
            words += shard["words"]
            self.states += shard["states"]
            for image, result, is_wish in shard["rows"]:
                self.rows.append((first + image, result))
                indirect.append(bool(is_wish))
        self.latents = torch.cat(latents)
        self.starts = torch.cat(starts)
        self.indirect = [chat for chat, is_wish in enumerate(indirect) if is_wish]
        self.direct = [chat for chat, is_wish in enumerate(indirect) if not is_wish]
        self.table, row_of = text_table(editor, words)
        self.text = [row_of[text] for text in words]
        # The instruction that fulfills a wish is the next chat.
        self.meant = [self.text[chat + is_wish] for chat, is_wish in enumerate(indirect)]

    def take(self, chats: list[int], device: str) -> Batch:
        """Returns some chats as a batch, fp32."""
        images = [self.rows[chat][0] for chat in chats]
        results = [self.rows[chat][1] for chat in chats]
        before = self.latents[images, 0]
        after = self.latents[images, results]
        sequences = [
            torch.cat([self.starts[image], self.states[chat]])
            for image, chat in zip(images, chats, strict=True)
        ]
        states, mask = padded(sequences)
        text = self.table[[self.text[chat] for chat in chats]].float().to(device)
        meant = self.table[[self.meant[chat] for chat in chats]].float().to(device)
        return (
            before.float().to(device),
            after.float().to(device),
            (text, states.to(device), mask.to(device), meant),
        )

    def draw(self, rng: np.random.Generator, count: int, device: str) -> Batch:
        """Draws chats, a share of INDIRECT_SHARE indirect."""
        wishes = round(INDIRECT_SHARE * count)
        chats = [*rng.choice(self.indirect, wishes), *rng.choice(self.direct, count - wishes)]
        return self.take([int(chat) for chat in chats], device)


def meant_error(connector: Connector, meaning: Meaning) -> torch.Tensor:
    """Returns the mean squared error between the connector's text states and the meant ones."""
    return MeaningLoss(connector)(*meaning).mean()


@torch.no_grad()
def validate(
    model: Reasoning, noise: Noise, null: torch.Tensor, batches: dict[str, Batch]
) -> dict[str, float]:
    """Returns the mean squared error of the predicted noise for unseen pairs and fixed noise.

    `direct` and `indirect` use the connector. `base` is `indirect` with text states only. `meant` is the
    connector's error.
    """
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


def train_connector(
    connector: Connector,
    wishes: CachedWishes,
    pairs: CachedChats,
    unseen: dict[str, Batch],
    options: argparse.Namespace,
) -> None:
    """Trains the connector alone: wishes mean other instructions, direct instructions mean themselves.

    Resumes from its checkpoint and ends at once if it has finished before.
    """
    run = Run("connector", connector, options, decay=0.998)
    direct = LEAD_BATCH // 4
    while run.share < 1:
        rng = run.randomness()
        chats = [int(chat) for chat in rng.choice(pairs.direct, direct)]
        instructions = pairs.take(chats, options.device)[2]
        indirect = wishes.draw(rng, LEAD_BATCH - direct, options.device)
        with torch.autocast(options.device, torch.bfloat16):
            loss = 0.75 * meant_error(connector, indirect) + 0.25 * meant_error(connector, instructions)
        run.apply(loss, warmup=100, floor=0.03)
        if run.step % 200 == 0:
            run.swap()
            with torch.no_grad():
                errors = {name: float(meant_error(connector, batch[2])) for name, batch in unseen.items()}
            run.log(**{name: round(error, 5) for name, error in errors.items()})
            run.swap()
            run.save()
    run.save()
    load_average("connector", connector)


def with_share(options: argparse.Namespace, share: float, **changes: float) -> argparse.Namespace:
    """Returns the options with a share of the time and steps, and other changes."""
    budget = {"seconds": share * options.seconds, "steps": round(share * options.steps)}
    return argparse.Namespace(**{**vars(options), **budget, **changes})


def export_reason(target: Path = REASON_TARGET) -> int:
    """Writes the connector and, in fp16, the UNet's tensors that differ from the editor's.

    Returns the folder's bytes.
    """
    editor = load_editor()
    base = {name: tensor.clone() for name, tensor in editor.denoiser.unet.state_dict().items()}
    model = make_reasoning(editor, load_mllm(READER_TARGET, lazily=True))
    load_average("reason", model)
    write_difference(model.unet, base, target / "unet")
    save_connector(model.connector, target / "connector.safetensors", torch.float16)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def main() -> None:
    """Trains until the budget ends."""
    options = arguments(__doc__ or "", seconds=5400, batch=32, rate=3e-4)
    device = options.device
    editor = load_editor(device=device)
    reader = load_mllm(READER_TARGET, lazily=True)
    paths = [path for path in shard_path(0).parent.glob("[0-9]*.pt") if path != shard_path(VALIDATION)]
    pairs = CachedChats(editor, reader.fingerprint, sorted(int(path.stem) for path in paths))
    validation = CachedChats(editor, reader.fingerprint, [VALIDATION])
    null = editor.encode_text([""])[0]
    noise = Noise(device, SNR_LIMIT)
    print(
        f"{len(pairs.rows)} chats, {len(pairs.indirect)} of them indirect, {len(pairs.table)} distinct texts",
        flush=True,
    )
    unseen = {
        "direct": validation.take(validation.direct[:100], device),
        "indirect": validation.take(validation.indirect[:100], device),
    }
    model = make_reasoning(editor, reader).to(device)
    model.unet.set_attn_processor(AttnProcessor())
    exact_output(model.unet, device)
    wish_paths = sorted(wishes_path(0).parent.glob("wishes_*.pt"))
    wishes = CachedWishes(editor, [load_shard(path, reader.fingerprint) for path in wish_paths])
    train_connector(model.connector, wishes, pairs, unseen, with_share(options, LEAD_SHARE, rate=LEAD_RATE))
    del wishes
    run = Run("reason", model, with_share(options, 1 - LEAD_SHARE), decay=0.999)
    first_step = run.step
    began = time.monotonic()
    while run.share < 1:
        rng = run.randomness()
        batch = pairs.draw(rng, options.batch, device)
        draw = torch.from_numpy(rng.random(options.batch).astype(np.float32)).to(device)
        # 5 % without text, 5 % without both, 5 % without the image
        batch[0][(draw >= 0.05) & (draw < 0.15)] = 0
        timesteps = noise.draw(options.batch)
        epsilon = torch.randn_like(batch[1])
        with torch.autocast(device, torch.bfloat16):
            predicted = model(noise.add(batch[1], epsilon, timesteps), timesteps, batch, null, draw < 0.10)
        error = squared_error(predicted.float() - epsilon, noise.coarse[timesteps])
        loss = (error * noise.weights[timesteps]).mean()
        loss = loss + MEANT_WEIGHT * meant_error(model.connector, batch[2])
        run.apply(loss, warmup=100, floor=0.03)
        if run.step % 200 == 0:
            run.swap()
            model.eval()
            errors = validate(model, noise, null, {**unseen, "base": unseen["indirect"]})
            model.train()
            run.swap()
            rate = (run.step - first_step) * options.batch / (time.monotonic() - began)
            run.log(rate=round(rate, 1), **errors)
            run.save()
    run.save()
    print(f"{export_reason() / 2**20:.2f} MiB in {REASON_TARGET.name}")


if __name__ == "__main__":
    main()
