"""Stage 2: a small CLIP. Captions are matched with images, instructions with the change between two images.

The text tower is frozen afterwards and feeds the editor, so a cheap third loss keeps its per-token states informative: each state
must tell its own token and the next one.
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
    """Build CLIP for the trained tokenizer, its weights still random."""
    words = tokenizer()
    return make_clip(len(words), words.bos_token_id, words.eos_token_id)


class Trainee(nn.Module):
    """CLIP plus what only training needs: the direction's temperature and two heads that read tokens back."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        self.direction_scale = nn.Parameter(torch.tensor(2.6))
        vocabulary = clip.config.text_config.vocab_size
        self.own_token = nn.Linear(WIDTH, vocabulary)
        self.next_token = nn.Linear(WIDTH, vocabulary)

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed uint8 images [n, 128, 128, 3]: unnormalised features [n, 128]."""
        x = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN.to(pixels.device)) / DEVIATION.to(pixels.device)
        return self.clip.visual_projection(self.clip.vision_model(x).pooler_output)

    def texts(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed token ids [n, 32]: per-token states [n, 32, 128] and unnormalised features [n, 128]."""
        out = self.clip.text_model(tokens)
        return out.last_hidden_state, self.clip.text_projection(out.pooler_output)


class Vision(nn.Module):
    """The parts of CLIP that the editor does not read: they may go on training when the text tower is frozen."""

    def __init__(self, trainee: Trainee) -> None:
        super().__init__()
        self.tower, self.projection = trainee.clip.vision_model, trainee.clip.visual_projection
        self.text_projection = trainee.clip.text_projection
        self.scales = nn.ParameterList([trainee.clip.logit_scale, trainee.direction_scale])


class Pool:
    """Images and tokens drawn once and kept in memory: `groups` images with EDITS edits each."""

    def __init__(self, groups: int, seed: int, photos: Photos) -> None:
        rng = np.random.default_rng(seed)
        words = tokenizer()
        drawn = [sample_group(rng, photos, EDITS, 0.12) for _ in range(groups)]
        self.pixels = torch.from_numpy(
            np.stack([[(p * 255).round().astype(np.uint8) for p in (g.before, *g.afters)] for g in drawn])
        )  # [groups, 1 + EDITS, 128, 128, 3]

        def tokens(texts: list[str]) -> torch.Tensor:
            return words(
                texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
            ).input_ids

        self.captions = tokens([text for g in drawn for text in (g.caption, *g.captions)]).view(
            groups, 1 + EDITS, CONTEXT
        )
        self.words = tokens([text for g in drawn for text in g.words]).view(groups, EDITS, CONTEXT)


def contrast(a: torch.Tensor, b: torch.Tensor, log_scale: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of features [n, d]; pairs with the same words as the target are left out of the negatives."""
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
    """Top-1 among `count`: caption for an image, instruction for a change (equal words count as found)."""
    model.eval()
    rows, pick = torch.arange(count), torch.arange(count) % EDITS
    device = next(model.parameters()).device
    after = model.images(pool.pixels[rows, 1 + pick].to(device))
    before = model.images(pool.pixels[rows, 0].to(device))
    change = functional.normalize(after, dim=-1) - functional.normalize(before, dim=-1)
    found = []
    for features, tokens in ((after, pool.captions[rows, 1 + pick]), (change, pool.words[rows, pick])):
        text = functional.normalize(model.texts(tokens.to(device))[1], dim=-1)
        best = (functional.normalize(features, dim=-1) @ text.T).argmax(1).cpu()
        found.append(float((tokens[best] == tokens).all(-1).float().mean()))
    model.train()
    return found[0], found[1]


def contrastive_loss(
    model: Trainee, pool: Pool, rows: torch.Tensor, pick: torch.Tensor, device: str, read_back: bool
) -> torch.Tensor:
    """Caption against image, instruction against change; with `read_back` the tokens too."""
    n = len(rows)
    pixels = torch.cat([pool.pixels[rows, 0], pool.pixels[rows, 1 + pick]]).to(device)
    tokens = torch.cat([pool.captions[rows, 0], pool.captions[rows, 1 + pick], pool.words[rows, pick]]).to(
        device
    )
    real = (tokens == model.clip.config.text_config.eos_token_id).cumsum(
        -1
    ) <= 1  # up to and with the first end token
    longest = int(real.sum(-1).max())  # the tower is causal: padding after the end changes nothing before it
    tokens, real = tokens[:, :longest], real[:, :longest]
    with torch.autocast(device, torch.bfloat16):
        images = model.images(pixels).float()
        states, texts = model.texts(tokens)
    change = functional.normalize(images[n:], dim=-1) - functional.normalize(images[:n], dim=-1)
    loss = contrast(images, texts[: 2 * n], model.clip.logit_scale, tokens[: 2 * n])
    loss = loss + contrast(change, texts[2 * n :], model.direction_scale, tokens[2 * n :])
    if read_back:
        with torch.autocast(device, torch.bfloat16):
            own, following = model.own_token(states[real]), model.next_token(states[:, :-1][real[:, 1:]])
        loss = loss + 0.2 * functional.cross_entropy(own.float(), tokens[real])
        loss = loss + 0.1 * functional.cross_entropy(following.float(), tokens[:, 1:][real[:, 1:]])
    return loss


def main() -> None:
    """Train until the budget ends; with `--vision` all but the text tower, whose states the editor already relies on."""
    only_vision = "--vision" in sys.argv
    if only_vision:
        sys.argv.remove("--vision")
    options = arguments(__doc__ or "", seconds=420, batch=96, rate=1e-3)
    model = Trainee(clip_model()).to(options.device)
    if only_vision:
        load_average("clip", model)
        model.clip.text_model.requires_grad_(False)
    photos = Photos(WORK / "photos")
    pool, unseen = Pool(5000, 12 if only_vision else 11, photos), Pool(200, 99_993, photos)
    run = (
        Run("vision", Vision(model), options, decay=0.998)
        if only_vision
        else Run("clip", model, options, decay=0.998)
    )
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
