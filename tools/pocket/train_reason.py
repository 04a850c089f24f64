"""Reason stage 3: the connector from the reader to the editor, and the editor tuned with it, on direct and indirect instructions.

    python -m tools.pocket.train_reason --seconds 5400

InstructPix2Pix's loss and dropout; the reader itself is not needed any more, its states are in the cache. Keys and values of every cross-attention layer
stay as they are, so an instruction learned on the editor acts in the tuned one; middle block and time embedding stay too, so that what is shipped, the
difference between both, is small.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import nn

from instructbrush.core.models.editor import DiffusersEditor
from instructbrush.core.models.loading import load_editor
from instructbrush.core.reasoning.connector import Connector, config_for, new_connector, save_connector, text_fingerprint
from instructbrush.core.reasoning.mllm import Mllm, load_mllm
from instructbrush.core.reasoning.states import padded

from .architecture import tuned
from .cache_latents import VALIDATION
from .cache_reason import load_shard, shard_path
from .export import TARGET
from .running import Run, arguments, load_average
from .train_reader import READER_TARGET
from .train_unet import Noise, exact_output, squared_error

REASON_TARGET = TARGET.with_name("pocket_reason")
INDIRECT_SHARE = 0.5
"""Share of pairs that are shown with an indirect wish."""
SNR_LIMIT = 20.0
"""As the region editor's: marks and corners are decided where there is little noise."""
FASTER = 4.0
"""The connector begins at nothing, the editor does not: its rate is so many times the editor's."""

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Latents before and after [n, 4, 16, 16], text states [n, 32, 128], the reader's states [n, L, D] and their mask [n, L]."""


class Reasoning(nn.Module):
    """What is trained: the connector, and the UNet where the sisters may differ."""

    def __init__(self, connector: Connector, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.connector, self.unet = connector, unet
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(tuned(name))

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, batch: Batch, null: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
        """Predict the noise [n, 4, 16, 16]; where `without` [n] is true with the empty instruction, which never passes through the connector."""
        before, _, text, states, mask = batch
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


class ReasonPairs:
    """The cached chats of some shards, and the text states of their words."""

    def __init__(self, editor: DiffusersEditor, reader: str, shards: list[int]) -> None:
        latents, starts, words, self.states, self.rows = [], [], [], [], []
        for index in shards:
            shard = load_shard(index, reader)
            first = sum(map(len, latents))
            latents.append(shard["latents"])
            starts.append(shard["starts"])
            self.states += shard["states"]
            self.rows += [(first + picture, result) for picture, result, _ in shard["rows"]]
            words += [(text, bool(indirect)) for text, (_, _, indirect) in zip(shard["words"], shard["rows"], strict=True)]
        self.latents, self.starts = torch.cat(latents), torch.cat(starts)
        self.indirect, self.direct = ([row for row, (_, each) in enumerate(words) if each == kind] for kind in (True, False))
        distinct = list(dict.fromkeys(text for text, _ in words))
        self.table = torch.cat([editor.encode_text(distinct[i : i + 256]).half() for i in range(0, len(distinct), 256)])
        number = {text: row for row, text in enumerate(distinct)}
        self.text = [number[text] for text, _ in words]

    def take(self, chats: list[int], device: str) -> Batch:
        """Some chats as a batch, fp32."""
        pictures, results = zip(*(self.rows[chat] for chat in chats), strict=True)
        before, after = self.latents[list(pictures), 0], self.latents[list(pictures), list(results)]
        states, mask = padded([torch.cat([self.starts[picture], self.states[chat]]) for picture, chat in zip(pictures, chats, strict=True)])
        text = self.table[[self.text[chat] for chat in chats]]
        return before.float().to(device), after.float().to(device), text.float().to(device), states.to(device), mask.to(device)

    def draw(self, rng: np.random.Generator, count: int, device: str) -> Batch:
        """Draw chats, INDIRECT_SHARE of them indirect."""
        wishes = round(INDIRECT_SHARE * count)
        chats = [*rng.choice(self.indirect, wishes), *rng.choice(self.direct, count - wishes)]
        return self.take([int(chat) for chat in chats], device)


@torch.no_grad()
def validate(model: Reasoning, noise: Noise, null: torch.Tensor, batches: dict[str, Batch]) -> dict[str, float]:
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
                predicted = model.unet(torch.cat([noisy, batch[0]], 1), steps, batch[2]).sample
            else:
                predicted = model(noisy, steps, batch, null, torch.zeros(len(after), dtype=torch.bool, device=after.device))
            total += float((predicted - epsilon).square().mean()) / 4
        errors[name] = round(total, 5)
    return errors


def export_reason(target: Path = REASON_TARGET) -> int:
    """Write the connector, and the UNet's configuration with the tensors that are not the editor's own, in fp16. Returns their bytes."""
    editor = load_editor()
    known = {name: tensor.clone() for name, tensor in editor.denoiser.unet.state_dict().items()}
    model = make_reasoning(editor, load_mllm(READER_TARGET, lazily=True))
    load_average("reason", model)
    own = {name: t.half().contiguous() for name, t in model.unet.state_dict().items() if not torch.equal(t, known[name])}
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
    shards = sorted(int(path.stem) for path in shard_path(0).parent.glob("*.pt") if path != shard_path(VALIDATION))
    pairs, unseen = ReasonPairs(editor, reader.fingerprint, shards), ReasonPairs(editor, reader.fingerprint, [VALIDATION])
    null, noise = editor.encode_text([""])[0], Noise(device, SNR_LIMIT)
    print(f"{len(pairs.rows)} chats, {len(pairs.indirect)} of them indirect, {len(pairs.table)} distinct texts", flush=True)
    watched = {"direct": unseen.take(unseen.direct[:100], device), "indirect": unseen.take(unseen.indirect[:100], device)}
    watched["base"] = watched["indirect"]
    model = make_reasoning(editor, reader).to(device)
    model.unet.set_attn_processor(AttnProcessor())
    exact_output(model.unet, device)
    run = Run("reason", model, options, decay=0.999, faster={"connector.": FASTER})
    began, done = time.monotonic(), run.step
    while run.share < 1:
        rng = run.randomness()
        batch = pairs.draw(rng, options.batch, device)
        draw = torch.from_numpy(rng.random(options.batch).astype(np.float32)).to(device)
        batch[0][(draw >= 0.05) & (draw < 0.15)] = 0  # 5 % without text, 5 % without both, 5 % without the picture
        timesteps, epsilon = noise.draw(options.batch), torch.randn_like(batch[1])
        with torch.autocast(device, torch.bfloat16):
            predicted = model(noise.add(batch[1], epsilon, timesteps), timesteps, batch, null, draw < 0.10)
        error = squared_error(predicted.float() - epsilon, noise.coarse[timesteps])
        run.apply((error * noise.weights[timesteps]).mean(), warmup=100, floor=0.03)
        if run.step % 200 == 0:
            run.swap()
            model.eval()
            errors = validate(model, noise, null, watched)
            model.train()
            run.swap()
            run.log(rate=round((run.step - done) * options.batch / (time.monotonic() - began), 1), **errors)
            run.save()
    run.save()
    print(f"{export_reason() / 2**20:.2f} MiB in {REASON_TARGET.name}")


if __name__ == "__main__":
    main()
