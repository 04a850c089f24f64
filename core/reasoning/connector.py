"""The connector: turns an MLLM's states into text states for an editor, added to those of the words.

LayerNorm and a linear layer project the MLLM's states to the width of the text encoder. Learned queries, one
for each row of the text window, read them through pre-norm decoder layers. LayerNorm and a zero-initialized
linear layer give the change of the text states. So an untrained connector changes nothing. The empty
instruction, Eq. 3's null branch, never passes through the connector.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..encoders.mllm_chat import STATES_TASK
from ..errors import ModelError
from ..models.families import Family
from ..models.weights import Weights, fill, fingerprint, read_header
from ..storage.files import write_tensors
from ..storage.json_text import parse_json, read_record

FORMAT_VERSION = 1
_VERSION_KEY = "instructbrush.connector"
_INFO_KEY = "instructbrush.info"
_MOST_BYTES = 8 * 2**30
_LIMITS = {
    "text_width": 65536,
    "mllm_width": 65536,
    "queries": 4096,
    "layers": 64,
    "heads": 1024,
    "feedforward": 2**18,
}
# Model family -> shape, where it differs from Stable Diffusion 1.5's.
_SHAPES = {
    "pocket": {"queries": 32, "layers": 3, "heads": 4, "feedforward": 512},
    "sd21": {"heads": 16, "feedforward": 4096},
}
# Small tensors that identify a CLIP text encoder.
_IDENTIFYING_TENSORS = re.compile(
    r"(?:^|\.)(embeddings\.position_embedding\.weight|final_layer_norm\.(?:weight|bias))$"
)


@dataclass(frozen=True)
class ConnectorConfig:
    """Shape of a connector, and the models it was trained with. Defaults fit Stable Diffusion 1.5.

    Attributes:
        family: model family of the editor.
        text_width: W, channels of the text states.
        mllm_width: D, channels of the MLLM's states.
        queries: rows of the text window.
        layers, heads, feedforward: shape of the decoder.
        text_fingerprint: ``text_fingerprint`` of the text encoder, or empty.
        mllm_name, mllm_fingerprint: name and fingerprint of the MLLM, or empty.
        task: text in front of the words when the MLLM's states were computed.
    """

    family: str
    text_width: int
    mllm_width: int
    queries: int = 77
    layers: int = 6
    heads: int = 12
    feedforward: int = 3072
    text_fingerprint: str = ""
    mllm_name: str = ""
    mllm_fingerprint: str = ""
    task: str = STATES_TASK

    def __post_init__(self) -> None:
        for name, most in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ModelError(
                    f"Connector: {name} is {value!r}; a whole number from 1 to {most} is needed."
                )
        if self.text_width % self.heads:
            raise ModelError(
                f"Connector: {self.heads} heads do not divide a width of {self.text_width}. "
                "Choose another number of heads."
            )
        for field in ("family", "text_fingerprint", "mllm_name", "mllm_fingerprint", "task"):
            if not isinstance(getattr(self, field), str):
                raise ModelError(f"Connector: {field} is {getattr(self, field)!r}; a text is needed.")


class Connector(nn.Module):
    """The network. New weights are random, except those of the last layer, which are zero."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width
        self.norm_in = nn.LayerNorm(config.mllm_width)
        self.project_in = nn.Linear(config.mllm_width, width)
        # All weights are in submodules, because ComfyUI loads those, and not the connector itself.
        self.queries = nn.Embedding(config.queries, width)
        self.layers = nn.ModuleList(
            _Layer(width, config.heads, config.feedforward) for _ in range(config.layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, width)
        nn.init.normal_(self.queries.weight, std=0.02)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.queries.weight.device

    def forward(self, text_states: Tensor, mllm_states: Tensor, mask: Tensor) -> Tensor:
        """Adds what the MLLM read to text states. Differentiable.

        Args:
            text_states: text states of the instruction [B, L, W], L >= queries. Rows after the queries
                (further windows of long texts) stay unchanged.
            mllm_states: [B, S, D].
            mask: bool [B, S], true for real states; at least one in every row.

        Returns:
            Text states [B, L, W] in the dtype of ``text_states``.
        """
        memory = self.project_in(self.norm_in(mllm_states.to(self.queries.weight.dtype)))
        attended = mask[:, None, None, :]
        rows = self.queries.weight.expand(len(memory), -1, -1)
        for layer in self.layers:
            rows = layer(rows, memory, attended)
        change = self.project_out(self.norm_out(rows))
        count = self.config.queries
        changed = (text_states[:, :count].float() + change.float()).to(text_states.dtype)
        if text_states.shape[1] == count:
            return changed
        return torch.cat([changed, text_states[:, count:]], dim=1)

    @torch.no_grad()
    def encode(self, text_states: Tensor, mllm_states: Tensor, mask: Tensor) -> Tensor:
        """Checks shapes, runs ``forward`` on the connector's device, and returns to the text states' device.

        Args:
            text_states: [B, L, W], or [1, L, W] for the same words with every image.
            mllm_states, mask: see ``forward``.

        Raises:
            ModelError: shapes do not fit each other or the connector.
        """
        config = self.config
        if (
            text_states.ndim != 3
            or text_states.shape[2] != config.text_width
            or text_states.shape[1] < config.queries
        ):
            raise ModelError(
                f"Connector: text states of shape {list(text_states.shape)} do not fit; "
                f"[batch, {config.queries} or more, {config.text_width}] is needed. "
                f"Use the text encoder of the model it was trained with ({config.family})."
            )
        if mllm_states.ndim != 3 or mllm_states.shape[2] != config.mllm_width:
            raise ModelError(
                f"Connector: MLLM states of shape {list(mllm_states.shape)} do not fit; "
                f"[batch, positions, {config.mllm_width}] is needed. "
                f"Use the MLLM it was trained with ({config.mllm_name or 'not named'})."
            )
        if mask.shape != mllm_states.shape[:2] or not mask.any(1).all():
            raise ModelError(
                f"Connector: a mask of shape {list(mask.shape)} does not fit {list(mllm_states.shape)}, "
                "or leaves nothing to read of an image."
            )
        if len(text_states) not in (1, len(mllm_states)):
            raise ModelError(
                f"Connector: {len(text_states)} texts and {len(mllm_states)} images do not make pairs. "
                "Give one text, or one for each image."
            )
        text = text_states.expand(len(mllm_states), -1, -1).to(self.device)
        return self(text, mllm_states.to(self.device), mask.to(self.device).bool()).to(text_states.device)

    def check_fits(
        self, mllm_width: int, mllm_name: str, mllm_fingerprint: str, text_width: int, text_fingerprint: str
    ) -> list[str]:
        """Checks that the connector can be used between an MLLM and a text encoder.

        Returns:
            Warnings for the user if they have the right widths but are not those it was trained with.

        Raises:
            ModelError: a width differs.
        """
        config = self.config
        if mllm_width != config.mllm_width:
            raise ModelError(
                f"Encode Instruction: '{mllm_name}' has states {mllm_width} wide, the connector was trained "
                f"with {config.mllm_name or 'an MLLM'} ({config.mllm_width}). Load that MLLM, or a connector "
                "for this one."
            )
        if text_width != config.text_width:
            raise ModelError(
                f"Encode Instruction: CLIP gives text states {text_width} wide, the connector was trained "
                f"for {config.text_width} ({config.family}). Connect the CLIP of the model that the "
                "connector belongs to."
            )
        different = []
        if config.mllm_fingerprint and mllm_fingerprint != config.mllm_fingerprint:
            different.append(f"another MLLM ({config.mllm_name})")
        if config.text_fingerprint and text_fingerprint != config.text_fingerprint:
            different.append("another CLIP")
        return [
            f"The connector was trained with {model} than the one that is connected; results may be worse."
            for model in different
        ]


class _Attention(nn.Module):
    """Multi-head attention from rows to memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, rows: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self._split_heads(self.to_q(rows))
        k = self._split_heads(self.to_k(memory))
        v = self._split_heads(self.to_v(memory))
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, states: Tensor) -> Tensor:
        """[B, L, W] -> [B, heads, L, W / heads]."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class _Layer(nn.Module):
    """A pre-norm decoder layer."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.self_attention = _Attention(width, heads)
        self.cross_attention = _Attention(width, heads)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width)
        )

    def forward(self, rows: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm_self(rows)
        rows = rows + self.self_attention(normed, normed)
        rows = rows + self.cross_attention(self.norm_cross(rows), memory, mask)
        return rows + self.feedforward(self.norm_feedforward(rows))


def config_for(family: Family, mllm_width: int, **fields: Any) -> ConnectorConfig:
    """Returns the default shape for a model family. ``fields`` override or add fields of the config."""
    fields = {**_SHAPES.get(family.name, {}), **fields}
    return ConnectorConfig(family.name, family.context_width, mllm_width, **fields)


def new_connector(config: ConnectorConfig, seed: int = 0) -> Connector:
    """Returns an untrained connector. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Connector(config)


def text_fingerprint(states: Mapping[str, Tensor]) -> str:
    """Returns the fingerprint of a CLIP text encoder's weights, or "" for another model.

    It is the same for diffusers' and ComfyUI's names, in full and half precision.
    """
    identifying: dict[str, Tensor] = {}
    for name, tensor in sorted(states.items()):
        match = _IDENTIFYING_TENSORS.search(name)
        if match:
            identifying.setdefault(match.group(1), tensor)
    return fingerprint(identifying) if identifying else ""


def save_connector(connector: Connector, path: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a connector file atomically. Replaces an older file.

    Raises:
        ModelError: the name does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"Connector: '{path.name}' must end in .safetensors.")
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in connector.state_dict().items()
    }
    write_tensors(
        tensors,
        path,
        {_VERSION_KEY: str(FORMAT_VERSION), _INFO_KEY: json.dumps(dataclasses.asdict(connector.config))},
    )
    return path


def read_connector_config(path: str | Path) -> ConnectorConfig:
    """Reads the header of a connector file and checks its tensors' names, shapes and sizes. Reads no tensor.

    Raises:
        ModelError: the file is missing, damaged, cut short, not a connector or of a newer format, or its
            tensors do not match its header.
    """
    path = Path(path)
    header = read_header(path)
    if path.stat().st_size > _MOST_BYTES:
        raise ModelError(f"{path.name}: {path.stat().st_size / 2**30:.0f} GB is too large for a connector.")
    version = header.metadata.get(_VERSION_KEY)
    info = header.metadata.get(_INFO_KEY)
    if version is None or info is None:
        raise ModelError(
            f"{path.name} is a safetensors file but not a connector. "
            "Choose one that 'python -m instructbrush reason train' wrote."
        )
    if version != str(FORMAT_VERSION):
        raise ModelError(
            f"{path.name}: its format is {version[:20]}; this version reads up to {FORMAT_VERSION}. "
            "Update InstructBrush."
        )
    try:
        config = read_record(ConnectorConfig, parse_json(info))
    except ValueError as error:
        raise ModelError(f"{path.name}: its header is damaged ({error}). Copy it again.") from error
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Connector(config).state_dict().items()}
    different = sorted(set(expected) ^ set(header.shapes))
    if different:
        raise ModelError(
            f"{path.name}: unexpected or missing tensor '{different[0][:80]}'. "
            "The file was not written by InstructBrush. Choose another file."
        )
    for name, shape in expected.items():
        if header.shapes[name] != shape:
            raise ModelError(
                f"{path.name}: tensor '{name}' is {list(header.shapes[name])}, its header says "
                f"{list(shape)}. The file is damaged."
            )
    return config


def load_connector(path: str | Path, device: torch.device | str = "cpu") -> Connector:
    """Reads a connector file. The connector is frozen and in fp32.

    Raises:
        ModelError: see ``read_connector_config``; also if a value is not finite.
    """
    path = Path(path)
    config = read_connector_config(path)
    with torch.device("meta"):
        connector = Connector(config)
    tensors = dict(Weights([read_header(path)]).tensors())
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ModelError(
                f"{path.name}: tensor '{name}' holds values that are not finite numbers. The file is damaged."
            )
    fill(connector, tensors, path.name, torch.device(device), torch.float32)
    return connector.eval().requires_grad_(False)
