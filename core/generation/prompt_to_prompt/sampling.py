"""Samples a source and a target image from the same noise, with attention of the source in the target."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ...devices import to_device
from ...errors import BuildError
from .attention import controlled
from .control import ControlSettings, PairControl, StepControl, pair_control, step_control, steps_of
from .model import TextStates, TextToImage


@dataclass(frozen=True)
class PairRequest:
    """A pair to sample."""

    source: str
    """Caption of the source image."""
    target: str
    """Caption of the target image."""
    seed: int
    """Determines all noise; both images get the same."""
    control: ControlSettings = ControlSettings()
    guidance: float = 7.5
    """Scale of classifier-free guidance; 1 and less means none, as few-step models need it."""
    anchor: Tensor | None = None
    """Real image [H, W, 3] in 0..1 that both images start from, see ``PairSettings.strength``."""


@dataclass(frozen=True)
class PairSettings:
    """What all pairs of a batch have in common."""

    steps: int = 50
    """Steps from pure noise to an image."""
    height: int = 512
    width: int = 512
    strength: float = 1.0
    """How far images leave their anchor (SDEdit, Meng et al. 2022): the last ``strength * steps`` steps are
    run, from the anchor with the noise of that step. 1 needs no anchor and 0 returns it."""

    @property
    def steps_run(self) -> int:
        """Number of steps that are run."""
        return steps_of(self.strength, self.steps)


@torch.no_grad()
def sample_pairs(
    model: TextToImage, requests: Sequence[PairRequest], settings: PairSettings
) -> tuple[Tensor, Tensor]:
    """Samples pairs in one batch. A pair does not depend on the others of its batch.

    The model is as before afterwards, also after an error.

    Args:
        model: the model.
        requests: the pairs.
        settings: steps, size and strength.

    Returns:
        Source images and target images, [N, H, W, 3] in 0..1 on the model's device.

    Raises:
        BuildError: a setting is out of range, an anchor is missing or has another size, or a word of a
            control is not in its caption.
        ModelError: the model's attention is not Stable Diffusion's.
    """
    _check(model, requests, settings)
    if settings.strength == 0:
        anchors = _anchors(requests).to(model.device)
        return anchors, anchors.clone()
    run = _Run(model, requests, settings)
    with controlled(model.unet):
        latents = run.latents()
    images = model.decode(latents)
    return images[: len(requests)], images[len(requests) :]


class _Run:
    """Everything that stays the same during the steps of a batch. Its rows are [sources, targets]."""

    def __init__(self, model: TextToImage, requests: Sequence[PairRequest], settings: PairSettings) -> None:
        self._model = model
        self._settings = settings
        self._requests = requests
        self._scheduler = copy.deepcopy(model.scheduler)
        self._timesteps = self._begin()
        self._generators = [Generator().manual_seed(each.seed) for each in (*requests, *requests)]
        guidance = torch.tensor([each.guidance for each in (*requests, *requests)])
        self._has_null = bool((guidance > 1).any())
        self._guidance = guidance.view(-1, 1, 1, 1).to(model.device, model.dtype)
        self._texts = model.read([each.source for each in requests] + [each.target for each in requests])
        self._null = model.read_nothing(2 * len(requests)) if self._has_null else None
        size = (settings.height, settings.width)
        # SDXL reads original size, corner and target size.
        self._sizes = torch.tensor([(*size, 0, 0, *size)], device=model.device, dtype=model.dtype)
        self._controls = [self._control(each) for each in requests]
        self._options = self._step_options()

    def latents(self) -> Tensor:
        """Runs all steps."""
        latents = self._start()
        pixels = self._settings.height * self._settings.width
        for number, time in enumerate(self._timesteps):
            control = step_control(self._controls, number, self._has_null, pixels, latents)
            scaled = self._scheduler.scale_model_input(latents, time)
            predicted = self._predict(scaled, time, control, self._texts_at(number))
            latents = self._scheduler.step(predicted, time, latents, return_dict=False, **self._options)[0]
        return latents

    def _predict(self, latents: Tensor, time: Tensor, control: StepControl, texts: TextStates) -> Tensor:
        if self._null is not None:
            latents = torch.cat([latents, latents])
            texts = _joined(self._null, texts)
        predicted = self._model.unet(
            latents,
            time,
            encoder_hidden_states=texts.states,
            added_cond_kwargs=self._added(texts),
            cross_attention_kwargs={"control": control},
            return_dict=False,
        )[0]
        if self._null is None:
            return predicted
        null, full = predicted.chunk(2)
        return torch.where(self._guidance > 1, null + self._guidance * (full - null), full)

    def _texts_at(self, number: int) -> TextStates:
        """The text states of a step: pairs may use the source's for both images."""
        switched = [n for n, control in enumerate(self._controls) if control.uses_source_caption(number)]
        if not switched:
            return self._texts
        numbers = torch.arange(2 * len(self._controls))
        for pair in switched:
            numbers[len(self._controls) + pair] = pair
        rows = to_device(numbers, self._model.device)
        pooled = None if self._texts.pooled is None else self._texts.pooled[rows]
        return TextStates(self._texts.states[rows], pooled)

    def _added(self, texts: TextStates) -> dict[str, Tensor] | None:
        if texts.pooled is None:
            return None
        return {"text_embeds": texts.pooled, "time_ids": self._sizes.expand(len(texts.pooled), -1)}

    def _begin(self) -> Tensor:
        steps = self._settings.steps
        self._scheduler.set_timesteps(steps, device=self._model.device)
        skipped = (steps - self._settings.steps_run) * self._scheduler.order
        if skipped and hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(skipped)
        return self._scheduler.timesteps[skipped:]

    def _start(self) -> Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        model, settings = self._model, self._settings
        size = (settings.height // model.stride, settings.width // model.stride)
        noise = randn_tensor((len(self._generators), 4, *size), self._generators, model.device, model.dtype)
        if settings.strength == 1:
            return noise * self._scheduler.init_noise_sigma
        anchors = model.encode(_anchors(self._requests)).repeat(2, 1, 1, 1)
        return self._scheduler.add_noise(anchors, noise, self._timesteps[:1].repeat(len(noise)))

    def _control(self, request: PairRequest) -> PairControl:
        captions = (request.source, request.target)
        return pair_control(captions, request.control, len(self._timesteps), self._model.tokenizers[0])

    def _step_options(self) -> dict[str, Any]:
        accepted = inspect.signature(self._scheduler.step).parameters
        return {"generator": self._generators} if "generator" in accepted else {}


def _joined(first: TextStates, second: TextStates) -> TextStates:
    pooled = None
    if first.pooled is not None and second.pooled is not None:
        pooled = torch.cat([first.pooled, second.pooled])
    return TextStates(torch.cat([first.states, second.states]), pooled)


def _anchors(requests: Sequence[PairRequest]) -> Tensor:
    return torch.stack([each.anchor for each in requests if each.anchor is not None])


def _check(model: TextToImage, requests: Sequence[PairRequest], settings: PairSettings) -> None:
    size = (settings.height, settings.width)
    if not requests:
        raise BuildError("Prompt-to-prompt: there is no pair to sample.")
    if settings.steps < 1 or not 0 <= settings.strength <= 1:
        raise BuildError(
            f"Prompt-to-prompt: {settings.steps} steps with strength {settings.strength} are out of range: "
            "at least 1 step, and a strength from 0 to 1."
        )
    if settings.strength and not settings.steps_run:
        raise BuildError(
            f"Prompt-to-prompt: of {settings.steps} steps, a strength of {settings.strength} runs none. "
            f"Raise the strength to {1 / settings.steps:.2g} at least, or the steps."
        )
    if min(size) < model.stride or any(side % model.stride for side in size):
        raise BuildError(
            f"Prompt-to-prompt: {settings.width} x {settings.height} pixels do not fit {model.title}; sides "
            f"must be multiples of {model.stride}."
        )
    for request in requests if settings.strength < 1 else ():
        if request.anchor is None or tuple(request.anchor.shape) != (*size, 3):
            what = "none is given" if request.anchor is None else f"it has {tuple(request.anchor.shape)}"
            raise BuildError(
                f"Prompt-to-prompt: with strength {settings.strength} each pair needs an anchor of shape "
                f"{(*size, 3)}; {what}."
            )
