"""Settings of a run on items, for ``run`` in core/evaluation/runner.py."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ...editing.loading import load_editor
from ...editing.settings import SamplingSettings
from ...encoders.clip_loading import load_clip
from ...encoders.dino import DinoModel
from ...encoders.mllm import load_mllm
from ...errors import DataError, EvaluationError, PairError
from ...instruction.file import load_instruction
from ...instruction.injection import inject
from ...instruction.instruction import own_scales
from ...models.builtin import POCKET_CONNECTOR_FILE, POCKET_READER_FOLDER, POCKET_REASON_FOLDER
from ...reasoning.connector import load_connector, text_fingerprint
from ...storage.image_sizes import Size
from ...storage.safetensors_header import content_digest
from ..protocols import OutcomeWithImages, WorkUnit
from ..results import recipe_digest
from ..stored_images import StoredImages
from .datasets.item_storage import StoredItem
from .items import Item, editor_input
from .methods import ITEM_METHODS, EncodingEditor, ItemEditor, ItemMethod
from .mllm_cache import CachedMllm
from .scoring import ItemScorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemRunSettings:
    """Everything that determines the figures except the items.

    Paths must be valid on every machine of a cluster.

    Raises:
        EvaluationError: a method is unknown or lacks what it needs, or a number is out of range.
    """

    methods: tuple[str, ...] = ("words",)
    seeds: int = 1
    """Every method edits with each of the seeds 0 .. seeds - 1."""
    sampling: SamplingSettings = SamplingSettings()
    """How edits are sampled. Methods set the seed."""
    side: int | None = 512
    """Pixels of the longer side of edited images; None keeps the size, as multiples of 8."""
    model: str | None = None
    """None is the pocket editor."""
    device: str = "cpu"
    clip: str | None = None
    """None is the pocket editor's CLIP."""
    clip_folder: str | None = None
    dino: str | None = None
    """Folder of a DINO model; None leaves DINO out."""
    instruction: str | None = None
    """File of a learned instruction, for the method of that name."""
    mllm: str | None = None
    """Folder of a vision-language model, for methods that explain or encode; None is the pocket reader."""
    connector: str | None = None
    """File of the connector between it and the fine-tuned editor; None is the pocket connector."""
    tuned_model: str | None = None
    """The editor that was fine-tuned with the connector; None is the pocket reasoning editor."""
    cache: str | None = None
    """Folder for the vision-language model's answers and states; None caches them in memory."""
    stored: tuple[StoredImages, ...] = ()
    """Images made elsewhere; their names are methods, too."""

    def __post_init__(self) -> None:
        known = {*ITEM_METHODS, *(images.name for images in self.stored)}
        unknown = next((name for name in self.methods if name not in known), None)
        if unknown is not None or not self.methods:
            raise EvaluationError(
                f"Method '{unknown or ''}' cannot run on this benchmark, which has no pairs to learn from. "
                f"Choose from {', '.join(ITEM_METHODS)}."
            )
        if "instruction" in self.methods and not self.instruction:
            raise EvaluationError(
                "Benchmark: the method 'instruction' needs a learned instruction. Add --instruction FILE."
            )
        encoding = next((method.name for method in self.own_methods if method.needs_encoding), None)
        if encoding and self.model and not self.tuned_model:
            raise EvaluationError(
                f"Benchmark: the method '{encoding}' needs the editor that was fine-tuned with the "
                "connector. Add --tuned-model."
            )
        for name, value, least in (
            ("seeds", self.seeds, 1),
            ("sampling_steps", self.sampling.steps, 1),
            ("side", self.side, 64),
        ):
            if value is not None and value < least:
                raise EvaluationError(f"Benchmark: {name} is {value}; it must be at least {least}.")

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the figures of this run. Loads the models.

        Methods and seeds are not part of it, because they may be added later.
        """
        models, scorer = _models(self)
        mllm = connector = tuned_model = None
        if models.mllm:
            mllm = f"{models.mllm.mllm.fingerprint[:16]} {models.mllm.mllm.dtype}"
        if models.encoding:
            connector = _digest(self.connector or POCKET_CONNECTOR_FILE)
            tuned_model = models.encoding.tuned.editor.description.fingerprint[:16]
        description = models.editor.description
        return {
            "model": description.fingerprint[:16],
            "clip": f"{scorer.clip.name} {scorer.clip.fingerprint[:16]}",
            "dino": f"{scorer.dino.name} {scorer.dino.fingerprint[:16]}" if scorer.dino else None,
            "instruction": _digest(self.instruction) if self.instruction else None,
            "mllm": mllm,
            "connector": connector,
            "tuned_model": tuned_model,
            "text_scale": self.sampling.text_scale_for(description.family),
            "sampling_steps": self.sampling.steps,
            "image_scale": self.sampling.image_scale_for(description.family),
            "side": self.side,
        }

    @property
    def own_methods(self) -> list[ItemMethod]:
        """The methods that edit here: all but the stored ones."""
        return [ITEM_METHODS[name] for name in self.methods if name in ITEM_METHODS]

    def check(self, sources: Sequence[StoredItem]) -> None:
        """Every item has what the methods need."""

    def check_stored(self, sources: Sequence[StoredItem]) -> None:
        """Checks the stored images of all items and seeds, before anything runs.

        Raises:
            EvaluationError: an image is missing, cannot be read, or has another size.
        """
        if not self.stored:
            return
        for source in sources:
            try:
                item = source.load()
            except (DataError, EvaluationError, PairError):
                continue  # the run skips it, too
            sizes = [_edit_size(turn.source, self.side) for turn in item.turns]
            chosen = [sizes[item.turn_of(index)] for index in range(item.images)]
            for seed, names in self.rounds():
                for images in self.stored:
                    if images.name in names:
                        images.check(source.name, seed, chosen)

    def recipes(self) -> dict[str, dict[str, Any]]:
        """Returns the identity of images made elsewhere; ``describe`` says the rest."""
        return {images.name: {"images": images.digest()} for images in self.stored}

    def rounds(self) -> list[tuple[int, tuple[str, ...]]]:
        """Returns every seed with all methods; stored results of seed 0 stand for all seeds."""
        once = {images.name for images in self.stored if images.seeds == {0}}
        return [
            (seed, tuple(name for name in self.methods if seed == 0 or name not in once))
            for seed in range(self.seeds)
        ]

    def work(self, unit: WorkUnit, loaded: Item) -> Iterator[OutcomeWithImages]:
        """Runs the unit's methods on an item."""
        models, scorer = _models(self)
        features = scorer.features(loaded)
        recipes = self.recipes()
        for name in unit.methods:
            start = time.monotonic()
            stored = next((images for images in self.stored if images.name == name), None)
            if stored is None:
                images = models.edit(loaded, ITEM_METHODS[name], unit.seed)
            else:
                images = stored.read(loaded.name, unit.seed, loaded.images)
            score = scorer.score(features, name, unit.seed, images, time.monotonic() - start)
            yield replace(score, recipe=recipe_digest(recipes[name]) if name in recipes else ""), images


@lru_cache(maxsize=1)
def _models(settings: ItemRunSettings) -> tuple[ItemEditor, ItemScorer]:
    editor = load_editor(settings.model, settings.device)
    clip_folder = Path(settings.clip_folder) if settings.clip_folder else None
    clip = load_clip(settings.clip, clip_folder, settings.device)
    dino = DinoModel(settings.dino, settings.device) if settings.dino else None
    learned = scales = None
    if settings.instruction:
        instruction = load_instruction(settings.instruction)
        for remark in instruction.check_fits(editor.description):
            logger.warning(remark)
        learned = inject(instruction, device=editor.denoiser.device)
        scales = own_scales(instruction)
    mllm = None
    encoding = None
    methods = settings.own_methods
    if any(method.needs_mllm for method in methods):
        model = load_mllm(settings.mllm or POCKET_READER_FOLDER, settings.device, lazily=True)
        mllm = CachedMllm(model, Path(settings.cache) if settings.cache else None)
    if mllm is not None and any(method.needs_encoding for method in methods):
        encoding = _load_encoding_editor(settings, mllm)
    models = ItemEditor(
        editor, settings.sampling, settings.side, learned, mllm, encoding, learned_scales=scales
    )
    return models, ItemScorer(clip, dino)


def _edit_size(image: Tensor, side: int | None) -> Size:
    height, width = editor_input(image, side).shape[:2]
    return width, height


def _load_encoding_editor(settings: ItemRunSettings, mllm: CachedMllm) -> EncodingEditor:
    connector = load_connector(settings.connector or POCKET_CONNECTOR_FILE, settings.device)
    tuned = load_editor(settings.tuned_model or POCKET_REASON_FOLDER, settings.device)
    model = mllm.mllm
    text = text_fingerprint(tuned.text_encoder.state_dict())
    for remark in connector.check_fits(
        model.width, model.name, model.fingerprint, tuned.description.family.context_width, text
    ):
        logger.warning(remark)
    return EncodingEditor(mllm, connector, ItemEditor(tuned, settings.sampling, settings.side))


def _digest(path: str | Path) -> str:
    return content_digest(Path(path), f"'{Path(path).name}'", EvaluationError)
