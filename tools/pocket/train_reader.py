"""Reason stage 1: the pocket reader, trained from scratch on questions, captions, direct instructions and indirect wishes about drawn scenes.

    python -m tools.pocket.train_sight --seconds 1500
    python -m tools.pocket.train_reader --seconds 5400 --workers 2

Pictures are drawn while it trains. Its vision tower begins as the editor's own image encoder, taught to see by train_sight; loss is counted on answers only.
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
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .deeds import understood
from .effects import sample_edit
from .export import TARGET
from .reader import (
    END,
    IMAGE,
    PAD,
    PATCH,
    READER,
    ROOM,
    USER,
    Packed,
    answer_loss,
    answers,
    instruction_in,
    make_processor,
    make_reader,
    pack,
    reader_tokenizer,
    start_vision,
)
from .running import Run, arguments, load_average
from .scenes import Scene, render, sample_scene
from .sight import seeing
from .talk import sample_question
from .wishes import PLAIN_REASON, Wish, answer, holds_unseen, sample_wish

READER_TARGET = TARGET.with_name("pocket_reader")
WEIGHTS = "model.safetensors"
FREE_SHARE, BLANK_SHARE, FULL_STOP_SHARE = 0.2, 0.03, 0.15
"""Shares of scenes without a wish, of pictures that are blank, and of words that end with a full stop."""
BLANK = 0.5
"""The grey that stands for no picture."""
QUESTIONS = 2
"""Asked about each picture, beside its wish and a direct instruction."""


def _direct(rng: np.random.Generator, scene: Scene) -> tuple[str, str] | None:
    """A direct instruction and its answer; None where the scene would come to hold what training keeps out."""
    made = sample_edit(scene, rng)
    return None if holds_unseen(made.scene) else (made.words, answer(made.words, PLAIN_REASON))


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[list[tuple[str, str]]]]:
    """Pictures [count, 128, 128, 3] and (words, answer) chats about each."""
    pictures, chats = [], []
    for _ in range(count):
        if rng.random() < FREE_SHARE:
            scene = sample_scene(rng, dressed=0.4)
            picture, several = render(scene), []
        else:
            wish = sample_wish(rng)
            scene, picture, several = wish.scene, wish.before, [(wish.words, wish.answer)]
        direct = _direct(rng, scene)
        several += [direct] if direct else []
        blank = bool(several) and rng.random() < BLANK_SHARE
        if blank:
            picture = np.full_like(picture, BLANK)
        else:
            several += [sample_question(rng, scene) for _ in range(QUESTIONS)]
        pictures.append(picture)
        chats.append([(words + "." if rng.random() < FULL_STOP_SHARE else words, said) for words, said in several])
    return np.stack(pictures), chats


class Steps(Dataset[Packed]):
    """The batch of every step, drawn from (seed, step) alone, whatever process draws it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, batch: int) -> None:
        self.tokenizer, self.seed, self.batch = tokenizer, seed, batch

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, step: int) -> Packed:
        """Draw the batch of a step."""
        return pack(self.tokenizer, *draw(np.random.default_rng((self.seed, step)), self.batch))


def unseen_wishes(count: int, seed: int = 99_989) -> list[Wish]:
    """Wishes in held-out wordings about scenes never drawn for training, shape and colour pairs that it never showed among them."""
    rng = np.random.default_rng(seed)
    return [sample_wish(rng, held_out=True) for _ in range(count)]


def validate(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, wishes: list[Wish], chunk: int = 64) -> dict[str, float]:
    """Shares of wishes whose instruction is right.

    `right` counts kind and object, `exact` kind, object and value, `dependent` is `exact` where the picture decides and `dependent_blind` the same with the
    picture blanked.
    """

    def ask(asked: list[Wish], blank: bool) -> list[str]:
        given = []
        for start in range(0, len(asked), chunk):
            some = asked[start : start + chunk]
            pictures = np.stack([wish.before for wish in some])
            given += answers(model, tokenizer, np.full_like(pictures, BLANK) if blank else pictures, [wish.words for wish in some])
        return given

    dependent = [wish for wish in wishes if wish.picture_dependent]
    said, blind = ask(wishes, False), ask(dependent, True)

    def share(given: list[str], asked: list[Wish], parts: int) -> float:
        meant = [understood(instruction_in(text)) or ("", "", "") for text in given]
        return round(sum(each[:parts] == (wish.meaning or ())[:parts] for each, wish in zip(meant, asked, strict=True)) / max(1, len(asked)), 4)

    seeing = [text for text, wish in zip(said, wishes, strict=True) if wish.picture_dependent]
    return {
        "right": share(said, wishes, 2),
        "exact": share(said, wishes, 3),
        "dependent": share(seeing, dependent, 3),
        "dependent_blind": share(blind, dependent, 3),
    }


def write_reader(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, target: Path) -> int:
    """Write a folder that transformers loads offline, weights in fp16, in the layout of the published LLaVA-1.5, which older versions read too.

    Returns:
        Its bytes.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".reader-") as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder)
        weights = {re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name): t for name, t in load_file(folder / WEIGHTS).items()}
        save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        _say_half(config)
        tokenizer.save_pretrained(folder)
        processor = make_processor(tokenizer)
        (folder / "chat_template.jinja").write_text(processor.chat_template)
        settings = {
            "config.json": config,
            "preprocessor_config.json": {**processor.image_processor.to_dict(), "processor_class": "LlavaProcessor"},
            "processor_config.json": {
                "processor_class": "LlavaProcessor",
                "image_token": IMAGE,
                "patch_size": PATCH,
                "num_additional_image_tokens": 1,
                "vision_feature_select_strategy": "default",
            },
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "processor_class": "LlavaProcessor",
                "model_max_length": ROOM,
                "pad_token": PAD,
                "eos_token": END,
                "additional_special_tokens": [IMAGE, USER, READER],
                "clean_up_tokenization_spaces": False,
                "padding_side": "right",
            },
        }
        for name, content in settings.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            path.chmod(0o644)
            os.replace(path, target / path.name)
    return sum(path.stat().st_size for path in target.iterdir() if path.is_file())


def _say_half(config: dict[str, object]) -> None:
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            config[key] = "float16"
        elif isinstance(value, dict):
            _say_half(value)


def export_reader(target: Path = READER_TARGET) -> int:
    """Write the averaged weights. Returns the folder's bytes."""
    tokenizer = reader_tokenizer()
    model = make_reader(tokenizer)
    load_average("reader", model)
    return write_reader(model, tokenizer, target)


def main() -> None:
    """Train until the budget ends."""
    options = arguments(__doc__ or "", seconds=5400, batch=32, rate=1.5e-3)
    device = options.device
    tokenizer = reader_tokenizer()
    model = make_reader(tokenizer)
    start_vision(model, seeing())
    model.to(device)
    model.set_attn_implementation("eager" if device == "cpu" else "sdpa")  # on CPU its backward pass is faster than SDPA's
    run = Run("reader", model, options, decay=0.998)
    steps = Steps(tokenizer, options.seed, options.batch)
    unseen = unseen_wishes(400)
    loader = DataLoader(steps, batch_size=None, sampler=range(run.step, 2**40), num_workers=options.workers)
    began, done = time.monotonic(), run.step
    batches = iter(loader)
    while run.share < 1:
        batch = next(batches).to(device)
        run.randomness()
        with torch.autocast(device, torch.bfloat16):
            loss = answer_loss(model, batch)
        run.apply(loss, warmup=200, floor=0.02)
        if run.step % 500 == 0:
            _report(run, model, tokenizer, unseen[:100], (run.step - done) * options.batch / (time.monotonic() - began))
            run.save()
    run.save()
    _report(run, model, tokenizer, unseen, (run.step - done) * options.batch / (time.monotonic() - began))
    print(f"{export_reader() / 2**20:.2f} MiB in {READER_TARGET.name}")


def _report(run: Run, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, wishes: list[Wish], rate: float) -> None:
    run.swap()
    model.eval()
    figures = validate(model, tokenizer, wishes)
    model.train()
    run.swap()
    run.log(rate=round(rate, 1), **figures)


if __name__ == "__main__":
    main()
