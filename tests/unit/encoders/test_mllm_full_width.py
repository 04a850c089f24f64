"""LLaVA-1.5 with the published widths and weight names."""

import gc
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.encoders.mllm_folders import stored_dtype
from instructbrush.tests.support import tiny_mllms

WORDS = ["make it night", "she prefers a face mask to sunglasses", "hm"]


# config.json of llava-hf/llava-1.5-7b-hf.
PUBLISHED = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}


def published_weights(text_layers, vision_layers):
    """Names and shapes of the published weights, at a reduced depth."""
    shapes = {
        "language_model.lm_head.weight": (32064, 4096),
        "language_model.model.embed_tokens.weight": (32064, 4096),
        "language_model.model.norm.weight": (4096,),
    }
    for layer in (f"language_model.model.layers.{number}." for number in range(text_layers)):
        shapes |= {f"{layer}self_attn.{part}_proj.weight": (4096, 4096) for part in "qkvo"}
        shapes |= {f"{layer}mlp.{part}_proj.weight": (11008, 4096) for part in ("gate", "up")} | {
            f"{layer}mlp.down_proj.weight": (4096, 11008)
        }
        shapes |= {f"{layer}{part}_layernorm.weight": (4096,) for part in ("input", "post_attention")}
    tower = "vision_tower.vision_model."
    shapes |= {
        f"{tower}embeddings.class_embedding": (1024,),
        f"{tower}embeddings.patch_embedding.weight": (1024, 3, 14, 14),
    }
    shapes |= {f"{tower}embeddings.position_embedding.weight": (577, 1024)}
    shapes |= {
        f"{tower}{name}.{kind}": (1024,)
        for name in ("pre_layrnorm", "post_layernorm")
        for kind in ("weight", "bias")
    }
    for layer in (f"{tower}encoder.layers.{number}." for number in range(vision_layers)):
        for name in ("q", "k", "v", "out"):
            shapes |= {
                f"{layer}self_attn.{name}_proj.weight": (1024, 1024),
                f"{layer}self_attn.{name}_proj.bias": (1024,),
            }
        shapes |= {
            f"{layer}layer_norm{number}.{kind}": (1024,) for number in (1, 2) for kind in ("weight", "bias")
        }
        shapes |= {
            f"{layer}mlp.fc1.weight": (4096, 1024),
            f"{layer}mlp.fc1.bias": (4096,),
            f"{layer}mlp.fc2.weight": (1024, 4096),
            f"{layer}mlp.fc2.bias": (1024,),
        }
    shapes |= {
        "multi_modal_projector.linear_1.weight": (4096, 1024),
        "multi_modal_projector.linear_2.weight": (4096, 4096),
    }
    return shapes | {f"multi_modal_projector.linear_{number}.bias": (4096,) for number in (1, 2)}


def repeated_noise(shape):
    """Random fp16 weights. Repeats a million numbers, because drawing half a billion takes 15 seconds."""
    noise = (torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)) * 0.02).half()
    count = math.prod(shape)
    return noise.repeat(count // len(noise) + 1)[:count].view(shape).clone()


def resident():
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_full_width_llava_loads_encodes_and_frees_its_memory(own, images):
    """Uses the published names and widths, with 1 of 32 language layers and 2 of 24 vision layers."""
    folder = own()
    (folder / "model.safetensors").unlink()
    config = json.loads(json.dumps(PUBLISHED))
    config["text_config"]["num_hidden_layers"] = 1
    config["vision_config"]["num_hidden_layers"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    tiny_mllms.change_json(folder / "processor_config.json", patch_size=14, image_processor=None)
    sizes = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    tiny_mllms.change_json(folder / "preprocessor_config.json", **sizes)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    named = {"<image>": 32000, "<pad>": 32001}
    tokens["model"]["vocab"] = {
        token: named.get(token, number) for token, number in tokens["model"]["vocab"].items()
    }
    tokens["added_tokens"] = [
        {**each, "id": named.get(each["content"], each["id"])} for each in tokens["added_tokens"]
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    (folder / "generation_config.json").unlink()
    weights = {}
    for name, shape in published_weights(1, 2).items():
        if len(shape) > 1:
            weights[name] = repeated_noise(shape)
        else:
            weights[name] = torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.float16)
    size = sum(tensor.numel() * 2 for tensor in weights.values())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    del weights
    gc.collect()
    before = resident()
    model = load_mllm(folder, dtype=torch.bfloat16)
    states, mask = model.states([images[0]], [WORDS[1]])
    assert (model.width, states.shape[2], int(mask.sum()), stored_dtype(folder)) == (
        4096,
        4096,
        states.shape[1],
        torch.float16,
    )
    assert states.shape[1] == 576 + len(
        tiny_mllms.tokenizer()(model.prompt(WORDS[1]).replace("<image>", "")).input_ids
    )
    held = resident() - before
    assert held > 0.9 * size > 8e8
    model.free()
    gc.collect()
    assert resident() - before < 0.25 * size
