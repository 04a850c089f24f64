"""Methods that edit items: the instruction in words, a learned one, or one from a vision-language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ...diffusion.region_blending import Region
from ...editing.settings import SamplingSettings
from ...errors import EvaluationError
from ...instruction.injection import Injection
from ...reasoning.connector import Connector
from ..metrics import quantized
from .items import Item, Turn, editor_input
from .mllm_cache import CachedMllm

if TYPE_CHECKING:
    from ...editing.editor import DiffusersEditor

GRAY = 0.5
"""Value of the plain image that ``encode_blind`` shows to the vision-language model."""

# The noise seed of turn t is _SEED_STEP * (seed + 1) + t, so the noise of two seeds never overlaps.
_SEED_STEP = 1_000_003
_CACHED_TEXTS = 8


@dataclass(frozen=True)
class ItemEditor:
    """The models that edit items, with their settings. Loaded once in every process."""

    editor: DiffusersEditor
    sampling: SamplingSettings
    """How edits are sampled; the seed is set for each edit."""
    side: int | None
    """Pixels of the longer side of edited images, see ``editor_input``."""
    learned: Injection | None = None
    """The learned instruction, for the method ``instruction``."""
    mllm: CachedMllm | None = None
    """The vision-language model, for methods that explain or encode."""
    encoding: EncodingEditor | None = None
    """For methods that encode."""
    learned_scales: tuple[float, float] | None = None
    """The learned instruction's own guidance scales, see ``own_scales``."""
    _texts: dict[str, Tensor] = field(default_factory=dict)

    def text(self, words: str) -> Tensor:
        """Returns the text states of the words, [L, D]. Caches the last few texts."""
        if words not in self._texts:
            while len(self._texts) >= _CACHED_TEXTS:
                self._texts.pop(next(iter(self._texts)))
            self._texts[words] = self.editor.encode_text([words])[0]
        return self._texts[words]

    def sample(
        self, image: Tensor, instruction: Tensor | Injection, seed: int, mask: Tensor | None = None
    ) -> Tensor:
        """Edits an image and returns 8-bit values in 0..1.

        Args:
            image: [H, W, 3] as from ``editor_input``.
            instruction: text states [L, D], or a learned instruction.
            seed: seed of the noise.
            mask: [H, W]; keeps the edit inside this region.
        """
        region = None
        editor_mask = None
        if mask is not None:
            source = self.editor.scale(self.editor.encode_images(image[None]))
            latent_mask = functional.interpolate(
                mask[None, None], source.shape[2:], mode="bilinear", antialias=True
            )
            region = Region(latent_mask, source)
            if self.editor.description.reads_mask and mask.any():
                editor_mask = mask
        own = self.learned_scales if instruction is self.learned else None
        sampling = self.sampling.with_scales_for(self.editor.description.family, own)
        sampling = replace(sampling, seed=seed)
        return quantized(self.editor.edit(image[None], instruction, sampling, region, editor_mask))[0]

    def edit(self, item: Item, method: ItemMethod, seed: int) -> tuple[Tensor, ...]:
        """Returns the edited images of an item in the order of ``Item.turn_of``.

        The noise depends only on seed and turn. So an edit of a turn's own source and an edit of the output
        before it differ only in their input.
        """
        seeds = [_SEED_STEP * (seed + 1) + turn for turn in range(len(item.turns))]
        from_sources = [
            method.edit(self, turn, editor_input(turn.source, self.side), seeds[index])
            for index, turn in enumerate(item.turns)
        ]
        chain = from_sources[:1]
        for index, turn in enumerate(item.turns[1:], start=1):
            chain.append(method.edit(self, turn, editor_input(chain[-1], self.side), seeds[index]))
        return (*from_sources, *chain[1:])


@dataclass(frozen=True)
class EncodingEditor:
    """Edits by the states that a vision-language model has of image and words (ReasonPix2Pix)."""

    mllm: CachedMllm
    connector: Connector
    tuned: ItemEditor
    """The editor that was fine-tuned with the connector."""

    def sample(self, words: str, image: Tensor, shown: Tensor, seed: int) -> Tensor:
        """Edits an image [H, W, 3] as from ``editor_input``. The vision-language model sees ``shown``."""
        states, mask = self.mllm.states(shown, words, self.connector.config.task)
        context = self.connector.encode(self.tuned.text(words)[None], states, mask)[0]
        return self.tuned.sample(image, context, seed)


@dataclass(frozen=True)
class ItemMethod:
    """A method that the tables compare."""

    name: str
    title: str
    """Name in the papers."""
    text: str
    """One line for the reader of the report."""
    edit: Callable[[ItemEditor, Turn, Tensor, int], Tensor]
    """(editor, turn, image as from ``editor_input``, noise seed) -> edited image.

    The turn's mask has the size of its source.
    """
    needs_mllm: bool = False
    """Whether it needs the vision-language model."""
    needs_encoding: bool = False
    """Whether it also needs the connector and the fine-tuned editor."""


def _words(editor: ItemEditor, turn: Turn, image: Tensor, seed: int) -> Tensor:
    return editor.sample(image, editor.text(turn.words), seed)


def _region(editor: ItemEditor, turn: Turn, image: Tensor, seed: int) -> Tensor:
    mask = None
    if turn.mask is not None:
        mask = editor_input(turn.mask[..., None].expand(-1, -1, 3), editor.side)[..., 0]
    return editor.sample(image, editor.text(turn.words), seed, mask)


def _instruction(editor: ItemEditor, turn: Turn, image: Tensor, seed: int) -> Tensor:
    if editor.learned is None:
        raise EvaluationError(
            "Benchmark: the method 'instruction' needs a learned instruction. Add --instruction FILE."
        )
    return editor.sample(image, editor.learned, seed)


def _explain(editor: ItemEditor, turn: Turn, image: Tensor, seed: int) -> Tensor:
    if editor.mllm is None:
        raise EvaluationError(
            "Benchmark: the method 'explain' needs a vision-language model. Add --mllm FOLDER."
        )
    explanation = editor.mllm.explain_edit(image, turn.words)
    return editor.sample(image, editor.text(explanation.instruction), seed)


def _encode(editor: ItemEditor, turn: Turn, image: Tensor, seed: int) -> Tensor:
    return _encoding(editor).sample(turn.words, image, image, seed)


def _encode_blind(editor: ItemEditor, turn: Turn, image: Tensor, seed: int) -> Tensor:
    return _encoding(editor).sample(turn.words, image, torch.full_like(image, GRAY), seed)


def _encoding(editor: ItemEditor) -> EncodingEditor:
    if editor.encoding is None:
        raise EvaluationError(
            "Benchmark: the method 'encode' needs a connector and the editor that was fine-tuned with it. "
            "Add --connector and --tuned-model."
        )
    return editor.encoding


_ALL = (
    ItemMethod("words", "IP2P", "the editor with the benchmark's words", _words),
    ItemMethod(
        "region",
        "IP2P in the region",
        "the same, limited to the mask of the data (Region Edit); free if there is no mask",
        _region,
    ),
    ItemMethod(
        "instruction",
        "Instruction",
        "the editor with a learned instruction, the same for every item",
        _instruction,
    ),
    ItemMethod(
        "explain",
        "Explain + IP2P",
        "the editor with the instruction that a vision-language model writes for image and words",
        _explain,
        needs_mllm=True,
    ),
    ItemMethod(
        "encode",
        "Encode",
        "the fine-tuned editor with a vision-language model's states of image and words",
        _encode,
        needs_mllm=True,
        needs_encoding=True,
    ),
    ItemMethod(
        "encode_blind",
        "Encode w/o image",
        "the same, but the vision-language model sees a plain gray image",
        _encode_blind,
        needs_mllm=True,
        needs_encoding=True,
    ),
)

ITEM_METHODS: Mapping[str, ItemMethod] = {method.name: method for method in _ALL}
"""Name -> method."""


def title_of(name: str) -> str:
    """The name of a method in tables; a stored method's own."""
    return ITEM_METHODS[name].title if name in ITEM_METHODS else name
