"""Settings of a run on effects, for ``run`` in core/evaluation/runner.py."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...editing.loading import load_editor
from ...editing.settings import SamplingSettings
from ...encoders.clip_loading import load_clip
from ...errors import EvaluationError
from ...learning.settings import read_changes
from ..perceptual import Perceptual
from ..protocols import OutcomeWithImages, WorkUnit
from .effects import Effect
from .methods import DEFAULT_METHODS, METHODS, BenchmarkModels, EffectEditor
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
    """Learning steps; None uses those of the model's presets."""
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
    """Learning settings that differ from the presets, such as ``attention.objective=guided``."""

    def __post_init__(self) -> None:
        unknown = next((name for name in self.methods if name not in METHODS), None)
        if unknown is not None or not self.methods:
            raise EvaluationError(
                f"Method '{unknown or ''}' does not exist. Choose from {', '.join(METHODS)}."
            )
        counts = {"seeds": self.seeds, "sampling_steps": self.sampling.steps, "steps": self.steps}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise EvaluationError(f"Benchmark: {name} is {count}; it must be at least 1.")
        read_changes(self.changes)

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the figures of this run. Loads the models.

        Methods and seeds are not part of it, because they may be added later.
        """
        models, _ = _models(self)
        backbone = sha256(Path(self.lpips).read_bytes()).hexdigest()[:16] if self.lpips else None
        presets = [asdict(models.settings(space, 0)) for space in ("attention", "text")]
        return {
            "model": models.editor.description.fingerprint[:16],
            "clip": f"{models.clip.name} {models.clip.fingerprint[:16]}",
            "lpips": backbone,
            "text_scale": models.text_scale,
            "steps": self.steps,
            "sampling_steps": self.sampling.steps,
            "image_scale": self.sampling.image_scale,
            "presets": sha256(json.dumps(presets).encode()).hexdigest()[:16],
        }

    def work(self, unit: WorkUnit, loaded: Effect) -> Iterator[OutcomeWithImages]:
        """Runs the unit's methods on an effect."""
        models, perceptual = _models(self)
        editor = EffectEditor(models, loaded)
        scorer = EffectScorer(loaded, models.clip, perceptual)
        for name in unit.methods:
            start = time.monotonic()
            edited = METHODS[name].edit(editor, unit.seed)
            yield scorer.score(name, unit.seed, edited, time.monotonic() - start), edited.images


@lru_cache(maxsize=1)
def _models(settings: EffectRunSettings) -> tuple[BenchmarkModels, Perceptual | None]:
    editor = load_editor(settings.model, settings.device)
    clip_folder = Path(settings.clip_folder) if settings.clip_folder else None
    clip = load_clip(settings.clip, clip_folder, settings.device)
    perceptual = Perceptual(settings.lpips, settings.device) if settings.lpips else None
    cache = Path(settings.cache) if settings.cache else None
    changes = read_changes(settings.changes)
    return BenchmarkModels(editor, clip, settings.steps, settings.sampling, cache, changes), perceptual
