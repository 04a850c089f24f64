"""The pocket reader, a very small LLaVA: architecture, tokenizer, processor and training batches.

All parts are transformers classes, so stock loaders read its folder. The prompt is `<user><image>
words<reader>`. The answer is JSON for a wish and plain words for a question. The chat template drops any task
description before the words.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ..stages.train_clip import DEVIATION, MEAN
from ..stages.training_run import WORK
from ..wishes.scene_questions import sample_question
from ..wishes.wishes import sample_direct, sample_wish
from ..wishes.wordings import every_wording
from ..world.drawing import SIZE
from .tokenizer import COMMON

PATCH = 16
VISION_WIDTH = 128
VISION_LAYERS = 3
WIDTH = 192
LAYERS = 4
HEADS = 4
FEEDFORWARD = 512
# Largest number of tokens of a chat with its answer; 64 of them belong to the image.
MAX_TOKENS = 192
IMAGE_TOKENS = (SIZE // PATCH) ** 2
PAD = "<pad>"
END = "</s>"
IMAGE = "<image>"
USER = "<user>"
READER = "<reader>"
SPECIAL = (PAD, END, IMAGE, USER, READER)
# Keeps only the last text of a message. Earlier texts describe the task, and the reader knows only one task.
TEMPLATE = (
    "{% for message in messages %}<user><image>"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if loop.last %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<reader>{% endif %}"
)


def corpus(count: int = 2000) -> Counter[str]:
    """Counts lines with every word of training, and common editing words.

    A space precedes each line as in a prompt. Answers occur without the space too.
    """
    rng = np.random.default_rng(41)
    lines = [*every_wording(), *COMMON.split()]
    for _ in range(count):
        for sample in (sample_wish(rng), sample_direct(rng)):
            lines += [sample.words, sample.answer]
        question, answer = sample_question(rng, sample.scene)
        lines += [question, answer]
    counts = Counter(f" {line}" for line in lines)
    return counts + Counter(
        {line.removeprefix(" "): count for line, count in counts.items() if line.startswith(' {"')}
    )


def train_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE and writes it to `folder`.

    Every word of training is one token. Any other text becomes several smaller tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,  # never reached: merging ends when every word is whole
        min_frequency=1,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Repeats each line by its count, at most 20 times.
    tokenizer.train_from_iterator(
        [line for line, count in sorted(corpus().items()) for _ in range(min(count, 20))], trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[IMAGE, USER, READER],
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast


def reader_tokenizer() -> PreTrainedTokenizerFast:
    """Loads the trained tokenizer. Trains it on first use."""
    folder = WORK / "reader_tokenizer"
    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return train_tokenizer(folder)


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Builds the processor for images and chats, like that of LLaVA."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=MEAN.flatten().tolist(),
        image_std=DEVIATION.flatten().tolist(),
    )
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def make_reader(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Builds the reader with random weights: 2.8 M parameters."""
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=3 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="quick_gelu",
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=FEEDFORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = pad
    return model


def start_vision(model: LlavaForConditionalGeneration, states: dict[str, torch.Tensor]) -> None:
    """Loads weights of a CLIP vision tower of the same shape, named as in that tower, into the reader's."""
    tower = model.model.vision_tower
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in tower.state_dict()) else ""
    tower.load_state_dict({prefix + name: tensor for name, tensor in states.items()})


def pixel_values(images: np.ndarray) -> torch.Tensor:
    """Normalizes images [n, 128, 128, 3] in 0..1 to [n, 3, 128, 128], with the processor's 8-bit rounding."""
    eight_bit = torch.from_numpy((np.clip(images, 0, 1) * 255).round() / 255).float()
    return (eight_bit.permute(0, 3, 1, 2) - MEAN) / DEVIATION


@dataclass(frozen=True)
class PackedChats:
    """Images with several chats each. All chats of an image share one sequence with one copy of the image.

    Each chat attends to the image and to itself. `ids`, `positions` and `labels` are [n, L]; labels are -100
    outside of answers. `chats` [n, L] is 0 for the image, 1.. for its chats and -1 for padding.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    chats: torch.Tensor

    def mask(self) -> torch.Tensor:
        """Returns the attention mask to add to the attention logits, float [n, 1, L, L], 0 or -10000."""
        length = self.ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        own = (self.chats[:, :, None] == self.chats[:, None]) | (self.chats[:, None] == 0)
        return ((own & earlier).float()[:, None] - 1) * 1e4

    def to(self, device: str) -> PackedChats:
        return PackedChats(
            *(
                tensor.to(device)
                for tensor in (self.pixels, self.ids, self.positions, self.labels, self.chats)
            )
        )


def prompt_ids(tokenizer: PreTrainedTokenizerFast, words: str) -> list[int]:
    """Returns the tokens between the image and the answer of a chat."""
    return tokenizer(f" {words}{READER}", add_special_tokens=False).input_ids


def image_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Returns the first tokens of every chat: user and image."""
    return tokenizer.convert_tokens_to_ids([USER] + [IMAGE] * IMAGE_TOKENS)


def pack(
    tokenizer: PreTrainedTokenizerFast, images: np.ndarray, chats: list[list[tuple[str, str]]]
) -> PackedChats:
    """Packs images [n, 128, 128, 3] and the (words, answer) chats of each into one batch."""
    start = image_ids(tokenizer)
    sequences: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for image_chats in chats:
        ids = list(start)
        positions = list(range(len(start)))
        labels = [-100] * len(start)
        numbers = [0] * len(start)
        for number, (words, answer) in enumerate(image_chats, 1):
            prompt = prompt_ids(tokenizer, words)
            target = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            length = len(prompt) + len(target)
            ids += prompt + target
            positions += range(len(start), len(start) + length)
            labels += [-100] * len(prompt) + target
            numbers += [number] * length
        sequences.append((ids, positions, labels, numbers))
    longest = max(len(sequence[0]) for sequence in sequences)
    padding = (tokenizer.pad_token_id, 0, -100, -1)
    columns = [
        torch.tensor([sequence[i] + [fill] * (longest - len(sequence[i])) for sequence in sequences])
        for i, fill in enumerate(padding)
    ]
    return PackedChats(pixel_values(images), *columns)


def answer_loss(
    model: LlavaForConditionalGeneration, batch: PackedChats, projected: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the mean cross-entropy of the answers' tokens.

    `projected` [n, 64, width] are the projected image patches, if they are already computed.
    """
    if projected is None:
        inputs = {"input_ids": batch.ids, "pixel_values": batch.pixels}
    else:
        words = model.get_input_embeddings()(batch.ids)
        embeddings = [words[:, :1], projected.to(words.dtype), words[:, 1 + IMAGE_TOKENS :]]
        inputs = {"inputs_embeds": torch.cat(embeddings, 1)}
    hidden = model.model(
        **inputs, attention_mask=batch.mask(), position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    labels = batch.labels[:, 1:]
    answered = labels >= 0
    logits = model.lm_head(hidden[:, :-1][answered]).float()
    return torch.nn.functional.cross_entropy(logits, labels[answered])


@torch.no_grad()
def answers(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    images: np.ndarray,
    words: list[str],
    most: int = 64,
) -> list[str]:
    """Returns the reader's answers by greedy decoding, at most `most` tokens each."""
    device = next(model.parameters()).device
    start = image_ids(tokenizer)
    prompts = [start + prompt_ids(tokenizer, text) for text in words]
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    pad = tokenizer.pad_token_id
    padded = [[pad] * count + prompt for count, prompt in zip(padding, prompts, strict=True)]
    ids = torch.tensor(padded, device=device)
    mask = torch.tensor([[0] * count + [1] * (longest - count) for count in padding], device=device)
    generated = model.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=pixel_values(images).to(device),
        max_new_tokens=min(most, MAX_TOKENS - longest),
        do_sample=False,
    )
    return tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)


def instruction_in(answer: str) -> str:
    """Returns the instruction of an answer; "" if the answer is not the expected JSON."""
    try:
        table = json.loads(answer)
    except ValueError:
        return ""
    return str(table.get("instruction", "")) if isinstance(table, dict) else ""
