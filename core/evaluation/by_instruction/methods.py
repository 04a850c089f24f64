"""What edits the items of a benchmark without training pairs: the instruction in words, what a vision-language model makes of it, or one learned before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from ...diffusion.region_blending import Region
from ...errors import EvaluationError
from ...instruction.injection import Injection
from ...reasoning.connector import Connector
from ..by_example.methods import Workbench
from ..metrics import quantised
from .items import Item, Turn, prepared
from .mllm_cache import CachedMllm

_SEED = 1_000_003
"""Keeps the noise of images apart from seed to seed."""
GREY = 0.5
"""What a vision-language model is shown instead of the image."""


@dataclass(frozen=True)
class ItemBench:
    """The models of a run on items, loaded once in every process, and how they are used."""

    bench: Workbench
    side: int | None
    """Pixels of the longer side that is edited; see :func:`~.items.prepared`."""
    learned: Injection | None = None
    """The instruction of ``--instruction``."""
    reading: CachedMllm | None = None
    """The vision-language model of ``--mllm``."""
    encoding: Encoding | None = None
    """What edits by the states of that model."""
    _texts: dict[str, Tensor] = field(default_factory=dict)

    def text(self, words: str) -> Tensor:
        """Text states of some words, [L, D]; those of the last few are kept."""
        if words not in self._texts:
            while len(self._texts) >= 8:
                self._texts.pop(next(iter(self._texts)))
            self._texts[words] = self.bench.editor.encode_text([words])[0]
        return self._texts[words]

    def sample(
        self,
        image: Tensor,
        instruction: Tensor | Injection,
        seed: int,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Edit one prepared image [H, W, 3], kept to a mask [H, W] where one is given; 8-bit values in 0..1 come back."""
        editor = self.bench.editor
        region, given = None, None
        if mask is not None:
            source = editor.scale(editor.encode_images(image[None]))
            region = Region(
                functional.interpolate(mask[None, None], source.shape[2:], mode="bilinear", antialias=True),
                source,
            )
            given = mask if editor.description.reads_mask and mask.any() else None
        sampling = replace(self.bench.sampling, seed=seed)
        return quantised(editor.edit(image[None], instruction, sampling, region, given))[0]

    def edit(self, item: Item, method: ItemMethod, seed: int) -> tuple[Tensor, ...]:
        """What a method makes of an item, in the order of :meth:`~.items.Item.turn_of`.

        The noise depends on seed and turn alone, so a turn from the data's own source and the same turn from an earlier output differ by their
        input only.
        """
        noise = [_SEED * (seed + 1) + number for number in range(len(item.turns))]
        alone = [
            method.edit(self, turn, prepared(turn.source, self.side), noise[number])
            for number, turn in enumerate(item.turns)
        ]
        chain = alone[:1]
        for number, turn in enumerate(item.turns[1:], start=1):
            chain.append(method.edit(self, turn, prepared(chain[-1], self.side), noise[number]))
        return (*alone, *chain[1:])


@dataclass(frozen=True)
class Encoding:
    """What edits by image and words together (ReasonPix2Pix)."""

    reading: CachedMllm
    connector: Connector
    tuned: ItemBench
    """The editor that was tuned with the connector."""

    def sample(self, words: str, image: Tensor, shown: Tensor, seed: int) -> Tensor:
        """Edit a prepared image [H, W, 3]; ``shown`` is what the vision-language model sees."""
        states, mask = self.reading.states(shown, words, self.connector.config.task)
        return self.tuned.sample(
            image, self.connector.encode(self.tuned.text(words)[None], states, mask)[0], seed
        )


@dataclass(frozen=True)
class ItemMethod:
    """A row of the tables."""

    name: str
    title: str
    """What the papers call it."""
    text: str
    """One line for a reader of the report."""
    edit: Callable[[ItemBench, Turn, Tensor, int], Tensor]
    """From a turn, the prepared image it begins from and the noise's seed; the turn's mask is of its source's own size."""
    reads: bool = False
    """Whether it takes the vision-language model."""
    encodes: bool = False
    """Whether it also takes the connector and the tuned editor."""


def _words(bench: ItemBench, turn: Turn, image: Tensor, seed: int) -> Tensor:
    return bench.sample(image, bench.text(turn.words), seed)


def _region(bench: ItemBench, turn: Turn, image: Tensor, seed: int) -> Tensor:
    mask = None if turn.mask is None else prepared(turn.mask[..., None].expand(-1, -1, 3), bench.side)[..., 0]
    return bench.sample(image, bench.text(turn.words), seed, mask)


def _instruction(bench: ItemBench, turn: Turn, image: Tensor, seed: int) -> Tensor:
    if bench.learned is None:
        raise EvaluationError(
            "Benchmark: the method 'instruction' needs a learned instruction. Add --instruction FILE."
        )
    return bench.sample(image, bench.learned, seed)


def _explain(bench: ItemBench, turn: Turn, image: Tensor, seed: int) -> Tensor:
    if bench.reading is None:
        raise EvaluationError(
            "Benchmark: the method 'explain' needs a vision-language model. Add --mllm FOLDER."
        )
    return bench.sample(image, bench.text(bench.reading.explained(image, turn.words).instruction), seed)


def _encode(bench: ItemBench, turn: Turn, image: Tensor, seed: int) -> Tensor:
    return _encoding(bench).sample(turn.words, image, image, seed)


def _encode_blind(bench: ItemBench, turn: Turn, image: Tensor, seed: int) -> Tensor:
    return _encoding(bench).sample(turn.words, image, torch.full_like(image, GREY), seed)


def _encoding(bench: ItemBench) -> Encoding:
    if bench.encoding is None:
        raise EvaluationError(
            "Benchmark: the method 'encode' needs a connector and the editor that was tuned with it. Add --connector and --tuned-model."
        )
    return bench.encoding


_ALL = (
    ItemMethod("words", "IP2P", "the editor with the benchmark's words", _words),
    ItemMethod(
        "region",
        "IP2P in the region",
        "the same, kept to the data's own mask (Region Edit); free where there is none",
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
        "the editor with what a vision-language model makes of image and words",
        _explain,
        reads=True,
    ),
    ItemMethod(
        "encode",
        "Encode",
        "the tuned editor with a vision-language model's states of image and words",
        _encode,
        reads=True,
        encodes=True,
    ),
    ItemMethod(
        "encode_blind",
        "Encode w/o image",
        "the same, but the model is shown plain grey",
        _encode_blind,
        reads=True,
        encodes=True,
    ),
)

ITEM_METHODS: Mapping[str, ItemMethod] = {method.name: method for method in _ALL}
"""Every method by name."""
