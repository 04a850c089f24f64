"""The pocket reader: a very small LLaVA. Its shape, its tokenizer and processor, and how images and texts become its training batches.

Everything is transformers' own class, so stock loaders read the folder it is written to. It is asked `<user><image> words<reader>` and answers with JSON, or
with plain words to a question; whatever task is put before the words, its chat template leaves out.
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

PATCH, VISION_WIDTH, VISION_LAYERS = 16, 128, 3
WIDTH, LAYERS, HEADS, FEEDFORWARD = 192, 4, 4, 512
ROOM = 192
"""Tokens it reads and writes at most, 64 of them the image's."""
IMAGE_TOKENS = (SIZE // PATCH) ** 2
PAD, END, IMAGE, USER, READER = "<pad>", "</s>", "<image>", "<user>", "<reader>"
SPECIAL = (PAD, END, IMAGE, USER, READER)
TEMPLATE = (
    "{% for message in messages %}<user><image>"
    "{% for part in message['content'] if part['type'] == 'text' %}{% if loop.last %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<reader>{% endif %}"
)
"""The last text of a message is the user's words, what is before it the task, which the reader was trained for and need not be told."""


def corpus(count: int = 2000) -> Counter[str]:
    """Every word that training can say, and common editing words, as the tokenizer will see them: with a space before them, and as an answer begins."""
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
    """Train a byte-level BPE in which every known word is one token, any other text falls into pieces and nothing is refused; write it to `folder`."""
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
    # Twice, because the trainer counts lines and every word of the list of common ones occurs once.
    tokenizer.train_from_iterator(
        [line for line, count in sorted(corpus().items()) for _ in range(min(count, 20))], trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[IMAGE, USER, READER],
        model_max_length=ROOM,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast


def reader_tokenizer() -> PreTrainedTokenizerFast:
    """Load the trained tokenizer, training it on first use."""
    folder = WORK / "reader_tokenizer"
    return (
        PreTrainedTokenizerFast.from_pretrained(folder)
        if (folder / "tokenizer.json").exists()
        else train_tokenizer(folder)
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What prepares images and chats as LLaVA's does."""
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
    """Build the reader, its weights still random: 2.8 M parameters."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
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
        max_position_embeddings=ROOM,
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
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end, pad
    return model


def start_vision(model: LlavaForConditionalGeneration, states: dict[str, torch.Tensor]) -> None:
    """Give the vision tower the weights of a CLIP tower of its shape, by their names there."""
    tower = model.model.vision_tower
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in tower.state_dict()) else ""
    tower.load_state_dict({prefix + name: tensor for name, tensor in states.items()})


def pixel_values(images: np.ndarray) -> torch.Tensor:
    """Images [n, 128, 128, 3] in 0..1 as the vision tower reads them [n, 3, 128, 128], through 8 bits as the processor gets them."""
    eight_bit = torch.from_numpy((np.clip(images, 0, 1) * 255).round() / 255).float()
    return (eight_bit.permute(0, 3, 1, 2) - MEAN) / DEVIATION


@dataclass(frozen=True)
class Packed:
    """Images and several chats about each, side by side in one sequence: each chat sees the image and itself, so none is computed twice.

    `ids`, `positions`, `labels` are [n, L] (labels -100 where nothing is to be said), `chats` [n, L] is 0 for the image, 1.. for its chats, -1 for padding.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    chats: torch.Tensor

    def mask(self) -> torch.Tensor:
        """What attends to what, to be added to the logits of attention: float [n, 1, L, L], 0 or -10000."""
        earlier = torch.ones(
            self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device
        ).tril()
        own = (self.chats[:, :, None] == self.chats[:, None]) | (self.chats[:, None] == 0)
        return ((own & earlier).float()[:, None] - 1) * 1e4

    def to(self, device: str) -> Packed:
        """The same on a device."""
        return Packed(
            *(
                tensor.to(device)
                for tensor in (self.pixels, self.ids, self.positions, self.labels, self.chats)
            )
        )


def prompt_ids(tokenizer: PreTrainedTokenizerFast, words: str) -> list[int]:
    """Tokens of what follows the image in a chat, up to where the answer begins."""
    return tokenizer(f" {words}{READER}", add_special_tokens=False).input_ids


def image_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that every chat begins with."""
    return tokenizer.convert_tokens_to_ids([USER] + [IMAGE] * IMAGE_TOKENS)


def pack(
    tokenizer: PreTrainedTokenizerFast, images: np.ndarray, chats: list[list[tuple[str, str]]]
) -> Packed:
    """Images [n, 128, 128, 3] and, for each, its (words, answer) chats, as one batch."""
    start = image_ids(tokenizer)
    rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for several in chats:
        ids, positions, labels, numbers = (
            list(start),
            list(range(len(start))),
            [-100] * len(start),
            [0] * len(start),
        )
        for number, (words, answer) in enumerate(several, 1):
            asked = prompt_ids(tokenizer, words)
            said = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            ids += asked + said
            positions += range(len(start), len(start) + len(asked) + len(said))
            labels += [-100] * len(asked) + said
            numbers += [number] * (len(asked) + len(said))
        rows.append((ids, positions, labels, numbers))
    longest = max(len(row[0]) for row in rows)
    padding = (tokenizer.pad_token_id, 0, -100, -1)
    columns = [
        torch.tensor([row[i] + [fill] * (longest - len(row[i])) for row in rows])
        for i, fill in enumerate(padding)
    ]
    return Packed(pixel_values(images), *columns)


def answer_loss(
    model: LlavaForConditionalGeneration, batch: Packed, projected: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of the answers' tokens, each counted alike; `projected` [n, 64, width] saves looking at the images again."""
    if projected is None:
        seen = {"input_ids": batch.ids, "pixel_values": batch.pixels}
    else:
        words = model.get_input_embeddings()(batch.ids)
        seen = {
            "inputs_embeds": torch.cat(
                [words[:, :1], projected.to(words.dtype), words[:, 1 + IMAGE_TOKENS :]], 1
            )
        }
    hidden = model.model(
        **seen, attention_mask=batch.mask(), position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    labels = batch.labels[:, 1:]
    said = labels >= 0
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][said]).float(), labels[said])


@torch.no_grad()
def answers(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    images: np.ndarray,
    words: list[str],
    most: int = 64,
) -> list[str]:
    """What the reader says, the most probable token each time."""
    device, start = next(model.parameters()).device, image_ids(tokenizer)
    asked = [start + prompt_ids(tokenizer, text) for text in words]
    longest = max(map(len, asked))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(each)) + each for each in asked], device=device)
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in asked], device=device)
    made = model.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=pixel_values(images).to(device),
        max_new_tokens=min(most, ROOM - longest),
        do_sample=False,
    )
    return tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)


def instruction_in(answer: str) -> str:
    """The instruction of an answer; empty where it is no such JSON."""
    try:
        table = json.loads(answer)
    except ValueError:
        return ""
    return str(table.get("instruction", "")) if isinstance(table, dict) else ""
