"""What a benchmark compares: words, Visii, InstructBrush, and InstructBrush without one of its parts (Tables 1, 2 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...editing.settings import SamplingSettings
from ...instruction.injection import Injection, inject
from ...learning.init_text.captions import CaptionSettings, caption_images, default_steps
from ...learning.init_text.phrases import unique_phrases
from ...learning.objective import PairLatents
from ...learning.request import InitText, LearningRequest, with_direction
from ...learning.run import RunCallbacks, learn
from ...learning.settings import LearningSettings, preset_for
from ...learning.trainer import Trainer
from ...pairs.pairs import EditPairs
from ...progress import Progress
from ..metrics import quantised
from .effects import Effect

if TYPE_CHECKING:
    from ...editing.editor import DiffusersEditor
    from ...encoders.clip import ClipModel

_TEST_SEED = 1_000_003
"""Keeps the noise of test images apart from seed to seed."""


@dataclass(frozen=True)
class Edited:
    """What a method made of an effect's test images."""

    images: tuple[Tensor, ...]
    """[H, W, 3] each, 8-bit values in 0..1."""
    init_text: str = ""
    """What learning began with, or the words themselves."""
    final_loss: float | None = None


@dataclass(frozen=True)
class Workbench:
    """The models of a run, loaded once in every process, and how they are used."""

    editor: DiffusersEditor
    clip: ClipModel
    steps: int | None = None
    """Learning steps; None takes those of the model's presets."""
    sampling: SamplingSettings = SamplingSettings()
    """How edits are sampled. Methods set the seed."""
    cache: Path | None = None
    """Folder for the features of word lists."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Learning settings that differ from the presets, by space."""
    callback: Progress | None = None
    """After every learning step with (steps done, steps in all)."""

    @property
    def text_scale(self) -> float:
        """s_T of the run on this model."""
        return self.sampling.text_scale_for(self.editor.description.family)

    def settings(self, space: str, seed: int) -> LearningSettings:
        """The preset of a space for this model, with this run's steps, scales, seed and changes."""
        preset = preset_for(self.editor.description.family.name, space)
        settings = replace(
            preset,
            steps=self.steps or preset.steps,
            text_scale=self.text_scale,
            image_scale=self.sampling.image_scale,
            seed=seed,
        )
        return replace(settings, **self.changes.get(space, {}))


class _Progress(RunCallbacks):
    """Reports every learning step."""

    def __init__(self, report: Progress | None) -> None:
        self._report = report

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        if self._report is not None:
            self._report(done, total)


class Task:
    """An effect on a workbench: what several methods need of it is computed once."""

    def __init__(self, bench: Workbench, effect: Effect) -> None:
        self.bench, self.effect = bench, effect
        self._latents: dict[int, PairLatents] = {}
        self._phrases: dict[int, str] = {}
        self._captions: dict[tuple[int, int], str] = {}

    def pairs(self, shots: int | None = None) -> EditPairs:
        """The first ``shots`` training pairs; all when None."""
        return EditPairs(self.effect.train.pairs[:shots])

    def latents(self, pairs: EditPairs) -> PairLatents:
        """The pairs, encoded."""
        editor = self.bench.editor
        if len(pairs) not in self._latents:
            self._latents[len(pairs)] = PairLatents.encode(
                pairs, editor.encode_images, editor.scale, editor.condition
            )
        return self._latents[len(pairs)]

    def phrase(self, pairs: EditPairs) -> str:
        """Unique phrases (Eq. 6-7): "turn <p_x> into <p_y>"."""
        if len(pairs) not in self._phrases:
            self._phrases[len(pairs)] = unique_phrases(
                self.bench.clip, pairs, cache=self.bench.cache
            ).init_text
        return self._phrases[len(pairs)]

    def caption(self, pairs: EditPairs, seed: int) -> str:
        """A hard prompt of the images after the edit (PEZ), as Visii begins."""
        key = len(pairs), seed
        if key not in self._captions:
            settings = CaptionSettings(steps=default_steps(self.bench.clip), seed=seed)
            self._captions[key] = caption_images(
                self.bench.clip, [pair.after for pair in pairs], settings
            ).text
        return self._captions[key]

    def by_words(self, seed: int) -> Edited:
        """Edit by the benchmark's instruction."""
        return Edited(
            self._sample(self.bench.editor.encode_text([self.effect.words])[0], seed), self.effect.words
        )

    def by_learning(self, settings: LearningSettings, pairs: EditPairs, init_text: str) -> Edited:
        """Learns an instruction and edits by it."""
        editor = self.bench.editor
        context = editor.encode_text([init_text])[0]
        settings, direction = with_direction(
            settings, pairs, self.bench.clip, context.shape[1], skip_other_clip=True
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
        instruction = learn(request, _Progress(self.bench.callback))
        injection = inject(instruction, device=editor.denoiser.device)
        return Edited(self._sample(injection, settings.seed), init_text, instruction.info.final_loss)

    def _sample(self, instruction: Tensor | Injection, seed: int) -> tuple[Tensor, ...]:
        """Neighbours of one size in one batch; every image gets the noise it would get alone."""
        editor, made = self.bench.editor, []
        for _, group in groupby(enumerate(self.effect.inputs), lambda numbered: numbered[1].shape):
            numbers, images = zip(*group, strict=True)
            sampling = replace(self.bench.sampling, seed=_TEST_SEED * (seed + 1) + numbers[0])
            made.extend(quantised(editor.edit(torch.stack(images), instruction, sampling)))
        return tuple(made)


@dataclass(frozen=True)
class Method:
    """A row of the tables."""

    name: str
    title: str
    """What the paper calls it."""
    text: str
    """One line for a reader of the report."""
    make: Callable[[Task, int], Edited]
    """From a task and a seed."""


def _visii(task: Task, seed: int, shots: int | None = None) -> Edited:
    pairs = task.pairs(shots)
    return task.by_learning(task.bench.settings("text", seed), pairs, task.caption(pairs, seed))


def _instructbrush(task: Task, seed: int, shots: int | None = None) -> Edited:
    pairs = task.pairs(shots)
    return task.by_learning(task.bench.settings("attention", seed), pairs, task.phrase(pairs))


def _no_attention(task: Task, seed: int) -> Edited:
    """As InstructBrush but for the space, and the learning rate that belongs to it."""
    full, text = task.bench.settings("attention", seed), task.bench.settings("text", seed)
    settings = replace(
        full, space="text", learning_rate=text.learning_rate, final_learning_rate=text.final_learning_rate
    )
    return task.by_learning(settings, task.pairs(), task.phrase(task.pairs()))


def _no_time(task: Task, seed: int) -> Edited:
    """One segment that sees as many samples as all segments together."""
    full = task.bench.settings("attention", seed)
    settings = replace(full, segments=1, batch=full.segments * full.batch, parametrisation="separate")
    return task.by_learning(settings, task.pairs(), task.phrase(task.pairs()))


def _no_init(task: Task, seed: int) -> Edited:
    return task.by_learning(
        task.bench.settings("attention", seed), task.pairs(), task.caption(task.pairs(), seed)
    )


_ALL = (
    Method(
        "words", "IP2P", "the base editor with the benchmark's words", lambda task, seed: task.by_words(seed)
    ),
    Method(
        "visii",
        "Visii",
        "text states from a caption of the images after the edit, with the CLIP direction loss",
        _visii,
    ),
    Method(
        "instructbrush",
        "Ours",
        "keys and values of every layer, in time segments, from unique phrases",
        _instructbrush,
    ),
    Method(
        "no_attention",
        "w/o Attn",
        "as InstructBrush, but text states instead of keys and values",
        _no_attention,
    ),
    Method("no_time", "w/o Time", "as InstructBrush, but one segment", _no_time),
    Method(
        "no_init", "w/o Init", "as InstructBrush, but from a caption of the images after the edit", _no_init
    ),
    Method(
        "one_shot",
        "Ours (one-shot)",
        "as InstructBrush, from the first pair alone",
        lambda task, seed: _instructbrush(task, seed, 1),
    ),
    Method(
        "visii_one_shot",
        "Visii (one-shot)",
        "as Visii, from the first pair alone",
        lambda task, seed: _visii(task, seed, 1),
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
"""Every method by name."""

DEFAULT_METHODS = ("words", "visii", "instructbrush", "no_attention", "no_time", "no_init", "one_shot")
