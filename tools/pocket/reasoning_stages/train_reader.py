"""Reason stage 1 trains the pocket reader on questions, instructions and indirect wishes about scenes.

    python -m tools.pocket.reasoning_stages.train_sight --seconds 1500
    python -m tools.pocket.reasoning_stages.train_reader --seconds 5400

Images are drawn during training. The vision tower starts from train_sight. Two losses join the loss of the
answers: the tower keeps predicting patch labels, and each projected patch must be close to the word
embeddings of its shape and color. Without them the reader learned colors and light but only guessed shapes,
and its tower forgot shapes: its accuracy on patches was 77 % before, 45 % after 5,000 steps, and 20 % after
the projection.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from ..models.patch_labels import (
    PatchClassifier,
    PatchLabels,
    label_loss,
    label_patches,
    load_classifier,
    patch_states,
    shape_and_colour_loss,
)
from ..models.reader import (
    END,
    IMAGE,
    MAX_TOKENS,
    PAD,
    PATCH,
    READER,
    USER,
    PackedChats,
    answer_loss,
    answers,
    instruction_in,
    make_processor,
    make_reader,
    pack,
    reader_tokenizer,
    start_vision,
)
from ..stages.export import TARGET
from ..stages.training_run import Run, arguments, load_average
from ..wishes.explicit_edits import parse_instruction
from ..wishes.scene_questions import sample_question
from ..wishes.wishes import PLAIN_REASON, Wish, answer, holds_unseen, sample_wish
from ..world.drawing import COLOUR_NAMES, SHAPES, SIZE
from ..world.effects import sample_edit
from ..world.scenes import Scene, render, sample_scene

READER_TARGET = TARGET.with_name("pocket_reader")
WEIGHTS = "model.safetensors"
# Shares of scenes without a wish, of blank images, and of words that end with a full stop.
FREE_SHARE = 0.2
BLANK_SHARE = 0.03
FULL_STOP_SHARE = 0.15
# Gray value of a blank image.
BLANK = 0.5
# Questions per image, in addition to its wish and a direct instruction.
QUESTIONS = 2
# The hardest wishes, all comparisons, and their extra share among all wishes.
HARD = ("odd_one", "dressed_alike", "too_crowded", "matching_pair")
HARD_SHARE = 0.3
# Shares of wishes that lose a word and that begin politely. Without this variation the reader memorized
# wordings, and confused new ones ("let the day go on for some hours") with any wording that shares a word.
LOST_SHARE = 0.3
POLITE_SHARE = 0.2
POLITE = ("please", "can you do something", "i think", "i wish", "well", "oh no", "you know")
# Weight of the patch losses; the loss of answers has weight 1.
SIGHT_WEIGHT = 0.3
# Words and answer.
Chat = tuple[str, str]
# Name of a patch without a thing.
NOTHING = "background"


def _direct(rng: np.random.Generator, scene: Scene) -> tuple[str, str] | None:
    """Draws a direct instruction and its answer.

    Returns None if the result shows a combination that training excludes.
    """
    edit = sample_edit(scene, rng)
    if holds_unseen(edit.scene):
        return None
    return edit.words, answer(edit.words, PLAIN_REASON)


def vary_words(rng: np.random.Generator, text: str) -> str:
    """Drops a word or adds a polite beginning, at random."""
    words = text.split()
    if len(words) > 3 and rng.random() < LOST_SHARE:
        del words[rng.integers(len(words))]
    if rng.random() < POLITE_SHARE:
        words.insert(0, str(rng.choice(POLITE)))
    return " ".join(words)


def _draw_image(rng: np.random.Generator) -> tuple[np.ndarray, list[Chat], list[np.ndarray]]:
    """Draws one image [128, 128, 3], its chats and its patch labels."""
    chats: list[Chat] = []
    if rng.random() < FREE_SHARE:
        scene = sample_scene(rng, dressed=0.4)
        image = render(scene)
    else:
        wish = sample_wish(rng, str(rng.choice(HARD)) if rng.random() < HARD_SHARE else None)
        scene = wish.scene
        image = wish.before
        chats.append((vary_words(rng, wish.words), wish.answer))
    direct = _direct(rng, scene)
    if direct:
        chats.append(direct)
    labels = list(label_patches(scene, SIZE // PATCH))
    if chats and rng.random() < BLANK_SHARE:
        image = np.full_like(image, BLANK)
        labels = [np.zeros_like(label) for label in labels]
    else:
        chats += [sample_question(rng, scene) for _ in range(QUESTIONS)]
    chats = [(f"{words}." if rng.random() < FULL_STOP_SHARE else words, reply) for words, reply in chats]
    return image, chats, labels


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[list[Chat]], PatchLabels]:
    """Draws images [count, 128, 128, 3], the chats about each, and their patch labels."""
    samples = [_draw_image(rng) for _ in range(count)]
    images = np.stack([image for image, _, _ in samples])
    chats = [image_chats for _, image_chats, _ in samples]
    by_label = zip(*(labels for _, _, labels in samples), strict=True)
    return images, chats, tuple(torch.from_numpy(np.stack(label)).flatten(1, 2) for label in by_label)


class ReaderTrainee(nn.Module):
    """The reader with the heads and word tokens for the patch losses."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, classifier: PatchClassifier) -> None:
        super().__init__()
        self.reader = make_reader(tokenizer)
        self.heads = classifier.heads
        start_vision(self.reader, classifier.tower.state_dict())
        names = [
            tokenizer.convert_tokens_to_ids(tokenizer.tokenize(f" {name}"))
            for name in (NOTHING, *SHAPES, *COLOUR_NAMES)
        ]
        self.register_buffer("names", torch.tensor(names).flatten(), persistent=False)

    def loss(self, batch: PackedChats, labels: PatchLabels) -> Tensor:
        """Returns the loss of answers, patch labels, and words of the projected patches."""
        model = self.reader.model
        states = patch_states(model.vision_tower, batch.pixels)
        projected = model.multi_modal_projector(states)
        # Detached, because the patches must move towards the words and not the words towards the patches.
        embeddings = self.reader.get_input_embeddings().weight[self.names].detach()
        logits = (projected @ embeddings.T).float()
        shapes = logits[..., : 1 + len(SHAPES)]
        colours = torch.cat([logits[..., :1], logits[..., 1 + len(SHAPES) :]], -1)
        patch_loss = label_loss(self.heads(states), labels)
        patch_loss = patch_loss + shape_and_colour_loss(shapes, colours, labels[0], labels[1])
        return answer_loss(self.reader, batch, projected) + SIGHT_WEIGHT * patch_loss


class Steps(Dataset[tuple[PackedChats, PatchLabels]]):
    """The batch of every step. It depends on (seed, step) only, not on the process that draws it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, batch: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.batch = batch

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, step: int) -> tuple[PackedChats, PatchLabels]:
        """Draws the batch of a step."""
        images, chats, labels = draw(np.random.default_rng((self.seed, step)), self.batch)
        return pack(self.tokenizer, images, chats), labels


def unseen_wishes(count: int, seed: int = 99_989) -> list[Wish]:
    """Draws wishes in held-out wordings about unseen scenes, some with unseen combinations."""
    rng = np.random.default_rng(seed)
    return [sample_wish(rng, held_out=True) for _ in range(count)]


def validate(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    wishes: list[Wish],
    chunk: int = 64,
) -> dict[str, float]:
    """Returns the shares of wishes with a correct instruction.

    - `right`: kind and target are correct.
    - `exact`: the value is correct too.
    - `dependent`: `exact` of the image-dependent wishes.
    - `dependent_blind`: the same with blank images.
    """

    def ask(chosen: list[Wish], blank: bool) -> list[str]:
        replies: list[str] = []
        for start in range(0, len(chosen), chunk):
            part = chosen[start : start + chunk]
            images = np.stack([wish.before for wish in part])
            if blank:
                images = np.full_like(images, BLANK)
            replies += answers(model, tokenizer, images, [wish.words for wish in part])
        return replies

    dependent = [wish for wish in wishes if wish.image_dependent]
    replies = ask(wishes, False)
    seeing = [text for text, wish in zip(replies, wishes, strict=True) if wish.image_dependent]
    blind = ask(dependent, True)
    return {
        "right": _share_correct(replies, wishes, 2),
        "exact": _share_correct(replies, wishes, 3),
        "dependent": _share_correct(seeing, dependent, 3),
        "dependent_blind": _share_correct(blind, dependent, 3),
    }


def _share_correct(replies: list[str], wishes: list[Wish], parts: int) -> float:
    """Returns the share of replies in which the first `parts` of kind, target and value are correct."""
    correct = 0
    for reply, wish in zip(replies, wishes, strict=True):
        meaning = parse_instruction(instruction_in(reply)) or ("", "", "")
        correct += meaning[:parts] == (wish.meaning or ())[:parts]
    return round(correct / max(1, len(wishes)), 4)


PROCESSOR_CONFIG = {
    "processor_class": "LlavaProcessor",
    "image_token": IMAGE,
    "patch_size": PATCH,
    "num_additional_image_tokens": 1,
    "vision_feature_select_strategy": "default",
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "processor_class": "LlavaProcessor",
    "model_max_length": MAX_TOKENS,
    "pad_token": PAD,
    "eos_token": END,
    "additional_special_tokens": [IMAGE, USER, READER],
    "clean_up_tokenization_spaces": False,
    "padding_side": "right",
}


def write_reader(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, target: Path
) -> int:
    """Writes a folder that transformers loads offline. Returns its bytes.

    Weights are fp16. Their names are those of the published LLaVA-1.5, which older versions of transformers
    read too.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".reader-") as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder)
        weights = {
            re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name): t
            for name, t in load_file(folder / WEIGHTS).items()
        }
        save_file(
            {name: tensor.half().contiguous() for name, tensor in weights.items()},
            folder / WEIGHTS,
            metadata={"format": "pt"},
        )
        config = json.loads((folder / "config.json").read_text())
        _set_half_precision(config)
        tokenizer.save_pretrained(folder)
        processor = make_processor(tokenizer)
        (folder / "chat_template.jinja").write_text(processor.chat_template)
        settings = {
            "config.json": config,
            "preprocessor_config.json": {
                **processor.image_processor.to_dict(),
                "processor_class": "LlavaProcessor",
            },
            "processor_config.json": PROCESSOR_CONFIG,
            "tokenizer_config.json": TOKENIZER_CONFIG,
        }
        for name, content in settings.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            path.chmod(0o644)
            os.replace(path, target / path.name)
    return sum(path.stat().st_size for path in target.iterdir() if path.is_file())


def _set_half_precision(config: dict[str, object]) -> None:
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            config[key] = "float16"
        elif isinstance(value, dict):
            _set_half_precision(value)


def export_reader(target: Path = READER_TARGET) -> int:
    """Writes the averaged weights. Returns the bytes of the folder."""
    tokenizer = reader_tokenizer()
    trainee = ReaderTrainee(tokenizer, load_classifier())
    load_average("reader", trainee)
    return write_reader(trainee.reader, tokenizer, target)


def main() -> None:
    """Trains until the budget ends."""
    options = arguments(__doc__ or "", seconds=5400, batch=32, rate=1.5e-3)
    device = options.device
    tokenizer = reader_tokenizer()
    trainee = ReaderTrainee(tokenizer, load_classifier()).to(device)
    model = trainee.reader
    # On CPU, the backward pass of eager attention is faster than that of SDPA.
    model.set_attn_implementation("eager" if device == "cpu" else "sdpa")
    run = Run("reader", trainee, options, decay=0.998)
    steps = Steps(tokenizer, options.seed, options.batch)
    unseen = unseen_wishes(400)
    loader = DataLoader(steps, batch_size=None, sampler=range(run.step, 2**40), num_workers=options.workers)
    first_step = run.step
    began = time.monotonic()
    batches = iter(loader)
    while run.share < 1:
        batch, labels = next(batches)
        run.randomness()
        with torch.autocast(device, torch.bfloat16):
            loss = trainee.loss(batch.to(device), tuple(label.to(device) for label in labels))
        run.apply(loss, warmup=200, floor=0.02)
        if run.step % 500 == 0:
            rate = (run.step - first_step) * options.batch / (time.monotonic() - began)
            _report(run, model, tokenizer, unseen[:100], rate)
            run.save()
    run.save()
    rate = (run.step - first_step) * options.batch / (time.monotonic() - began)
    _report(run, model, tokenizer, unseen, rate)
    print(f"{export_reader() / 2**20:.2f} MiB in {READER_TARGET.name}")


def _report(
    run: Run,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    wishes: list[Wish],
    rate: float,
) -> None:
    run.swap()
    model.eval()
    figures = validate(model, tokenizer, wishes)
    model.train()
    run.swap()
    run.log(rate=round(rate, 1), **figures)


if __name__ == "__main__":
    main()
