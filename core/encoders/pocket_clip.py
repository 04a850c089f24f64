"""The pocket editor's CLIP."""

from typing import TYPE_CHECKING, Any

import torch

from ..models.builtin import POCKET_FOLDER
from ..models.tokenizer import tokenizer_from_folder
from ..models.weights import folder_weights
from .clip import POCKET_NAME, OpenClipModel
from .open_clip_weights import fill_clip, open_clip_names
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_SIZE = 128


def pocket_clip(device: torch.device | str = "cpu") -> OpenClipModel:
    """Loads the pocket editor's text encoder with the image encoder trained alongside it, for 128 px."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    tokenizer: Any = tokenizer_from_folder(POCKET_FOLDER / "tokenizer")
    text = folder_weights(POCKET_FOLDER / "text_encoder", ("model",))
    vision = folder_weights(POCKET_FOLDER / "image_encoder", ("model",))
    weights = open_clip_names(
        {**dict(text.tensors()), **dict(vision.tensors()), "logit_scale": torch.zeros(())}
    )
    length, width = text.shapes["text_model.embeddings.position_embedding.weight"]
    with torch.device("meta"):
        module = CLIP(
            embed_dim=vision.shapes["visual_projection.weight"][0],
            vision_cfg=CLIPVisionCfg(
                layers=3, width=128, head_width=32, mlp_ratio=3.0, patch_size=16, image_size=_SIZE
            ),
            text_cfg=CLIPTextCfg(
                context_length=length, vocab_size=len(tokenizer), width=width, heads=4, layers=3
            ),
            quick_gelu=True,
        )
    fill_clip(module, weights, "pocket CLIP", torch.device(device))
    ends = (int(tokenizer.bos_token_id), int(tokenizer.eos_token_id))
    return OpenClipModel(
        POCKET_NAME, module, Preprocessing((_SIZE, _SIZE)), _PocketTokenizer(tokenizer), ends
    )


class _PocketTokenizer:
    """The pocket tokenizer with the interface of open_clip's."""

    def __init__(self, tokenizer: "CLIPTokenizer") -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
