"""Trains the ControlNet and the LoRA that example workflows load with stock nodes.

    .venv/bin/python tools/examples/train_example_addons.py controlnet --seconds 400
    .venv/bin/python tools/examples/train_example_addons.py lora --seconds 300

controlnet: keeps the outlines that ComfyUI's Canny node draws (example_workflows/models/controlnet).
lora: puts the edit on aged paper, pale, warm and dark towards the edges (example_workflows/models/loras).

Both train on drawn scenes with the loss and the dropout of the pocket editor. They fit the weights in
core/models/pocket only: train them again after the editor.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from instructbrush.core.editing.loading import load_editor
from instructbrush.tools.get_comfyui import REPOSITORY
from instructbrush.tools.pocket.world import filters
from instructbrush.tools.pocket.world.effects import sample_edit
from instructbrush.tools.pocket.world.scenes import render, sample_scene

MODELS = REPOSITORY / "example_workflows" / "models"
BATCH = 16


def aged_paper(image: np.ndarray) -> np.ndarray:
    """Makes an image pale, warm and dark towards the edges."""
    return filters.vignette(filters.tint(filters.fade(image), filters.rgb(0.86, 0.72, 0.45), 0.35), 0.8)


@dataclass(frozen=True)
class Examples:
    """Encoded pairs.

    before: latents of the images [N, 4, 16, 16].
    after: scaled latents of the edited images [N, 4, 16, 16].
    context: text states [N, L, D].
    outlines: edges of the edited images [N, 3, 128, 128].
    """

    before: Tensor
    after: Tensor
    context: Tensor
    outlines: Tensor


class Batch(NamedTuple):
    """Inputs and target of a training step: `noise` is what the UNet predicts from the others."""

    noisy: Tensor
    noise: Tensor
    timesteps: Tensor
    image: Tensor
    context: Tensor
    outlines: Tensor


@torch.no_grad()
def examples(
    editor: Any, count: int, seed: int, look: Callable[[np.ndarray], np.ndarray] | None = None
) -> Examples:
    """Draws `count` pairs and encodes them. `look` changes every edited image."""
    from kornia.filters import canny

    rng = np.random.default_rng(seed)
    parts: list[tuple[Tensor, ...]] = []
    for _ in range(count // BATCH):
        befores = []
        afters = []
        words = []
        for _ in range(BATCH):
            scene = sample_scene(rng)
            edit = sample_edit(scene, rng)
            befores.append(render(scene))
            afters.append(edit.render() if look is None else look(edit.render()))
            words.append(edit.words)
        before = torch.from_numpy(np.stack(befores).astype(np.float32))
        after = torch.from_numpy(np.stack(afters).astype(np.float32))
        # The thresholds are the defaults of ComfyUI's Canny node.
        outlines = canny(after.movedim(-1, 1), 0.4, 0.8)[1].repeat(1, 3, 1, 1)
        parts.append(
            (
                editor.encode_images(before),
                editor.scale(editor.encode_images(after)),
                editor.encode_text(words),
                outlines,
            )
        )
    return Examples(*(torch.cat(column) for column in zip(*parts, strict=True)))


def batches(
    data: Examples, null: Tensor, alphas: Tensor, words_dropped: float, seconds: float
) -> Iterator[Batch]:
    """Yields batches until the time is over. `null`, the text states of "", replaces dropped words."""
    draw = torch.Generator().manual_seed(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rows = torch.randint(len(data.before), (BATCH,), generator=draw)
        timesteps = torch.randint(1000, (BATCH,), generator=draw)
        noise = torch.randn(BATCH, 4, *data.after.shape[2:], generator=draw)
        kept = alphas[timesteps].view(-1, 1, 1, 1)
        image, context = data.before[rows].clone(), data.context[rows].clone()
        chance = torch.rand(2, BATCH, generator=draw)
        context[chance[0] < words_dropped] = null
        image[chance[1] < 0.05] = 0
        noisy = kept.sqrt() * data.after[rows] + (1 - kept).sqrt() * noise
        yield Batch(noisy, noise, timesteps, image, context, data.outlines[rows])


class Optimizer:
    """AdamW whose learning rate warms up over 50 steps and falls to a twentieth at the end of the time."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, seconds: float) -> None:
        self.parameters = parameters
        self.rate = rate
        self.seconds = seconds
        self.adamw = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        self.started = time.monotonic()
        self.steps = 0
        self.loss_sum = 0.0
        self.loss_weight = 0.0

    def step(self, loss: Tensor) -> None:
        """Takes a step. Prints the running mean of the loss every 50 steps."""
        share = min(1.0, (time.monotonic() - self.started) / self.seconds)
        for group in self.adamw.param_groups:
            group["lr"] = self.rate * (1 - 0.95 * share) * min(1.0, (self.steps + 1) / 50)
        self.adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()
        self.steps += 1
        self.loss_sum = 0.98 * self.loss_sum + 0.02 * loss.item()
        self.loss_weight = 0.98 * self.loss_weight + 0.02
        if self.steps % 50 == 0:
            mean = self.loss_sum / self.loss_weight
            print(f"step {self.steps}: loss {mean:.4f}, {share:.0%} of the time", flush=True)


def train_controlnet(editor: Any, unet: Any, seconds: float, count: int) -> dict[str, Tensor]:
    """Trains a ControlNet that starts from the editor's encoder. Returns weights in the original's layout.

    ComfyUI gives a ControlNet only the noisy latent, so the first convolution keeps its first four channels.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel

    settings: Any = dict(unet.config)
    shared = (
        "down_block_types",
        "block_out_channels",
        "layers_per_block",
        "cross_attention_dim",
        "attention_head_dim",
        "norm_num_groups",
    )
    net: Any = ControlNetModel(in_channels=4, **{key: settings[key] for key in shared})
    start = {key: value for key, value in unet.state_dict().items() if key in net.state_dict()}
    start["conv_in.weight"] = start["conv_in.weight"][:, :4]
    net.load_state_dict(start, strict=False)
    data = examples(editor, count, seed=1)
    null = editor.encode_text([""])[0]
    optimizer = Optimizer(list(net.parameters()), 1e-3, seconds)
    # Words are dropped often, so that the ControlNet learns to rely on the outlines.
    for batch in batches(data, null, editor.denoiser.alphas_cumprod, 0.5, seconds):
        down, middle = net(batch.noisy, batch.timesteps, batch.context, batch.outlines, return_dict=False)
        control = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        optimizer.step(noise_loss(unet, batch, **control))
    return original_layout(net.state_dict(), settings)


def noise_loss(unet: Any, batch: Batch, **control: Any) -> Tensor:
    """Mean squared error of the predicted noise."""
    inputs = torch.cat([batch.noisy, batch.image], 1)
    predicted = unet(inputs, batch.timesteps, batch.context, **control).sample
    return (predicted - batch.noise).square().mean()


def original_layout(weights: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Renames diffusers' ControlNet keys to those of the original ControlNet.

    ComfyUI reads diffusers' keys for full-size models only.
    """
    import sys

    from instructbrush.tools.get_comfyui import comfyui_root

    sys.path.append(str(comfyui_root()))
    from comfy.utils import unet_to_diffusers  # pyright: ignore[reportMissingImports]

    levels, layers = len(settings["block_out_channels"]), settings["layers_per_block"]
    depth = [1] * levels * layers
    config = {
        "num_res_blocks": [layers] * levels,
        "channel_mult": [
            width // settings["block_out_channels"][0] for width in settings["block_out_channels"]
        ],
        "transformer_depth": depth,
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1] * levels * (layers + 1),
    }
    names = unet_to_diffusers(config)
    for kind in ("weight", "bias"):
        names[f"controlnet_mid_block.{kind}"] = f"middle_block_out.0.{kind}"
        names[f"controlnet_cond_embedding.conv_in.{kind}"] = f"input_hint_block.0.{kind}"
        names[f"controlnet_cond_embedding.conv_out.{kind}"] = f"input_hint_block.14.{kind}"
        names |= {
            f"controlnet_cond_embedding.blocks.{i}.{kind}": f"input_hint_block.{2 * i + 2}.{kind}"
            for i in range(6)
        }
        names |= {f"controlnet_down_blocks.{i}.{kind}": f"zero_convs.{i}.0.{kind}" for i in range(64)}
    return {f"control_model.{names[key]}": value for key, value in weights.items()}


class Adapted(nn.Module):
    """A frozen linear layer or 1 x 1 convolution plus a trained low-rank change."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.layer = layer
        outputs, inputs = layer.weight.shape[:2]
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, states: Tensor, *_: Any) -> Tensor:
        change = self.up @ self.down
        if self.layer.weight.ndim == 4:
            return self.layer(states) + nn.functional.conv2d(states, change[..., None, None])
        return self.layer(states) + states @ change.T


def train_lora(editor: Any, unet: Any, seconds: float, count: int, rank: int = 8) -> dict[str, Tensor]:
    """Trains a LoRA of every projection in the transformer blocks. Returns weights with kohya's keys."""
    layers = {
        name: module
        for name, module in unet.named_modules()
        if ".attentions." in name
        and isinstance(module, nn.Linear | nn.Conv2d)
        and module.weight.shape[2:] in ((), (1, 1))
    }
    adapted = {}
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        adapted[name] = Adapted(layer, rank)
        setattr(unet.get_submodule(parent), leaf, adapted[name])
    data = examples(editor, count, seed=2, look=aged_paper)
    null = editor.encode_text([""])[0]
    parameters = [matrix for layer in adapted.values() for matrix in (layer.down, layer.up)]
    optimizer = Optimizer(parameters, 4e-3, seconds)
    for batch in batches(data, null, editor.denoiser.alphas_cumprod, 0.1, seconds):
        optimizer.step(noise_loss(unet, batch))
    weights = {}
    for name, layer in adapted.items():
        key = "lora_unet_" + name.replace(".", "_")
        tail = (..., None, None) if layer.layer.weight.ndim == 4 else (...,)
        weights |= {f"{key}.lora_down.weight": layer.down[tail], f"{key}.lora_up.weight": layer.up[tail]}
        weights[f"{key}.alpha"] = torch.tensor(float(rank))
    return weights


def save(weights: dict[str, Tensor], path: Path, title: str) -> None:
    """Writes fp16 safetensors with a title."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {key: value.detach().half().contiguous() for key, value in weights.items()}
    save_file(halves, path, {"modelspec.title": title, "modelspec.license": "Apache-2.0"})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Trains the ControlNet or the LoRA for the given time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["controlnet", "lora"])
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--count", type=int, default=2048, help="drawn pairs")
    options = parser.parse_args()
    torch.manual_seed(0)
    editor = load_editor()
    # A copy of the UNet without this pack's attention processors.
    unet = unpatched(editor).requires_grad_(False)
    if options.what == "controlnet":
        weights = train_controlnet(editor, unet, options.seconds, options.count)
        save(weights, MODELS / "controlnet" / "pocket_outlines.safetensors", "Outlines for the pocket editor")
    else:
        weights = train_lora(editor, unet, options.seconds, options.count)
        save(weights, MODELS / "loras" / "pocket_aged_paper.safetensors", "Aged paper for the pocket editor")


def unpatched(editor: Any) -> Any:
    """Copies the editor's UNet with diffusers' attention processors."""
    from diffusers.models.attention_processor import AttnProcessor

    unet = copy.deepcopy(editor.denoiser.unet)
    unet.set_attn_processor(AttnProcessor())
    return unet.train()


if __name__ == "__main__":
    main()
