"""What every method of a benchmark works with: the models, and the editor of an effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....editing.settings import SamplingSettings
from ....instruction.injection import Injection, inject
from ....learning.init_text.captions import CaptionSettings, caption_images, default_steps
from ....learning.init_text.phrases import unique_phrases
from ....learning.objective import PairLatents
from ....learning.request import InitText, LearningRequest, with_direction
from ....learning.run import learn
from ....learning.settings import LearningSettings, preset_for
from ....pairs.pairs import EditPairs
from ...metrics import quantised
from ..effects import Effect

if TYPE_CHECKING:
    from ....editing.editor import DiffusersEditor
    from ....encoders.clip import ClipModel

# Test image i gets the noise seed _SEED_STEP * (seed + 1) + i, so the noise of two seeds never overlaps.
_SEED_STEP = 1_000_003


@dataclass(frozen=True)
class Edited:
    """The test images of an effect as a method edited them."""

    images: tuple[Tensor, ...]
    """[H, W, 3] each, 8-bit values in 0..1."""
    init_text: str = ""
    """The text that learning started from, or the instruction in words."""
    final_loss: float | None = None


@dataclass(frozen=True)
class BenchmarkModels:
    """The models of a run with their settings. Loaded once in every process."""

    editor: DiffusersEditor
    clip: ClipModel
    steps: int | None = None
    """Learning steps; None uses those of the model's presets."""
    sampling: SamplingSettings = SamplingSettings()
    """How edits are sampled; the seed is set for each edit."""
    cache: Path | None = None
    """Folder for the features of word lists."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Learning settings that differ from the presets, by space."""

    @property
    def text_scale(self) -> float:
        """s_T of the run on this model."""
        return self.sampling.text_scale_for(self.editor.description.family)

    def settings(self, space: str, seed: int) -> LearningSettings:
        """Returns a space's preset for this model, with the steps, scales, seed and changes of the run."""
        preset = preset_for(self.editor.description.family.name, space)
        settings = replace(
            preset,
            steps=self.steps or preset.steps,
            text_scale=self.text_scale,
            image_scale=self.sampling.image_scale,
            seed=seed,
        )
        return replace(settings, **self.changes.get(space, {}))


class EffectEditor:
    """Edits the test images of an effect. Caches what several methods need."""

    def __init__(self, models: BenchmarkModels, effect: Effect) -> None:
        self.models = models
        self.effect = effect
        self._latents: dict[int, PairLatents] = {}
        self._phrases: dict[int, str] = {}
        self._captions: dict[tuple[int, int], str] = {}

    def pairs(self, shots: int | None = None) -> EditPairs:
        """Returns the first ``shots`` training pairs, or all."""
        return EditPairs(self.effect.train.pairs[:shots])

    def latents(self, pairs: EditPairs) -> PairLatents:
        """Returns the encoded pairs."""
        editor = self.models.editor
        if len(pairs) not in self._latents:
            self._latents[len(pairs)] = PairLatents.encode(
                pairs, editor.encode_images, editor.scale, editor.condition
            )
        return self._latents[len(pairs)]

    def phrase(self, pairs: EditPairs) -> str:
        """Returns the unique phrases (Eq. 6-7) as "turn <p_x> into <p_y>"."""
        if len(pairs) not in self._phrases:
            phrases = unique_phrases(self.models.clip, pairs, cache=self.models.cache)
            self._phrases[len(pairs)] = phrases.init_text
        return self._phrases[len(pairs)]

    def caption(self, pairs: EditPairs, seed: int) -> str:
        """Returns a hard prompt of the images after the edit (PEZ), the init text of Visii."""
        key = len(pairs), seed
        if key not in self._captions:
            settings = CaptionSettings(steps=default_steps(self.models.clip), seed=seed)
            images = [pair.after for pair in pairs]
            self._captions[key] = caption_images(self.models.clip, images, settings).text
        return self._captions[key]

    def by_words(self, seed: int) -> Edited:
        """Edits with the benchmark's instruction in words."""
        context = self.models.editor.encode_text([self.effect.words])[0]
        return Edited(self._sample(context, seed), self.effect.words)

    def by_learning(self, settings: LearningSettings, pairs: EditPairs, init_text: str) -> Edited:
        """Learns an instruction and edits by it."""
        editor = self.models.editor
        context = editor.encode_text([init_text])[0]
        settings, direction = with_direction(
            settings, pairs, self.models.clip, context.shape[1], skip_other_clip=True
        )
        request = LearningRequest(
            editor.denoiser,
            self.latents(pairs),
            InitText(init_text, context, editor.count_tokens(init_text)),
            editor.null_context,
            settings,
            direction,
            title=self.effect.name,
        )
        instruction = learn(request)
        injection = inject(instruction, device=editor.denoiser.device)
        return Edited(self._sample(injection, settings.seed), init_text, instruction.info.final_loss)

    def _sample(self, instruction: Tensor | Injection, seed: int) -> tuple[Tensor, ...]:
        """Batches neighbors of one size. Every image gets the same noise as in a batch of its own."""
        images: list[Tensor] = []
        for _, group in groupby(enumerate(self.effect.inputs), lambda numbered: numbered[1].shape):
            numbers, inputs = zip(*group, strict=True)
            sampling = replace(self.models.sampling, seed=_SEED_STEP * (seed + 1) + numbers[0])
            images.extend(quantised(self.models.editor.edit(torch.stack(inputs), instruction, sampling)))
        return tuple(images)


@dataclass(frozen=True)
class Method:
    """A method that the tables compare."""

    name: str
    title: str
    """Name in the paper."""
    text: str
    """One line for the reader of the report."""
    edit: Callable[[EffectEditor, int], Edited]
    """(editor of an effect, seed) -> edited test images."""
