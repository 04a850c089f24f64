"""Settings of a run on effects, for ``run`` in core/evaluation/runner.py."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...editing.loading import load_editor
from ...editing.settings import SamplingSettings
from ...encoders.clip_loading import load_clip
from ...errors import EvaluationError, PairError
from ...learning.init_text.phrases import PhraseSettings
from ...learning.init_text.vocabulary import check_lists
from ...learning.settings import read_changes
from ...storage.safetensors_header import content_digest
from ..perceptual import Perceptual
from ..protocols import OutcomeWithImages, WorkUnit
from ..results import recipe_digest
from ..stored_images import STORED, StoredImages
from .effects import Effect, EffectSource
from .methods import DEFAULT_METHODS, METHODS, BenchmarkModels, Edited, EffectEditor
from .scoring import EffectScorer


@dataclass(frozen=True)
class EffectRunSettings:
    """Everything that determines the figures except the effects.

    Paths must be valid on every machine of a cluster.

    Raises:
        EvaluationError: a method is unknown, or a number is out of range.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    seeds: int = 1
    """Every method learns and edits with each of the seeds 0 .. seeds - 1."""
    steps: int | None = None
    """Learning steps of every method; None uses those of the presets."""
    sampling: SamplingSettings = SamplingSettings()
    """How edits are sampled. Methods set the seed."""
    model: str | None = None
    """None is the pocket editor."""
    device: str = "cpu"
    clip: str | None = None
    """None is the pocket editor's CLIP."""
    clip_folder: str | None = None
    lpips: str | None = None
    """File of AlexNet's weights; None leaves LPIPS out."""
    cache: str | None = None
    """Folder for the features of word lists."""
    changes: tuple[str, ...] = ()
    """Learning settings that differ from the presets, such as ``attention.objective=guided``. The paper's own
    presets stay as they are."""
    eta: float | None = None
    """Least sensitivity of a unique phrase; None is the CLIP's default."""
    lists: tuple[str, ...] | None = None
    """Word lists of unique phrases; None takes the CLIP's default lists."""
    find_scales: bool = True
    """Whether methods that learn find the scales of their edits on the training pairs."""
    single_seed: tuple[str, ...] = ()
    """Methods that run with seed 0 only."""
    first_seed: int = 0
    """The seeds before it are left to other runs."""
    stored: tuple[StoredImages, ...] = ()
    """Images made elsewhere; their names are methods, too."""
    own_steps: int | None = None
    """The benchmark's own learning steps where ``steps`` is None. Methods with the paper's settings keep the
    paper's."""

    def __post_init__(self) -> None:
        known = {*METHODS, *(images.name for images in self.stored)}
        unknown = next((name for name in (*self.methods, *self.single_seed) if name not in known), None)
        if unknown is not None or not self.methods:
            raise EvaluationError(
                f"Method '{unknown or ''}' does not exist. Choose from {', '.join(METHODS)}."
            )
        counts = {
            "seeds": self.seeds,
            "sampling_steps": self.sampling.steps,
            "steps": self.steps,
            "own_steps": self.own_steps,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise EvaluationError(f"Benchmark: {name} is {count}; it must be at least 1.")
        if not 0 <= self.first_seed < self.seeds:
            raise EvaluationError(
                f"Benchmark: the first seed is {self.first_seed}; it must lie between 0 and {self.seeds - 1}."
            )
        read_changes(self.changes)
        if self.lists is not None:
            check_lists(self.lists)

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the figures of this run, whatever the method. Loads the models.

        Methods and seeds are not part of it, because they may be added later.
        """
        models, _ = _models(self)
        lpips = None
        if self.lpips:
            path = Path(self.lpips)
            lpips = content_digest(path, f"LPIPS backbone '{path.name}'", EvaluationError)
        return {
            "model": models.editor.description.fingerprint[:16],
            "clip": f"{models.clip.name} {models.clip.fingerprint[:16]}",
            "lpips": lpips,
            "text_scale": models.text_scale,
            "sampling_steps": self.sampling.steps,
            "image_scale": self.sampling.image_scale_for(models.editor.description.family),
            "fixed_noise": self.sampling.fixed_noise or None,
        }

    def recipes(self) -> dict[str, dict[str, Any]]:
        """Returns ``Method.recipe`` of every method. Loads the models."""
        models, _ = _models(self)
        recipes = {name: dict(method.recipe(models)) for name, method in METHODS.items()}
        return recipes | {images.name: {"images": images.digest()} for images in self.stored}

    def rounds(self) -> list[tuple[int, tuple[str, ...]]]:
        """Returns the seeds with the methods that run with each."""
        return [
            (seed, tuple(name for name in self.methods if seed == 0 or name not in self.single_seed))
            for seed in range(self.first_seed, self.seeds)
        ]

    def check(self, sources: Sequence[EffectSource]) -> None:
        """Checks that every effect has the training pairs that the methods need.

        Raises:
            EvaluationError: an effect has too few.
        """
        # Every effect has one pair.
        needs = {name: METHODS[name].pairs for name in self.methods if name in METHODS}
        for name in (name for name, needed in needs.items() if needed > 1):
            few = next((source for source in sources if len(source.train) < needs[name]), None)
            if few is not None:
                count = len(few.train)
                raise EvaluationError(
                    f"Effect '{few.name}' has {count} training pair{'s' * (count != 1)}, and the method "
                    f"'{name}' needs {needs[name]}. Leave the method out, or take effects with more pairs."
                )

    def check_stored(self, sources: Sequence[EffectSource]) -> None:
        """Checks the stored images of all effects and seeds, before anything runs.

        Raises:
            EvaluationError: an image is missing, cannot be read, or has another size.
        """
        if not self.stored:
            return
        for source in sources:
            try:
                inputs = source.load().inputs
            except (EvaluationError, PairError):
                continue  # the run skips it, too
            sizes = [(image.shape[1], image.shape[0]) for image in inputs]
            for seed, names in self.rounds():
                for images in self.stored:
                    if images.name in names:
                        images.check(source.name, seed, sizes)

    def work(self, unit: WorkUnit, loaded: Effect) -> Iterator[OutcomeWithImages]:
        """Runs the unit's methods on an effect."""
        models, perceptual = _models(self)
        editor = EffectEditor(models, loaded)
        scorer = EffectScorer(loaded, models.clip, perceptual, models.editor.description.family)
        recipes = self.recipes()
        for name in unit.methods:
            start = time.monotonic()
            edited = self._edited(name, editor, unit.seed)
            outcome = scorer.score(name, unit.seed, edited, time.monotonic() - start)
            yield replace(outcome, recipe=recipe_digest(recipes[name])), edited.images

    def _edited(self, name: str, editor: EffectEditor, seed: int) -> Edited:
        stored = next((images for images in self.stored if images.name == name), None)
        if stored is None:
            return METHODS[name].edit(editor, seed)
        effect = editor.effect
        return Edited(stored.read(effect.name, seed, len(effect.test)), remark=STORED)


@lru_cache(maxsize=1)
def _models(settings: EffectRunSettings) -> tuple[BenchmarkModels, Perceptual | None]:
    editor = load_editor(settings.model, settings.device)
    clip_folder = Path(settings.clip_folder) if settings.clip_folder else None
    clip = load_clip(settings.clip, clip_folder, settings.device)
    perceptual = Perceptual(settings.lpips, settings.device) if settings.lpips else None
    cache = Path(settings.cache) if settings.cache else None
    changes = read_changes(settings.changes)
    phrases = PhraseSettings(eta=settings.eta, lists=settings.lists)
    models = BenchmarkModels(
        editor,
        clip,
        settings.steps,
        settings.sampling,
        cache,
        changes,
        phrases,
        settings.find_scales,
        settings.own_steps,
    )
    return models, perceptual
