"""CLIP: images and words in one space. The pocket editor's own, or any open_clip architecture with weights from a local file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..models.builtin import POCKET_FOLDER
from ..errors import ModelError
from ..models.tokenizer import tokenizer_from_folder
from ..models.weights import Weights, fill, fingerprint, folder_weights, read_header

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from transformers import CLIPTokenizer

POCKET_NAME = "pocket"
KNOWN_NAMES = ("ViT-L-14/openai", "ViT-H-14/laion2b_s32b_b79k")
"""What the papers use: the first for directions, the second for phrases and captions."""

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SIMPLE_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}
"""Settings of a plain causal text tower on CLIP's own vocabulary; an architecture with others is refused."""


class ClipModel(Protocol):
    """A frozen CLIP in fp32. Features are not normalised; D is the width of text states, P that of the shared space."""

    @property
    def name(self) -> str:
        """ "pocket", or architecture and weights such as "ViT-L-14/openai"."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits that tell models apart; key of what is cached for one."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs now."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens of the text window, start and end included."""
        ...

    @property
    def token_embedding(self) -> Tensor:
        """[V, D]."""
        ...

    @property
    def text_projection(self) -> Tensor:
        """[D, P]: text states after the final norm into the shared space."""
        ...

    @property
    def start_id(self) -> int:
        """The token a text starts with."""
        ...

    @property
    def end_id(self) -> int:
        """The token a text ends with, where it is pooled."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 of any size -> [B, P]; scaled, cropped and normalised as the model wants them."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """-> [B, P]. What exceeds the window is cut."""
        ...

    def encode_embeddings(self, embeddings: Tensor, end: int) -> Tensor:
        """Token embeddings [B, L, D], start first and the end token at row ``end`` -> [B, P]. Differentiable."""
        ...

    def tokenise(self, text: str) -> list[int]:
        """Token numbers of a text, uncut, without start and end."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""
        ...


class ImageEncoder(Protocol):
    """What :func:`image_features` needs of a model."""

    def encode_images(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 of any size -> [B, P]."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """How images are made ready, after open_clip's ``PreprocessCfg``."""

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _DEVIATION
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    resize: int | None = None
    """What the shorter side is scaled to before the crop to ``size``; None: to ``size`` itself."""

    def __call__(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 -> [B, 3, h, w], normalised. Scaled with antialiasing and clipped to 0..1, as PIL does it.

        Raises:
            ModelError: not [B, H, W, 3].
        """
        if images.ndim != 4 or images.shape[3] != 3 or not images.numel():
            raise ModelError(
                f"CLIP: images of shape {tuple(images.shape)} do not fit; [batch, height, width, 3] is needed."
            )
        pixels = images.movedim(3, 1).float()
        height, width = self.size
        if self.resize_mode == "squash":
            scaled = (height, width)
        else:
            # As torchvision's Resize does it: the shorter side exact, the longer one rounded down.
            rows, columns = pixels.shape[2:]
            short, side = min(rows, columns), self.resize or height
            scaled = (side * rows // short, side * columns // short)
        if scaled != tuple(pixels.shape[2:]):
            pixels = functional.interpolate(pixels, scaled, mode=self.interpolation, antialias=True).clamp(
                0, 1
            )
        top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
        pixels = pixels[:, :, top : top + height, left : left + width]
        mean, std = (
            torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        return (pixels - mean) / std


class OpenClipModel:
    """An open_clip model behind :class:`ClipModel`.

    Args:
        name: see :class:`ClipModel`.
        module: open_clip's ``CLIP`` with a plain causal text tower, frozen.
        preprocessing: of its images.
        tokenizer: with ``encode`` and ``decode`` as open_clip's ``SimpleTokenizer``.
        ends: the start and the end token.
    """

    def __init__(
        self, name: str, module: "CLIP", preprocessing: Preprocessing, tokenizer: Any, ends: tuple[int, int]
    ) -> None:
        self.name, self.module, self.preprocessing = name, module.eval().requires_grad_(False), preprocessing
        self._towers: Any = module
        self.start_id, self.end_id = ends
        self._tokenizer = tokenizer
        self.fingerprint = fingerprint(module.state_dict())

    @property
    def device(self) -> torch.device:
        """Where it runs now."""
        return self.token_embedding.device

    @property
    def context_length(self) -> int:
        """Tokens of the text window, start and end included."""
        return int(self._towers.positional_embedding.shape[0])

    @property
    def token_embedding(self) -> Tensor:
        """[V, D]."""
        return self._towers.token_embedding.weight

    @property
    def text_projection(self) -> Tensor:
        """[D, P]."""
        return self._towers.text_projection

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 -> [B, P], not normalised.

        Raises:
            ModelError: not [B, H, W, 3].
        """
        return self._towers.visual(self.preprocessing(images.to(self.device)))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """-> [B, P], not normalised. What exceeds the window is cut."""
        rows = [
            [self.start_id, *self.tokenise(text)[: self.context_length - 2], self.end_id] for text in texts
        ]
        ends = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        # The tower is causal: what comes after the end of the longest text need not be computed.
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        return self._pooled(self._towers.token_embedding(ids), ends)

    def encode_embeddings(self, embeddings: Tensor, end: int) -> Tensor:
        """Token embeddings [B, L, D], start first and the end token at row ``end`` -> [B, P]. Differentiable in ``embeddings``."""
        used = embeddings[:, : end + 1]
        return self._pooled(used, torch.full((len(used),), end, device=used.device))

    def tokenise(self, text: str) -> list[int]:
        """Token numbers of a text, uncut, without start and end."""
        return list(self._tokenizer.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return " ".join(str(self._tokenizer.decode(list(ids))).split())

    def _pooled(self, embeddings: Tensor, ends: Tensor) -> Tensor:
        length = embeddings.shape[1]
        towers = self._towers
        states = towers.transformer(
            embeddings + towers.positional_embedding[:length], attn_mask=towers.attn_mask[:length, :length]
        )
        return (
            towers.ln_final(states)[torch.arange(len(states), device=states.device), ends]
            @ self.text_projection
        )


def pocket_clip(device: torch.device | str = "cpu") -> OpenClipModel:
    """The pocket editor's own CLIP: its text encoder with the image tower that was trained beside it, for 128 px."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    tokenizer: Any = tokenizer_from_folder(POCKET_FOLDER / "tokenizer")
    text, vision = (
        folder_weights(POCKET_FOLDER / part, ("model",)) for part in ("text_encoder", "image_encoder")
    )
    states = _open_clip_names(
        {**dict(text.tensors()), **dict(vision.tensors()), "logit_scale": torch.zeros(())}
    )
    length, width = text.shapes["text_model.embeddings.position_embedding.weight"]
    with torch.device("meta"):
        module = CLIP(
            embed_dim=vision.shapes["visual_projection.weight"][0],
            vision_cfg=CLIPVisionCfg(
                layers=3, width=128, head_width=32, mlp_ratio=3.0, patch_size=16, image_size=128
            ),
            text_cfg=CLIPTextCfg(
                context_length=length, vocab_size=len(tokenizer), width=width, heads=4, layers=3
            ),
            quick_gelu=True,
        )
    _fill(module, states, "pocket CLIP", torch.device(device))
    words = _PocketWords(tokenizer)
    return OpenClipModel(
        POCKET_NAME,
        module,
        Preprocessing((128, 128)),
        words,
        (int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)),
    )


def open_clip_model(name: str, pretrained_file: Path, device: torch.device | str = "cpu") -> OpenClipModel:
    """An open_clip model by its name, with weights from a local file. No network is used.

    Args:
        name: architecture and weights as open_clip lists them, such as ``ViT-L-14/openai``; the weights decide about QuickGELU and preprocessing.
        pretrained_file: ``.safetensors`` in the layout of open_clip or of transformers' ``CLIPModel``.
        device: where it shall run.

    Raises:
        ModelError: an unknown architecture or one that is not a plain CLIP, a missing, damaged or pickled file, weights of another shape.
    """
    import open_clip
    from open_clip.model import CLIP
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.tokenizer import SimpleTokenizer

    architecture, tag = _parts(name)
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ModelError(
            f"CLIP '{name}': open_clip knows no architecture '{architecture}'. Names are like {KNOWN_NAMES[0]}: architecture/weights."
        )
    if (
        config.get("custom_text")
        or set(config["text_cfg"]) - _SIMPLE_TEXT
        or "siglip" in architecture.lower()
    ):
        raise ModelError(
            f"CLIP '{name}': {architecture} has a text encoder of its own kind, which is not supported. Choose a plain CLIP such as {KNOWN_NAMES[0]}."
        )
    chosen = get_pretrained_cfg(architecture, tag)
    weights = Weights([read_header(pretrained_file)])
    with torch.device("meta"):
        module = CLIP(
            config["embed_dim"],
            config["vision_cfg"],
            config["text_cfg"],
            bool(config.get("quick_gelu") or chosen.get("quick_gelu")),
        )
    size: Any = module.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    # What is neither in a file nor known here could not be filled in.
    unknown = {key for key, _ in module.named_buffers()} - set(module.state_dict()) - {"attn_mask"}
    if unknown or height != width or chosen.get("resize_mode") == "longest":
        raise ModelError(
            f"CLIP '{name}': the image encoder of {architecture} is of a kind that is not supported. Choose another such as {KNOWN_NAMES[0]}."
        )
    named = dict(weights.tensors())
    if "text_model.embeddings.token_embedding.weight" in named:
        try:
            named = _open_clip_names(named)
        except RuntimeError as error:
            raise ModelError(
                f"{pretrained_file.name}: its weights do not fit each other ({error}). The file is damaged or of another kind."
            ) from error
    _fill(module, named, f"{pretrained_file.name} as {architecture}", torch.device(device))
    known = {key: chosen[key] for key in ("mean", "std", "interpolation", "resize_mode") if chosen.get(key)}
    tokenizer = SimpleTokenizer(context_length=int(module.context_length))
    return OpenClipModel(
        name,
        module,
        Preprocessing((height, width), **known),
        tokenizer,
        (tokenizer.sot_token_id, tokenizer.eot_token_id),
    )


def load_clip(
    name: str | None = None, folder: Path | None = None, device: torch.device | str = "cpu"
) -> OpenClipModel:
    """A CLIP by name.

    Args:
        name: ``None`` or ``pocket``: the pocket editor's; otherwise as in :func:`open_clip_model`.
        folder: where :func:`clip_file` looks for the weights.
        device: where it shall run.

    Raises:
        ModelError: as :func:`open_clip_model`; where no file is there, it says which one belongs where.
    """
    if name is None or name == POCKET_NAME:
        return pocket_clip(device)
    return open_clip_model(name, clip_file(name, folder), device)


@torch.no_grad()
def image_features(model: ImageEncoder, images: Iterable[Tensor]) -> Tensor:
    """Features of length 1 of images [H, W, 3] in 0..1, fp32 [N, P] on the model's device. They may differ in size: one at a time is encoded."""
    return torch.cat(
        [functional.normalize(model.encode_images(image[None]).float(), dim=-1) for image in images]
    )


@torch.no_grad()
def text_features(clip: ClipModel, texts: Sequence[str]) -> Tensor:
    """Features of length 1 of texts, fp32 [N, P] on the model's device."""
    return functional.normalize(clip.encode_texts(texts).float(), dim=-1)


def clip_file(name: str, folder: Path | None) -> Path:
    """Where the weights of a named model lie: ``ViT-L-14-openai.safetensors`` for ``ViT-L-14/openai``.

    Raises:
        ModelError: it is not there; the message says what to put there.
    """
    architecture, tag = _parts(name)
    wanted = f"{architecture}-{tag}.safetensors"
    if folder is None:
        raise ModelError(
            f"CLIP '{name}': no folder was given to look for {wanted} in. Give one, or use the pocket CLIP."
        )
    path = Path(folder) / wanted
    if not path.is_file():
        raise ModelError(
            f"CLIP '{name}': {wanted} is not in {folder}. Put the model's .safetensors file (open_clip's, or the model.safetensors of transformers) there "
            "under this name, or choose the pocket CLIP. Nothing is downloaded by itself."
        )
    return path


def clip_names(folder: Path) -> list[str]:
    """Names of the models whose files lie in a folder, for :func:`load_clip`. Files of other names are passed over."""
    spec = find_spec("open_clip")
    # Without importing open_clip, which takes seconds.
    configs = (
        Path(spec.submodule_search_locations[0]) / "model_configs"
        if spec and spec.submodule_search_locations
        else None
    )
    architectures = (
        sorted((path.stem for path in configs.glob("*.json")), key=len, reverse=True) if configs else []
    )
    stems = [path.stem for path in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []
    found = (
        (stem, next((known for known in architectures if stem.startswith(f"{known}-")), None))
        for stem in stems
    )
    return [f"{architecture}/{stem[len(architecture) + 1 :]}" for stem, architecture in found if architecture]


class _PocketWords:
    """The pocket tokenizer with the two functions of open_clip's."""

    def __init__(self, tokenizer: "CLIPTokenizer") -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _parts(name: str) -> tuple[str, str]:
    architecture, _, tag = name.partition("/")
    if not re.fullmatch(r"[\w.-]+", architecture) or not re.fullmatch(r"[\w.-]+", tag):
        raise ModelError(
            f"CLIP '{name}': a name is architecture/weights, such as {KNOWN_NAMES[0]}, or pocket."
        )
    return architecture, tag


def _fill(module: "CLIP", states: Mapping[str, Tensor], part: str, device: torch.device) -> None:
    fill(module, states, part, device, torch.float32)
    length = module.context_length
    module.attn_mask = torch.full((length, length), float("-inf"), device=device).triu_(1)


_RENAMED = (
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
)


def _open_clip_names(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a transformers ``CLIPModel`` under open_clip's names: projections transposed, q, k and v in one."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in states.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.T if name in ("text_projection", "visual.proj") else tensor
    for name in [name for name in renamed if ".attn.q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj."), None) for part in "qkv"]
        # One that is missing is reported under the name of the whole.
        if all(part is not None for part in parts):
            renamed[name.replace(".q_proj.", ".in_proj_")] = torch.cat(
                [part for part in parts if part is not None]
            )
    return renamed
