"""Captions of the images after an edit, found by gradients (PEZ hard prompts, as Visii starts)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...encoders.clip import POCKET_NAME, ClipModel, image_features, text_features
from ...errors import LearningError

TOKENS = 10
STEPS, POCKET_STEPS = 3000, 300
"""Iterations: Visii's, and enough for the pocket CLIP."""

CaptionProgress = Callable[[int, int, str], None]
"""Called with (iterations done, iterations in all, best text so far). May raise to cancel."""


@dataclass(frozen=True)
class CaptionSettings:
    """Settings of the search. The defaults are Visii's."""

    tokens: int = TOKENS
    """Length of the text."""
    steps: int = STEPS
    """Iterations."""
    learning_rate: float = 0.1
    """Learning rate of AdamW."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    batch: int = 1
    """Images of an iteration."""
    seed: int = 0
    """Seed of the first tokens and of the order of images."""


@dataclass(frozen=True)
class Caption:
    """A text and how well it fits the images."""

    text: str
    ids: tuple[int, ...]
    """The tokens that were found."""
    similarity: float
    """Mean cosine of the text, as the tokenizer reads it, with the images."""
    exact: bool
    """Whether the tokenizer reads the text as ``ids``."""

    def describe(self) -> str:
        """The text, its similarity and its length, for people."""
        note = ""
        if not self.exact:
            note = (
                "; the tokenizer reads the text as other tokens than were found; the cosine is that of the "
                "text"
            )
        return f"{self.text}\nmean cosine {self.similarity:.4f}, {len(self.ids)} tokens{note}"


def default_steps(clip: ClipModel) -> int:
    """The default number of iterations for a model."""
    return POCKET_STEPS if clip.name == POCKET_NAME else STEPS


def caption_images(
    clip: ClipModel,
    images: Sequence[Tensor],
    settings: CaptionSettings | None = None,
    progress: CaptionProgress | None = None,
) -> Caption:
    """Finds a text whose feature is close to those of images (PEZ, Wen et al. 2023).

    The search optimizes free embeddings. Each iteration projects them to the closest tokens (in the
    normalized space), takes the gradient of 1 - cos there, and applies it to the free embeddings. The result
    is the text of all iterations with the highest mean cosine with all images.

    Args:
        clip: the model, loaded outside of inference mode.
        images: [H, W, 3] in 0..1, of any sizes.
        settings: None takes Visii's, with the model's default number of iterations.
        progress: see ``CaptionProgress``.

    Raises:
        LearningError: no image, or a setting out of range.
    """
    settings = settings or CaptionSettings(steps=default_steps(clip))
    _check(clip, images, settings)
    # On the CPU, so that a seed gives the same text on every device.
    draw = torch.Generator().manual_seed(settings.seed)
    targets = image_features(clip, images).clone()
    table = clip.token_embedding.detach()
    directions = functional.normalize(table, dim=-1)
    allowed = torch.ones(len(table), dtype=torch.bool, device=table.device)
    allowed[[clip.start_id, clip.end_id]] = False
    start, end = table[clip.start_id][None, None], table[clip.end_id][None, None]
    first = torch.randint(int(allowed.sum()), (settings.tokens,), generator=draw).to(table.device)
    free = table[allowed.nonzero()[:, 0][first]].clone()[None]
    optimizer = torch.optim.AdamW([free], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best: Caption | None = None
    seen: set[tuple[int, ...]] = set()
    with torch.enable_grad():
        for step in range(settings.steps):
            nearness = functional.normalize(free.detach()[0], dim=-1) @ directions.T
            ids = nearness.masked_fill(~allowed, -math.inf).argmax(-1)
            projected = table[ids][None].requires_grad_()
            feature = functional.normalize(
                clip.encode_embeddings(torch.cat([start, projected, end], 1), settings.tokens + 1), dim=-1
            )[0]
            chosen = torch.randperm(len(targets), generator=draw)[: settings.batch].to(targets.device)
            (free.grad,) = torch.autograd.grad(1 - (targets[chosen] @ feature).mean(), projected)
            optimizer.step()
            found = tuple(ids.tolist())
            # The text is judged only if its tokens are better than the best text.
            if found not in seen and (
                best is None or float((targets @ feature.detach()).mean()) > best.similarity
            ):
                seen.add(found)
                read = read_caption(clip, found, targets)
                best = read if best is None or read.similarity > best.similarity else best
            if progress and best is not None:
                progress(step + 1, settings.steps, best.text)
    assert best is not None  # The first iteration always gives one.
    return best


@torch.no_grad()
def read_caption(clip: ClipModel, ids: tuple[int, ...], targets: Tensor) -> Caption:
    """The text of tokens, and its similarity as the tokenizer reads it."""
    text = clip.decode(ids)
    similarity = float((targets @ text_features(clip, [text])[0]).mean())
    return Caption(text, ids, similarity, tuple(clip.tokenize(text)) == ids)


def _check(clip: ClipModel, images: Sequence[Tensor], settings: CaptionSettings) -> None:
    if not images:
        raise LearningError("Caption Init: there is no image. Give at least one pair.")
    room = clip.context_length - 2
    if not 1 <= settings.tokens <= room:
        raise LearningError(
            f"Caption Init: {settings.tokens} tokens do not fit. Choose 1 to {room}, the text window of this "
            "CLIP."
        )
    if settings.steps < 1:
        raise LearningError(
            f"Caption Init: {settings.steps} steps are too few. Choose at least 1; {default_steps(clip)} "
            "suit this CLIP."
        )
    if settings.batch < 1:
        raise LearningError(
            f"Caption Init: a batch of {settings.batch} images is too small. Choose at least 1."
        )
    for name, value in (("learning rate", settings.learning_rate), ("weight decay", settings.weight_decay)):
        if not (math.isfinite(value) and value >= 0):
            raise LearningError(
                f"Caption Init: the {name} {value} is out of range. Choose a number that is not negative; "
                "0.1 is Visii's."
            )
