"""Reason stage 1: the pocket reader, trained from scratch on questions, captions, direct instructions and indirect wishes about drawn scenes.

    python -m tools.pocket.reasoning_stages.train_sight --seconds 1500
    python -m tools.pocket.reasoning_stages.train_reader --seconds 5400

Images are drawn while it trains. Its vision tower begins as the editor's own image encoder, taught to see by train_sight. Beside the answers' loss it goes
on telling what is in every patch, and every patch, once projected, has to be the words for what is there: without that the reader learned all it could say
of colours and light, guessed at shapes, and its tower forgot them (77 % of patches told right before, 45 % after 5,000 steps, 20 % once projected).
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

from ..models.patch_labels import Sight, Told, named_error, patch_states, seen, sight_error, taught
from ..models.reader import (
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
from ..stages.export import TARGET
from ..stages.training_run import Run, arguments, load_average
from ..wishes.explicit_edits import understood
from ..wishes.scene_questions import sample_question
from ..wishes.wishes import PLAIN_REASON, Wish, answer, holds_unseen, sample_wish
from ..world.drawing import COLOUR_NAMES, SHAPES, SIZE
from ..world.effects import sample_edit
from ..world.scenes import Scene, render, sample_scene

READER_TARGET = TARGET.with_name("pocket_reader")
WEIGHTS = "model.safetensors"
FREE_SHARE, BLANK_SHARE, FULL_STOP_SHARE = 0.2, 0.03, 0.15
"""Shares of scenes without a wish, of images that are blank, and of words that end with a full stop."""
BLANK = 0.5
"""The grey that stands for no image."""
QUESTIONS = 2
"""Asked about each image, beside its wish and a direct instruction."""
HARD, HARD_SHARE = ("odd_one", "dressed_alike", "too_crowded", "matching_pair"), 0.3
"""Wishes that take the most learning, all of them comparisons, and their share of all beyond what they have anyway."""
LOST_SHARE, POLITE_SHARE = 0.3, 0.2
"""Shares of wishes that lose a word, and that begin politely: without, the reader learned wordings by heart and mistook others ("let the day go on for some
hours") for whatever shared a word."""
POLITE = ("please", "can you do something", "i think", "i wish", "well", "oh no", "you know")
SIGHT_WEIGHT = 0.3
"""Of the losses of what is seen, answers counting 1."""
NOTHING = "background"
"""What a patch without a thing is called."""


def _direct(rng: np.random.Generator, scene: Scene) -> tuple[str, str] | None:
    """A direct instruction and its answer; None where the scene would come to hold what training keeps out."""
    made = sample_edit(scene, rng)
    return None if holds_unseen(made.scene) else (made.words, answer(made.words, PLAIN_REASON))


def said_otherwise(rng: np.random.Generator, words: str) -> str:
    """A wish as people say it."""
    several = words.split()
    if len(several) > 3 and rng.random() < LOST_SHARE:
        del several[rng.integers(len(several))]
    return " ".join([str(rng.choice(POLITE)), *several] if rng.random() < POLITE_SHARE else several)


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[list[tuple[str, str]]], Told]:
    """Images [count, 128, 128, 3], (words, answer) chats about each, and what is in their patches."""
    images, chats, told = [], [], []
    for _ in range(count):
        if rng.random() < FREE_SHARE:
            scene = sample_scene(rng, dressed=0.4)
            image, several = render(scene), []
        else:
            wish = sample_wish(rng, str(rng.choice(HARD)) if rng.random() < HARD_SHARE else None)
            scene, image, several = wish.scene, wish.before, [(said_otherwise(rng, wish.words), wish.answer)]
        direct = _direct(rng, scene)
        several += [direct] if direct else []
        blank = bool(several) and rng.random() < BLANK_SHARE
        if blank:
            image = np.full_like(image, BLANK)
        else:
            several += [sample_question(rng, scene) for _ in range(QUESTIONS)]
        images.append(image)
        chats.append(
            [(words + "." if rng.random() < FULL_STOP_SHARE else words, said) for words, said in several]
        )
        patches = seen(scene, SIZE // PATCH)
        told.append([np.zeros_like(each) if blank else each for each in patches])
    return (
        np.stack(images),
        chats,
        tuple(torch.from_numpy(np.stack(each)).flatten(1, 2) for each in zip(*told, strict=True)),
    )


class Pupil(nn.Module):
    """The reader, and what holds it to what there is to see while it learns to speak."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, sight: Sight) -> None:
        super().__init__()
        self.reader, self.heads = make_reader(tokenizer), sight.heads
        start_vision(self.reader, sight.tower.state_dict())
        names = [
            tokenizer.convert_tokens_to_ids(tokenizer.tokenize(f" {name}"))
            for name in (NOTHING, *SHAPES, *COLOUR_NAMES)
        ]
        self.register_buffer("names", torch.tensor(names).flatten(), persistent=False)

    def loss(self, batch: Packed, told: Told) -> Tensor:
        """Of answers, of what the tower tells of its patches, and of the words that they are projected to."""
        model = self.reader.model
        states = patch_states(model.vision_tower, batch.pixels)
        projected = model.multi_modal_projector(states)
        # The words mean what the language model makes of them; it is the patches that shall become words.
        called = (projected @ self.reader.get_input_embeddings().weight[self.names].detach().T).float()
        shapes, colours = (
            called[..., : 1 + len(SHAPES)],
            torch.cat([called[..., :1], called[..., 1 + len(SHAPES) :]], -1),
        )
        sight = sight_error(self.heads(states), told) + named_error(shapes, colours, *told[:2])
        return answer_loss(self.reader, batch, projected) + SIGHT_WEIGHT * sight


class Steps(Dataset[tuple[Packed, Told]]):
    """The batch of every step, drawn from (seed, step) alone, whatever process draws it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, batch: int) -> None:
        self.tokenizer, self.seed, self.batch = tokenizer, seed, batch

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, step: int) -> tuple[Packed, Told]:
        """Draw the batch of a step."""
        images, chats, told = draw(np.random.default_rng((self.seed, step)), self.batch)
        return pack(self.tokenizer, images, chats), told


def unseen_wishes(count: int, seed: int = 99_989) -> list[Wish]:
    """Wishes in held-out wordings about scenes never drawn for training, shape and colour pairs that it never showed among them."""
    rng = np.random.default_rng(seed)
    return [sample_wish(rng, held_out=True) for _ in range(count)]


def validate(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    wishes: list[Wish],
    chunk: int = 64,
) -> dict[str, float]:
    """Shares of wishes whose instruction is right.

    `right` counts kind and object, `exact` kind, object and value, `dependent` is `exact` where the image decides and `dependent_blind` the same with the
    image blanked.
    """

    def ask(asked: list[Wish], blank: bool) -> list[str]:
        given = []
        for start in range(0, len(asked), chunk):
            some = asked[start : start + chunk]
            images = np.stack([wish.before for wish in some])
            given += answers(
                model,
                tokenizer,
                np.full_like(images, BLANK) if blank else images,
                [wish.words for wish in some],
            )
        return given

    dependent = [wish for wish in wishes if wish.image_dependent]
    said, blind = ask(wishes, False), ask(dependent, True)

    def share(given: list[str], asked: list[Wish], parts: int) -> float:
        meant = [understood(instruction_in(text)) or ("", "", "") for text in given]
        return round(
            sum(each[:parts] == (wish.meaning or ())[:parts] for each, wish in zip(meant, asked, strict=True))
            / max(1, len(asked)),
            4,
        )

    seeing = [text for text, wish in zip(said, wishes, strict=True) if wish.image_dependent]
    return {
        "right": share(said, wishes, 2),
        "exact": share(said, wishes, 3),
        "dependent": share(seeing, dependent, 3),
        "dependent_blind": share(blind, dependent, 3),
    }


def write_reader(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, target: Path
) -> int:
    """Write a folder that transformers loads offline, weights in fp16, in the layout of the published LLaVA-1.5, which older versions read too.

    Returns:
        Its bytes.
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
        _say_half(config)
        tokenizer.save_pretrained(folder)
        processor = make_processor(tokenizer)
        (folder / "chat_template.jinja").write_text(processor.chat_template)
        settings = {
            "config.json": config,
            "preprocessor_config.json": {
                **processor.image_processor.to_dict(),
                "processor_class": "LlavaProcessor",
            },
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
    pupil = Pupil(tokenizer, taught())
    load_average("reader", pupil)
    return write_reader(pupil.reader, tokenizer, target)


def main() -> None:
    """Train until the budget ends."""
    options = arguments(__doc__ or "", seconds=5400, batch=32, rate=1.5e-3)
    device = options.device
    tokenizer = reader_tokenizer()
    pupil = Pupil(tokenizer, taught()).to(device)
    model = pupil.reader
    model.set_attn_implementation(
        "eager" if device == "cpu" else "sdpa"
    )  # on CPU its backward pass is faster than SDPA's
    run = Run("reader", pupil, options, decay=0.998)
    steps = Steps(tokenizer, options.seed, options.batch)
    unseen = unseen_wishes(400)
    loader = DataLoader(steps, batch_size=None, sampler=range(run.step, 2**40), num_workers=options.workers)
    began, done = time.monotonic(), run.step
    batches = iter(loader)
    while run.share < 1:
        batch, told = next(batches)
        run.randomness()
        with torch.autocast(device, torch.bfloat16):
            loss = pupil.loss(batch.to(device), tuple(each.to(device) for each in told))
        run.apply(loss, warmup=200, floor=0.02)
        if run.step % 500 == 0:
            _report(
                run,
                model,
                tokenizer,
                unseen[:100],
                (run.step - done) * options.batch / (time.monotonic() - began),
            )
            run.save()
    run.save()
    _report(run, model, tokenizer, unseen, (run.step - done) * options.batch / (time.monotonic() - began))
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
