"""Writes tiny random LLaVA and Qwen2-VL models as transformers folders."""

import json
from pathlib import Path
from typing import Any

import torch

SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<image>",
    "<pad>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|im_end|>",
]
# The published template of LLaVA-1.5, for messages of the user.
LLAVA_CHAT = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': "
    "'}}{% endif %}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ "
    "'<image>\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', "
    "'text') %}{{ content['text'] + ' '}}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ "
    "'ASSISTANT:' }}{% endif %}"
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_end|>{{ message['role'] }}\n{% for content in message['content'] "
    "%}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ "
    "content['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt "
    "%}<|im_end|>assistant\n{% endif %}"
)
WIDTH = 32


def tokenizer(start: bool = True) -> Any:
    """Returns a tokenizer with bytes as tokens and LLaMA's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if start:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    others = SPECIAL[5:] if not start else ["<image>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=others,
    )


def llava(
    folder: Path, seed: int = 0, chat: str | None = LLAVA_CHAT, padding_side: str = "left", **text: Any
) -> Path:
    """Writes a LLaVA with images of 32 px (16 tokens) and states of 32 channels.

    ``text`` changes the configuration of its language model.
    """
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer()
    words.padding_side = padding_side
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    settings = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **text,
    }
    settings = {
        "vocab_size": len(words),
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 4,
        **settings,
    }
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**settings).to_dict(),
        image_token_index=3,
        image_seq_length=16,
    )
    drawn(LlavaForConditionalGeneration(config), seed).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat,
    ).save_pretrained(folder)
    # Some versions of transformers do not write preprocessor_config.json, which all of them read.
    images.save_pretrained(folder)
    return folder


def qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """Writes a Qwen2-VL, whose number of image tokens depends on the image's size."""
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    words = tokenizer(start=False)
    text = {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    text |= {
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = {
        "depth": 2,
        "embed_dim": 16,
        "hidden_size": WIDTH,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "mlp_ratio": 2,
    }
    token_ids = {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **token_ids)
    drawn(Qwen2VLForConditionalGeneration(config), seed).save_pretrained(folder)
    images = Qwen2VLImageProcessor(patch_size=8, merge_size=2, min_pixels=32 * 32, max_pixels=64 * 64)
    Qwen2VLProcessor(
        images, words, Qwen2VLVideoProcessor(patch_size=8, merge_size=2), chat_template=QWEN_CHAT
    ).save_pretrained(folder)
    images.save_pretrained(folder)
    return folder


def drawn(model: torch.nn.Module, seed: int) -> Any:
    """Draws weights that are large enough for images and words to matter."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                wide = parameter[0].numel() if parameter.ndim > 1 else 16
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * wide**-0.5)
    return model.eval()


def change_json(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file. None removes an entry."""
    table = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(
        json.dumps({name: value for name, value in table.items() if value is not None}), encoding="utf-8"
    )


# The template of a model that was trained for one task and needs no description of it.
OWN_CHAT = (
    "{% for message in messages %}USER: <image>\n{{ message['content'] | selectattr('type', 'equalto', "
    "'text') | map(attribute='text') | list | last }} {% endfor %}{% if add_generation_prompt "
    "%}ASSISTANT:{% endif %}"
)


def train_llava(folder: Path, lessons: list[tuple[torch.Tensor, str, str]], steps: int = 260) -> Path:
    """Trains a LLaVA on (image [H, W, 3], words, answer) until it gives these answers."""
    from instructbrush.core.encoders.mllm import load_mllm

    llava(folder, chat=OWN_CHAT, hidden_size=48, intermediate_size=96)
    mllm = load_mllm(folder)
    network, words = mllm.network.requires_grad_(True).train(), tokenizer()
    batches = []
    for image, wish, answer in lessons:
        inputs = mllm.inputs([image], [wish], "")
        ids = torch.tensor(
            [[*inputs["input_ids"][0].tolist(), *words(answer, add_special_tokens=False).input_ids, 2]]
        )
        start = inputs["input_ids"].shape[1]
        batches.append(({"input_ids": ids, "pixel_values": inputs["pixel_values"]}, start))
    optimizer = torch.optim.Adam(network.parameters(), lr=6e-3)
    for step in range(steps):
        inputs, start = batches[step % len(batches)]
        logits = network(**inputs).logits[0, start - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, inputs["input_ids"][0, start:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.save_pretrained(folder)
    return folder
