"""CLIP models, which encode images and text into one space."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..models.weights import fingerprint
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    from open_clip.model import CLIP

POCKET_NAME = "pocket"


class ClipModel(Protocol):
    """A frozen CLIP in fp32.

    Features are not normalized. D is the width of text states, P that of the shared space.
    """

    @property
    def name(self) -> str:
        """``pocket``, or architecture and weights such as ``ViT-L-14/openai``."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal hash of the weights, used as the key of cached features."""
        ...

    @property
    def device(self) -> torch.device:
        """The current device."""
        ...

    @property
    def context_length(self) -> int:
        """Number of tokens in the text window, including start and end."""
        ...

    @property
    def token_embedding(self) -> Tensor:
        """[V, D]."""
        ...

    @property
    def text_projection(self) -> Tensor:
        """[D, P], from text states after the final norm to the shared space."""
        ...

    @property
    def start_id(self) -> int:
        """The first token of a text."""
        ...

    @property
    def end_id(self) -> int:
        """The last token of a text, where its states are pooled."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Preprocesses and encodes images [B, H, W, 3] in 0..1 of any size as [B, P]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encodes texts as [B, P]. Tokens beyond the text window are cut off."""
        ...

    def encode_embeddings(self, embeddings: Tensor, end: int) -> Tensor:
        """Encodes token embeddings [B, L, D] as [B, P], differentiably.

        The start token is in row 0, the end token in row ``end``.
        """
        ...

    def tokenize(self, text: str) -> list[int]:
        """Returns all token ids of a text, without start and end."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        ...


class ImageEncoder(Protocol):
    """The part of a model that ``image_features`` needs."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images [B, H, W, 3] in 0..1 of any size as [B, P]."""
        ...


class OpenClipModel:
    """A ``ClipModel`` made of an open_clip model.

    Args:
        name: see ``ClipModel``.
        module: open_clip's ``CLIP`` with a plain causal text encoder. It is frozen.
        preprocessing: prepares its images.
        tokenizer: an object with ``encode`` and ``decode`` like open_clip's ``SimpleTokenizer``.
        ends: the start and the end token.
    """

    def __init__(
        self, name: str, module: "CLIP", preprocessing: Preprocessing, tokenizer: Any, ends: tuple[int, int]
    ) -> None:
        self.name = name
        self.module = module.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        # Untyped: open_clip declares its parts as optional or as tensors.
        self._clip: Any = module
        self.start_id, self.end_id = ends
        self._tokenizer = tokenizer
        self.fingerprint = fingerprint(module.state_dict())

    @property
    def device(self) -> torch.device:
        """The current device."""
        return self.token_embedding.device

    @property
    def context_length(self) -> int:
        """Number of tokens in the text window, including start and end."""
        return int(self._clip.positional_embedding.shape[0])

    @property
    def token_embedding(self) -> Tensor:
        """[V, D]."""
        return self._clip.token_embedding.weight

    @property
    def text_projection(self) -> Tensor:
        """[D, P]."""
        return self._clip.text_projection

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images [B, H, W, 3] in 0..1 as [B, P], not normalized.

        Raises:
            ModelError: the images are not [B, H, W, 3].
        """
        return self._clip.visual(self.preprocessing(images.cpu()).to(self.device))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encodes texts as [B, P], not normalized. Tokens beyond the text window are cut off."""
        rows = [
            [self.start_id, *self.tokenize(text)[: self.context_length - 2], self.end_id] for text in texts
        ]
        ends = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        # The text encoder is causal, so positions after the longest text need not be computed.
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        return self._pooled(self._clip.token_embedding(ids), ends)

    def encode_embeddings(self, embeddings: Tensor, end: int) -> Tensor:
        """Encodes token embeddings [B, L, D] as [B, P], differentiably. See ``ClipModel``."""
        used = embeddings[:, : end + 1]
        return self._pooled(used, torch.full((len(used),), end, device=used.device))

    def tokenize(self, text: str) -> list[int]:
        """Returns all token ids of a text, without start and end."""
        return list(self._tokenizer.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        return " ".join(str(self._tokenizer.decode(list(ids))).split())

    def _pooled(self, embeddings: Tensor, ends: Tensor) -> Tensor:
        clip = self._clip
        length = embeddings.shape[1]
        positioned = embeddings + clip.positional_embedding[:length]
        states = clip.transformer(positioned, attn_mask=clip.attn_mask[:length, :length])
        rows = torch.arange(len(states), device=states.device)
        return clip.ln_final(states)[rows, ends] @ self.text_projection


@torch.no_grad()
def image_features(model: ImageEncoder, images: Iterable[Tensor]) -> Tensor:
    """Returns normalized features of images [H, W, 3] in 0..1 as fp32 [N, P] on the model's device.

    Encodes one image at a time, so that sizes may differ.
    """
    return torch.cat(
        [functional.normalize(model.encode_images(image[None]).float(), dim=-1) for image in images]
    )


@torch.no_grad()
def text_features(clip: ClipModel, texts: Sequence[str]) -> Tensor:
    """Returns normalized features of texts as fp32 [N, P] on the model's device."""
    return functional.normalize(clip.encode_texts(texts).float(), dim=-1)
