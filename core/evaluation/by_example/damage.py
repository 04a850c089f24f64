"""How far a method moves edits that have nothing to do with it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...editing.editor import DiffusersEditor
from ...editing.sampler import edit_latents
from ...editing.settings import SamplingSettings
from ...instruction.injection import AnyInjection, GroupedInjection, Injection
from ..metrics import quantized

PROBES = ("make it sepia", "turn it into a sketch", "add a red frame")
"""Instructions in words that no effect is about."""

_IMAGES = 1
_STEPS = 10


class Probes:
    """Edits of an effect's first image by the words of ``PROBES``, with and without what was learned.

    Args:
        editor: the model.
        images: [H, W, 3] each.
        sampling: scales and seed of the edits, which have 10 steps at most.
    """

    def __init__(self, editor: DiffusersEditor, images: list[Tensor], sampling: SamplingSettings) -> None:
        self._editor = editor
        first = [image for image in images if image.shape == images[0].shape][:_IMAGES]
        self._images = torch.stack(first * len(PROBES))
        self._words = editor.encode_text([words for words in PROBES for _ in first])
        self._sampling = replace(sampling, steps=min(sampling.steps, _STEPS))
        self._without: dict[bool, Tensor] = {}

    def keep(self, beside: bool) -> None:
        """Edits with the untouched model. Must be called before a model is changed."""
        if beside not in self._without:
            self._without[beside] = self._edits(None, beside)

    def damage(self, learned: Injection | None) -> float:
        """Mean absolute difference of the edits with and without what was learned, in 0..1.

        Args:
            learned: an instruction. It acts in rows of the same model call, beside the edits in words, as in
                a graph that uses both. None if the model itself holds what was learned, as with a LoRA.
        """
        beside = learned is not None
        if beside:
            self.keep(beside)
        return float((self._edits(learned, beside) - self._without[beside]).abs().mean())

    def _edits(self, learned: Injection | None, beside: bool) -> Tensor:
        editor = self._editor
        denoiser: Any = _Beside(editor.denoiser, learned) if beside else editor.denoiser
        condition = editor.condition(self._images)
        latents = edit_latents(denoiser, condition, self._words, editor.null_context, settings=self._sampling)
        return quantized(editor.decode(latents)).cpu()


class _Beside:
    """A denoiser whose every call has each row twice: with an instruction, and as it is asked for."""

    def __init__(self, denoiser: Any, learned: Injection | None) -> None:
        self._denoiser = denoiser
        self._injection = None if learned is None else GroupedInjection([learned, None])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        image_latent: Tensor,
        context: Tensor,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """See ``Denoiser.predict``. The rows that are asked for have no injection."""
        assert injection is None
        rows = [torch.cat([each, each]) for each in (noisy, timesteps, image_latent, context)]
        return self._denoiser.predict(*rows, self._injection).chunk(2)[1]
