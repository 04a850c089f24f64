"""LLaVA computed step by step, as a reference for tests."""

import torch
from torch.nn import functional

from instructbrush.core.encoders.mllm_chat import STATES_TASK
from instructbrush.tests.support import tiny_mllms


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(0, 1)


def vision_by_hand(w, pixels):
    """Image tokens of pixels [3, 32, 32]: CLIP's second to last layer, without class token, projected."""

    def linear(x, name):
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    tower = "vision_tower."
    patches = (
        functional.conv2d(pixels[None], w[f"{tower}embeddings.patch_embedding.weight"], stride=8)[0]
        .flatten(1)
        .T
    )
    x = (
        torch.cat([w[f"{tower}embeddings.class_embedding"][None], patches])
        + w[f"{tower}embeddings.position_embedding.weight"]
    )
    x = norm(x, f"{tower}pre_layrnorm")
    for layer in (f"{tower}encoder.layers.0.", f"{tower}encoder.layers.1."):
        y = norm(x, f"{layer}layer_norm1")
        q = heads(linear(y, f"{layer}self_attn.q_proj"), 2)
        k = heads(linear(y, f"{layer}self_attn.k_proj"), 2)
        v = heads(linear(y, f"{layer}self_attn.v_proj"), 2)
        mixed = ((q @ k.transpose(1, 2)) * 8**-0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(0, 1).flatten(1), f"{layer}self_attn.out_proj")
        y = linear(norm(x, f"{layer}layer_norm2"), f"{layer}mlp.fc1")
        x = x + linear(y * (1.702 * y).sigmoid(), f"{layer}mlp.fc2")
    return linear(
        functional.gelu(linear(x[1:], "multi_modal_projector.linear_1")), "multi_modal_projector.linear_2"
    )


def language_by_hand(w, x):
    """LLaMA's states of embeddings [L, 32] after the final norm: 4 heads of 8 channels, 2 key-value heads."""
    model = "language_model.model."
    length = len(x)

    def norm(x, name):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w[name]

    angles = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(0, 8, 2) / 8)).repeat(1, 2)

    def rotated(x):
        left, right = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

    future = torch.full((length, length), float("-inf")).triu(1)
    for layer in (f"{model}layers.0.", f"{model}layers.1."):
        y = norm(x, f"{layer}input_layernorm.weight")
        q = rotated(heads(y @ w[f"{layer}self_attn.q_proj.weight"].T, 4))
        k = rotated(heads(y @ w[f"{layer}self_attn.k_proj.weight"].T, 2)).repeat_interleave(2, 0)
        v = heads(y @ w[f"{layer}self_attn.v_proj.weight"].T, 2).repeat_interleave(2, 0)
        mixed = (q @ k.transpose(1, 2) * 8**-0.5 + future).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).flatten(1) @ w[f"{layer}self_attn.o_proj.weight"].T
        y = norm(x, f"{layer}post_attention_layernorm.weight")
        gate = functional.silu(y @ w[f"{layer}mlp.gate_proj.weight"].T)
        x = x + (gate * (y @ w[f"{layer}mlp.up_proj.weight"].T)) @ w[f"{layer}mlp.down_proj.weight"].T
    return norm(x, f"{model}norm.weight")


def embedded_by_hand(w, image, words):
    """LLaMA's input: the embedded chat, with image tokens in place of the mark."""
    pixels = (image * 255).round().movedim(2, 0) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    tokenizer = tiny_mllms.tokenizer()
    before = tokenizer("USER: ", add_special_tokens=False).input_ids
    after = tokenizer(f"\n{STATES_TASK}\n {words} ASSISTANT:", add_special_tokens=False).input_ids
    table = w["language_model.model.embed_tokens.weight"]
    return torch.cat([table[[1, *before]], vision_by_hand(w, (pixels - mean) / std), table[after]])
