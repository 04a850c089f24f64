"""Running a benchmark of items: settings and measures for :func:`~..runner.run`."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from ...editing.loading import load_editor
from ...editing.settings import SamplingSettings
from ...encoders.clip import OpenClipModel, image_features, load_clip, text_features
from ...encoders.dino import DinoModel
from ...encoders.mllm import load_mllm
from ...errors import EvaluationError
from ...instruction.file import load_instruction
from ...instruction.injection import inject
from ...models.builtin import POCKET_CONNECTOR_FILE, POCKET_READER_FOLDER, POCKET_REASON_FOLDER
from ...reasoning.connector import load_connector, text_fingerprint
from ..by_example.methods import Workbench
from ..by_example.top_bench import SIDE
from ..metrics import caption_similarity, direction_similarity, image_similarity, l1_distance, l2_distance
from ..runner import Made, Unit
from .items import Item, resized
from .methods import ITEM_METHODS, Encoding, ItemBench
from .mllm_cache import CachedMllm
from .results import Score

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemSettings:
    """Everything that figures depend on but the items (``Settings`` of :mod:`..runner`). Paths must mean the same on every machine of a cluster.

    Raises:
        EvaluationError: an unknown method, one without what it needs, or a number out of range.
    """

    methods: tuple[str, ...] = ("words",)
    seeds: int = 1
    """Every method edits once with each of the seeds 0 .. seeds - 1."""
    sampling: SamplingSettings = SamplingSettings()
    """How edits are sampled. Methods set the seed."""
    side: int | None = SIDE
    """Pixels of the longer side that is edited; None keeps sizes, to multiples of 8."""
    model: str | None = None
    """None is the pocket editor."""
    device: str = "cpu"
    clip: str | None = None
    """None is the pocket editor's CLIP."""
    clip_folder: str | None = None
    dino: str | None = None
    """Folder of a DINO; None leaves it out."""
    instruction: str | None = None
    """File of a learned instruction, for the method of that name."""
    mllm: str | None = None
    """Folder of a vision-language model, for methods that explain or encode; None is the pocket reader."""
    connector: str | None = None
    """File of the connector between it and the tuned editor; None is the pocket one."""
    tuned_model: str | None = None
    """The editor that was tuned with the connector; None is the pocket one."""
    cache: str | None = None
    """Folder for what the vision-language model said and read; None keeps it in memory alone."""

    def __post_init__(self) -> None:
        unknown = next((name for name in self.methods if name not in ITEM_METHODS), None)
        if unknown is not None or not self.methods:
            raise EvaluationError(
                f"Method '{unknown or ''}' is none of this benchmark's: there are no pairs to learn from. Choose from {', '.join(ITEM_METHODS)}."
            )
        if "instruction" in self.methods and not self.instruction:
            raise EvaluationError(
                "Benchmark: the method 'instruction' needs a learned instruction. Add --instruction FILE."
            )
        encoding = next((name for name in self.methods if ITEM_METHODS[name].encodes), None)
        if encoding and self.model and not self.tuned_model:
            raise EvaluationError(
                f"Benchmark: the method '{encoding}' needs the editor that was tuned with the connector. Add --tuned-model."
            )
        for name, value, least in (
            ("seeds", self.seeds, 1),
            ("sampling_steps", self.sampling.steps, 1),
            ("side", self.side, 64),
        ):
            if value is not None and value < least:
                raise EvaluationError(f"Benchmark: {name} is {value}, it must be at least {least}.")

    def describe(self) -> dict[str, Any]:
        """What tells this run's figures from another's; the models are loaded for it. Methods and seeds may be added later."""
        bench, judge = _models(self)
        clip, editor = judge.clip, bench.bench.editor
        return {
            "model": editor.description.fingerprint[:16],
            "clip": f"{clip.name} {clip.fingerprint[:16]}",
            "dino": f"{judge.dino.name} {judge.dino.fingerprint[:16]}" if judge.dino else None,
            "instruction": _file_digest(self.instruction) if self.instruction else None,
            "mllm": f"{bench.reading.mllm.fingerprint[:16]} {bench.reading.mllm.dtype}"
            if bench.reading
            else None,
            "connector": _file_digest(self.connector or POCKET_CONNECTOR_FILE) if bench.encoding else None,
            "tuned_model": bench.encoding.tuned.bench.editor.description.fingerprint[:16]
            if bench.encoding
            else None,
            "text_scale": bench.bench.text_scale,
            "sampling_steps": self.sampling.steps,
            "image_scale": self.sampling.image_scale,
            "side": self.side,
        }

    def work(self, unit: Unit, loaded: Item) -> Iterator[Made]:
        """Every missing method of an item, one after the other."""
        bench, judge = _models(self)
        truth = judge.truth(loaded)
        for name in unit.methods:
            began = time.monotonic()
            images = bench.edit(loaded, ITEM_METHODS[name], unit.seed)
            yield judge.score(truth, name, unit.seed, images, time.monotonic() - began), images


@lru_cache(maxsize=1)
def _models(settings: ItemSettings) -> "tuple[ItemBench, _Judge]":
    editor = load_editor(settings.model, settings.device)
    clip = load_clip(
        settings.clip, Path(settings.clip_folder) if settings.clip_folder else None, settings.device
    )
    dino = DinoModel(settings.dino, settings.device) if settings.dino else None
    learned = None
    if settings.instruction:
        instruction = load_instruction(settings.instruction)
        for remark in instruction.check_fits(editor.description):
            logger.warning(remark)
        learned = inject(instruction, device=editor.denoiser.device)
    bench = Workbench(editor, clip, sampling=settings.sampling)
    reading = encoding = None
    if any(ITEM_METHODS[name].reads for name in settings.methods):
        mllm = load_mllm(settings.mllm or POCKET_READER_FOLDER, settings.device, lazily=True)
        reading = CachedMllm(mllm, Path(settings.cache) if settings.cache else None)
    if reading is not None and any(ITEM_METHODS[name].encodes for name in settings.methods):
        encoding = _load_encoding(settings, reading, bench)
    return ItemBench(bench, settings.side, learned, reading, encoding), _Judge(clip, dino)


def _load_encoding(settings: ItemSettings, reading: CachedMllm, bench: Workbench) -> Encoding:
    """The connector and the tuned editor, which is used as the other one is."""
    connector = load_connector(settings.connector or POCKET_CONNECTOR_FILE, settings.device)
    tuned, mllm = load_editor(settings.tuned_model or POCKET_REASON_FOLDER, settings.device), reading.mllm
    text = text_fingerprint(tuned.text_encoder.state_dict())
    for remark in connector.check_fits(
        mllm.width, mllm.name, mllm.fingerprint, tuned.description.family.context_width, text
    ):
        logger.warning(remark)
    return Encoding(reading, connector, ItemBench(replace(bench, editor=tuned), settings.side))


def _file_digest(path: str | Path) -> str:
    return sha256(Path(path).read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class _Truth:
    """Features of an item that all methods share: a row for every turn, of length 1."""

    item: Item
    references: Tensor
    dino: Tensor | None
    sources: Tensor | None
    """None where no edit has a direction in words."""
    captions: dict[str, Tensor]
    """Each caption's feature, [1, P]."""


class _Judge:
    """Measures the images of an item, as MagicBrush's own evaluation does: pixels at the reference's size, features of the images as they are."""

    def __init__(self, clip: OpenClipModel, dino: DinoModel | None) -> None:
        self.clip, self.dino = clip, dino

    def truth(self, item: Item) -> _Truth:
        references, sources = self._clip([turn.reference for turn in item.turns]), None
        if any(turn.caption is not None and turn.caption_before is not None for turn in item.turns):
            sources = (
                references
                if all(turn.truth is None for turn in item.turns)
                else self._clip([turn.source for turn in item.turns])
            )
        texts = {
            text for turn in item.turns for text in (turn.caption, turn.caption_before) if text is not None
        }
        captions = {text: text_features(self.clip, [text]).cpu() for text in sorted(texts)}
        return _Truth(
            item, references, self._dino([turn.reference for turn in item.turns]), sources, captions
        )

    def score(self, truth: _Truth, method: str, seed: int, images: Sequence[Tensor], seconds: float) -> Score:
        item, outputs, dino = truth.item, self._clip(images), self._dino(images)
        rows = [item.turn_of(number) for number in range(len(images))]
        references = [item.turns[row].reference for row in rows]
        both = [
            (resized(made, reference)[None], reference[None])
            for made, reference in zip(images, references, strict=True)
        ]
        words: list[float | None] = []
        directions: list[float | None] = []
        for made, row in zip(outputs[:, None], rows, strict=True):
            after, before = (
                truth.captions.get(text) if text else None
                for text in (item.turns[row].caption, item.turns[row].caption_before)
            )
            words.append(None if after is None else float(caption_similarity(after, made)))
            if after is None or before is None or truth.sources is None:
                directions.append(None)
            else:
                directions.append(float(direction_similarity(truth.sources[row][None], made, before, after)))
        return Score(
            item=item.name,
            scope=item.scope,
            method=method,
            seed=seed,
            turns=len(item.turns),
            l1=tuple(float(l1_distance(made, reference)) for made, reference in both),
            l2=tuple(float(l2_distance(made, reference)) for made, reference in both),
            clip_i=tuple(image_similarity(truth.references[rows], outputs).tolist()),
            dino=None
            if dino is None or truth.dino is None
            else tuple(image_similarity(truth.dino[rows], dino).tolist()),
            clip_t=tuple(words),
            clip_dir=tuple(directions),
            seconds=round(seconds, 2),
        )

    def _clip(self, images: Sequence[Tensor]) -> Tensor:
        return image_features(self.clip, images).cpu()

    def _dino(self, images: Sequence[Tensor]) -> Tensor | None:
        return image_features(self.dino, images).cpu() if self.dino else None
