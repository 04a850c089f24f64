"""What every method of a benchmark works with: the models, and the editor of an effect."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ....editing.scale_search import candidates_of
from ....editing.settings import SamplingSettings
from ....errors import EvaluationError
from ....instruction.file import load_instruction, save_instruction
from ....instruction.injection import Injection, inject
from ....instruction.instruction import Blend, Instruction, own_scales
from ....learning.init_text.captions import CaptionSettings, caption_images, default_steps
from ....learning.init_text.phrases import PhraseSettings, unique_phrases
from ....learning.objective import PairLatents
from ....learning.request import InitText, LearningRequest, with_direction
from ....learning.run import ScaleChoice, learn
from ....learning.settings import PRESETS, LearningSettings, preset_for
from ....pairs.pairs import EditPairs
from ...metrics import quantized
from ..damage import Probes
from ..effects import Effect

if TYPE_CHECKING:
    from ....editing.editor import DiffusersEditor
    from ....encoders.clip import ClipModel

# Test image i gets the noise seed _SEED_STEP * (seed + 1) + i, so the noise of two seeds never overlaps.
_SEED_STEP = 1_000_003


@dataclass(frozen=True)
class Cost:
    """What it takes to learn and to keep an edit."""

    seconds: float
    """Wall time of learning, with the search of scales, without a search of learning rates and init texts."""
    file_bytes: int
    """Bytes of the fp16 file that holds what was learned. The edits are made with what the file holds."""
    learning_rate: float
    """The rate that learning began with."""


@dataclass(frozen=True)
class Edited:
    """The test images of an effect as a method edited them."""

    images: tuple[Tensor, ...]
    """[H, W, 3] each, 8-bit values in 0..1."""
    init_text: str = ""
    """The text that learning started from, or the instruction in words."""
    final_loss: float | None = None
    losses: str = ""
    """The losses that learning minimized, see ``LearningRequest.losses``; empty if nothing was learned."""
    remark: str = ""
    """What the reader of the report should know."""
    sampling: SamplingSettings = SamplingSettings()
    """How the images were edited."""
    cost: Cost | None = None
    """What learning took; None if nothing was learned."""
    damage: float | None = None
    """See ``Probes.damage``; None if it was not measured."""


@dataclass(frozen=True)
class BenchmarkModels:
    """The models of a run with their settings. Loaded once in every process."""

    editor: DiffusersEditor
    clip: ClipModel
    steps: int | None = None
    """Learning steps of every method; None uses those of the presets."""
    sampling: SamplingSettings = SamplingSettings()
    """How edits are sampled; the seed is set for each edit."""
    cache: Path | None = None
    """Folder for the features of word lists."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Learning settings that differ from the presets, by space."""
    phrases: PhraseSettings = PhraseSettings()
    """How unique phrases are found."""
    find_scales: bool = True
    """Whether methods that learn find the scales of their edits on the training pairs."""
    own_steps: int | None = None
    """The benchmark's own learning steps where ``steps`` is None. Methods with the paper's settings keep the
    paper's."""

    @property
    def text_scale(self) -> float:
        """s_T of the run on this model."""
        return self.sampling.text_scale_for(self.editor.description.family)

    def sampling_at(self, scales: tuple[float, float] | None) -> SamplingSettings:
        """Returns the sampling of the run at the scales (s_T, s_I), if they were found."""
        if scales is None:
            return self.sampling
        return replace(self.sampling, text_scale=scales[0], image_scale=scales[1])

    def settings(self, space: str, seed: int) -> LearningSettings:
        """Returns a space's preset for this model, with the steps, scales, seed and changes of the run."""
        preset = preset_for(self.editor.description.family.name, space)
        settings = replace(
            preset,
            steps=self.steps or self.own_steps or preset.steps,
            text_scale=self.text_scale,
            image_scale=self.sampling.image_scale_for(self.editor.description.family),
            seed=seed,
            noise="fixed" if self.sampling.fixed_noise else preset.noise,
        )
        return settings.changed(**self.changes.get(space, {}))

    def paper_settings(self, name: str, seed: int) -> LearningSettings:
        """Returns a preset of the paper whatever the model, with the seed of the run.

        The steps and guidance scales are the paper's, too. Only ``steps`` and an s_T that the run was given
        explicitly replace its 1000 and 7.5.
        """
        preset = PRESETS["attention"][name]
        text_scale = preset.text_scale if self.sampling.text_scale is None else self.sampling.text_scale
        return replace(preset, steps=self.steps or preset.steps, text_scale=text_scale, seed=seed)


class _Learned(NamedTuple):
    instruction: Instruction | Blend
    cost: Cost
    final_loss: float | None


class EffectEditor:
    """Edits the test images of an effect. Caches what several methods need."""

    def __init__(self, models: BenchmarkModels, effect: Effect) -> None:
        self.models = models
        self.effect = effect
        self._latents: dict[int, PairLatents] = {}
        self._phrases: dict[int, str] = {}
        self._captions: dict[tuple[int, int], str] = {}
        self._probes: Probes | None = None
        self._learned: dict[tuple[LearningSettings, int, str, bool], _Learned] = {}

    def pairs(self, shots: int | None = None) -> EditPairs:
        """Returns the first ``shots`` training pairs, or all.

        Raises:
            EvaluationError: the effect has fewer.
        """
        if shots is not None and len(self.effect.train) < shots:
            raise EvaluationError(
                f"Effect '{self.effect.name}' has {len(self.effect.train)} training pairs, and the method "
                f"learns from {shots}. Leave the method out, or take effects with more pairs."
            )
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
            phrases = unique_phrases(self.models.clip, pairs, self.models.phrases, self.models.cache)
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
        return self.by_text(self.effect.words, seed)

    def by_text(self, text: str, seed: int) -> Edited:
        """Edits with an instruction in words."""
        context = self.models.editor.encode_text([text])[0]
        sampling = self.models.sampling
        return Edited(self.sample(context, seed, sampling), text, sampling=sampling)

    def by_learning(
        self,
        settings: LearningSettings,
        pairs: EditPairs,
        init_text: str,
        sampling: SamplingSettings | None = None,
    ) -> Edited:
        """Learns an instruction and edits by it.

        Args:
            settings: how to learn.
            pairs: what to learn from.
            init_text: what learning starts from.
            sampling: how to edit; None is as the run does. With ``fixed_noise``, edits have the noise that
                learning with fixed noise drew.
        """
        editor = self.models.editor
        context = editor.encode_text([init_text])[0]
        choice = with_direction(settings, pairs, self.models.clip, context.shape[1], skip_other_clip=True)
        request = LearningRequest(
            editor.denoiser,
            self.latents(pairs),
            InitText(init_text, context, editor.count_tokens(init_text)),
            editor.null_context,
            choice.settings,
            choice.direction,
            title=self.effect.name,
            direction_remark=choice.remark,
        )
        # Settings of the caller's own stay as they are.
        search = self.models.find_scales and sampling is None
        # Methods that differ only in how they edit share what is learned.
        key = choice.settings, len(pairs), init_text, search
        if key not in self._learned:
            start = time.monotonic()
            instruction = learn(request, scales=ScaleChoice() if search else None)
            seconds = time.monotonic() - start
            filed, file_bytes = _through_file(instruction)
            cost = Cost(seconds, file_bytes, settings.learning_rate)
            self._learned[key] = _Learned(filed, cost, instruction.info.final_loss)
        learned = self._learned[key]
        sampling = self.models.sampling_at(own_scales(learned.instruction)) if sampling is None else sampling
        injection = inject(learned.instruction, device=editor.denoiser.device)
        return Edited(
            self.sample(injection, settings.seed, sampling),
            init_text,
            learned.final_loss,
            request.losses,
            " ".join(request.remarks),
            sampling,
            learned.cost,
            None if settings.seed else self.probes.damage(injection),
        )

    @property
    def probes(self) -> Probes:
        """Edits that have nothing to do with the effect."""
        if self._probes is None:
            self._probes = Probes(self.models.editor, self.effect.inputs, self.models.sampling)
        return self._probes

    def sample(
        self, instruction: Tensor | Injection, seed: int, sampling: SamplingSettings
    ) -> tuple[Tensor, ...]:
        """Edits the test images in batches of one size. Every image gets the noise of a batch of its own."""
        images: list[Tensor] = []
        for _, group in groupby(enumerate(self.effect.inputs), lambda numbered: numbered[1].shape):
            numbers, inputs = zip(*group, strict=True)
            # Fixed noise is that of the learning seed, the same for all images.
            first = seed if sampling.fixed_noise else _SEED_STEP * (seed + 1) + numbers[0]
            seeded = replace(sampling, seed=first)
            images.extend(quantized(self.models.editor.edit(torch.stack(inputs), instruction, seeded)))
        return tuple(images)


def _through_file(instruction: Instruction) -> tuple[Instruction | Blend, int]:
    """What an fp16 file holds of an instruction, and the file's bytes, as with a LoRA that is shared."""
    with tempfile.TemporaryDirectory() as folder:
        file = save_instruction(instruction, Path(folder) / "learned.safetensors", half=True)
        return load_instruction(file), file.stat().st_size


def recipe_of(*spaces: str) -> Callable[[BenchmarkModels], dict[str, Any]]:
    """Returns a ``Method.recipe`` for a method that learns in these spaces, or in any if none is given."""

    def recipe(models: BenchmarkModels) -> dict[str, Any]:
        family = models.editor.description.family
        return {
            **{space: models.settings(space, 0).stored() for space in spaces or PRESETS},
            "scales": candidates_of(family) if models.find_scales else None,
            "eta": models.phrases.eta,
            "lists": models.phrases.lists,
        }

    return recipe


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
    recipe: Callable[[BenchmarkModels], Mapping[str, Any]] = recipe_of()
    """What determines the method's figures beside the models and the sampling of the run, as plain values:
    results made by another recipe are not resumed from."""
    pairs: int = 1
    """Training pairs that the method needs at least."""
