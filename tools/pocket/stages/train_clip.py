"""Stage 2 trains a small CLIP: captions match images, instructions match the change between two images.

Later the frozen text tower feeds the editor. A cheap third loss keeps its token states informative: each
state must predict its own token and the next one.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPModel

from ..models.architecture import CONTEXT, WIDTH, make_clip
from ..models.tokenizer import tokenizer
from ..world.pairs import sample_group
from ..world.photos import Photos
from .training_run import WORK, Run, arguments, load_average

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
EDITS = 3


def clip_model() -> CLIPModel:
    """Builds CLIP for the trained tokenizer, with random weights."""
    words = tokenizer()
    return make_clip(len(words), words.bos_token_id, words.eos_token_id)


class Trainee(nn.Module):
    """CLIP with parts for training only: a temperature for changes and two heads that predict tokens."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        self.direction_scale = nn.Parameter(torch.tensor(2.6))
        vocabulary = clip.config.text_config.vocab_size
        self.own_token = nn.Linear(WIDTH, vocabulary)
        self.next_token = nn.Linear(WIDTH, vocabulary)

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeds uint8 images [n, 128, 128, 3]: features [n, 128], not normalized."""
        x = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN.to(pixels.device)) / DEVIATION.to(pixels.device)
        return self.clip.visual_projection(self.clip.vision_model(x).pooler_output)

    def texts(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeds token ids [n, 32]: token states [n, 32, 128] and features [n, 128], not normalized."""
        out = self.clip.text_model(tokens)
        return out.last_hidden_state, self.clip.text_projection(out.pooler_output)


class Vision(nn.Module):
    """The parts of CLIP that the editor does not use.

    They can train further when the text tower is frozen.
    """

    def __init__(self, trainee: Trainee) -> None:
        super().__init__()
        self.tower = trainee.clip.vision_model
        self.projection = trainee.clip.visual_projection
        self.text_projection = trainee.clip.text_projection
        self.scales = nn.ParameterList([trainee.clip.logit_scale, trainee.direction_scale])


class Pool:
    """Images and tokens in memory: `groups` images with EDITS edits each."""

    def __init__(self, groups: int, seed: int, photos: Photos) -> None:
        rng = np.random.default_rng(seed)
        words = tokenizer()
        samples = [sample_group(rng, photos, EDITS, 0.12) for _ in range(groups)]
        images = [[_eight_bit(image) for image in (group.before, *group.afters)] for group in samples]
        self.pixels = torch.from_numpy(np.stack(images))  # [groups, 1 + EDITS, 128, 128, 3]

        def tokens(texts: list[str]) -> torch.Tensor:
            return words(
                texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
            ).input_ids

        captions = [text for group in samples for text in (group.caption, *group.captions)]
        self.captions = tokens(captions).view(groups, 1 + EDITS, CONTEXT)
        instructions = [text for group in samples for text in group.words]
        self.words = tokens(instructions).view(groups, EDITS, CONTEXT)


def _eight_bit(image: np.ndarray) -> np.ndarray:
    return (image * 255).round().astype(np.uint8)


def contrast(a: torch.Tensor, b: torch.Tensor, log_scale: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Returns the symmetric InfoNCE loss of features [n, d].

    Samples with the same tokens as the target do not count as negatives.
    """
    logits = (
        functional.normalize(a.float(), dim=-1)
        @ functional.normalize(b.float(), dim=-1).T
        * log_scale.exp().clamp(max=60)
    )
    same = (tokens[:, None] == tokens[None]).all(-1) & ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    logits = logits.masked_fill(same, -1e4)
    target = torch.arange(len(a), device=a.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def retrieval(model: Trainee, pool: Pool, count: int = 200) -> tuple[float, float]:
    """Returns top-1 accuracies among `count`: caption of an image, instruction of a change.

    Equal tokens count as correct.
    """
    model.eval()
    rows = torch.arange(count)
    pick = rows % EDITS
    device = next(model.parameters()).device
    after = model.images(pool.pixels[rows, 1 + pick].to(device))
    before = model.images(pool.pixels[rows, 0].to(device))
    change = functional.normalize(after, dim=-1) - functional.normalize(before, dim=-1)
    accuracies = []
    for features, tokens in ((after, pool.captions[rows, 1 + pick]), (change, pool.words[rows, pick])):
        text = functional.normalize(model.texts(tokens.to(device))[1], dim=-1)
        best = (functional.normalize(features, dim=-1) @ text.T).argmax(1).cpu()
        accuracies.append(float((tokens[best] == tokens).all(-1).float().mean()))
    model.train()
    return accuracies[0], accuracies[1]


def contrastive_loss(
    model: Trainee, pool: Pool, rows: torch.Tensor, pick: torch.Tensor, device: str, read_back: bool
) -> torch.Tensor:
    """Returns the loss of captions against images and instructions against changes.

    `read_back` adds the loss of the two token heads.
    """
    n = len(rows)
    pixels = torch.cat([pool.pixels[rows, 0], pool.pixels[rows, 1 + pick]]).to(device)
    tokens = torch.cat([pool.captions[rows, 0], pool.captions[rows, 1 + pick], pool.words[rows, pick]])
    tokens = tokens.to(device)
    ends = tokens == model.clip.config.text_config.eos_token_id
    real = ends.cumsum(-1) <= 1  # up to the first end token, inclusive
    longest = int(real.sum(-1).max())  # the tower is causal, so padding does not change earlier states
    tokens = tokens[:, :longest]
    real = real[:, :longest]
    with torch.autocast(device, torch.bfloat16):
        images = model.images(pixels).float()
        states, texts = model.texts(tokens)
    change = functional.normalize(images[n:], dim=-1) - functional.normalize(images[:n], dim=-1)
    loss = contrast(images, texts[: 2 * n], model.clip.logit_scale, tokens[: 2 * n])
    loss = loss + contrast(change, texts[2 * n :], model.direction_scale, tokens[2 * n :])
    if read_back:
        with torch.autocast(device, torch.bfloat16):
            own = model.own_token(states[real])
            following = model.next_token(states[:, :-1][real[:, 1:]])
        loss = loss + 0.2 * functional.cross_entropy(own.float(), tokens[real])
        loss = loss + 0.1 * functional.cross_entropy(following.float(), tokens[:, 1:][real[:, 1:]])
    return loss


def main() -> None:
    """Trains until the budget ends.

    `--vision` trains everything except the text tower, which the editor uses.
    """
    only_vision = "--vision" in sys.argv
    if only_vision:
        sys.argv.remove("--vision")
    options = arguments(__doc__ or "", seconds=420, batch=96, rate=1e-3)
    model = Trainee(clip_model()).to(options.device)
    if only_vision:
        load_average("clip", model)
        model.clip.text_model.requires_grad_(False)
    photos = Photos(WORK / "photos")
    pool = Pool(5000, 12 if only_vision else 11, photos)
    unseen = Pool(200, 99_993, photos)
    if only_vision:
        run = Run("vision", Vision(model), options, decay=0.998)
    else:
        run = Run("clip", model, options, decay=0.998)
    while run.share < 1:
        rng = run.randomness()
        rows = torch.from_numpy(rng.choice(len(pool.pixels), options.batch, replace=False))
        pick = torch.from_numpy(rng.integers(0, EDITS, options.batch))
        run.apply(contrastive_loss(model, pool, rows, pick, options.device, not only_vision), warmup=50)
        if run.step % 50 == 0:
            run.swap()
            top_caption, top_words = retrieval(model, unseen)
            run.swap()
            run.log(top1_caption=round(top_caption, 3), top1_words=round(top_words, 3))
            run.save()
    run.save()


if __name__ == "__main__":
    main()
