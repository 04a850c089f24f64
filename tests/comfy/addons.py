"""Writes a random LoRA and ControlNet for the pocket editor, which ComfyUI's loaders read."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def write_lora(path: Path, layers: dict[str, tuple[int, int]], seed: int = 0, scale: float = 0.3) -> None:
    """Writes a rank-2 LoRA.

    Args:
        layers: LoRA name (``lora_unet_…``, ``lora_te_…``) -> (outputs, inputs) of the layer.
    """
    generator = torch.Generator().manual_seed(seed)
    states = {}
    for name, (outputs, inputs) in layers.items():
        states[f"{name}.lora_up.weight"] = scale * torch.randn(outputs, 2, generator=generator)
        states[f"{name}.lora_down.weight"] = scale * torch.randn(2, inputs, generator=generator)
        states[f"{name}.alpha"] = torch.tensor(2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(states, path)


def unet_lora_layers(model: Any, projection: str = "attn1.to_out.0") -> dict[str, tuple[int, int]]:
    """Returns the layers of a LoRA on one projection of every transformer block."""
    import comfy.utils

    suffix = f".{projection}.weight"
    states = model.model.diffusion_model.state_dict()
    names = {
        native: diffusers
        for diffusers, native in comfy.utils.unet_to_diffusers(model.model.model_config.unet_config).items()
    }
    return {
        "lora_unet_" + names[key].removesuffix(".weight").replace(".", "_"): (value.shape[0], value.shape[1])
        for key, value in states.items()
        if key.endswith(suffix)
    }


def write_controlnet(path: Path, model: Any, seed: int = 0, scale: float = 0.05) -> None:
    """Writes a ControlNet with the model's encoder and random outputs, which are zero in an untrained one."""
    import comfy.cldm.cldm
    import comfy.ops

    config = {
        key: value
        for key, value in model.model.model_config.unet_config.items()
        if key not in ("out_channels", "transformer_depth_output", "dtype")
    }
    with torch.inference_mode(False):
        net = comfy.cldm.cldm.ControlNet(
            **{**config, "in_channels": 4, "hint_channels": 3},
            operations=comfy.ops.manual_cast,
            dtype=torch.float32,
        )
        generator = torch.Generator().manual_seed(seed)
        own = model.model.diffusion_model.state_dict()
        states = {}
        for key, value in net.state_dict().items():
            shared = own.get(key)
            if shared is not None and shared.shape == value.shape:
                states[key] = shared.clone()
            else:
                states[key] = scale * torch.randn(value.shape, generator=generator)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in states.items()}, path)
