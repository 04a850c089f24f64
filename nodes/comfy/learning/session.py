"""Learns an instruction inside ComfyUI: fills the request, runs it, and shows and saves its progress."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ....core.devices import is_out_of_memory
from ....core.encoders.clip import OpenClipModel
from ....core.errors import ModelError
from ....core.instruction.instruction import Instruction, own_scales
from ....core.learning.checkpoint import CheckpointSchedule
from ....core.learning.objective import PairLatents
from ....core.learning.request import DirectionChoice, InitText, LearningRequest, with_direction
from ....core.learning.run import RunCallbacks, ScaleChoice, learn
from ....core.learning.settings import LearningSettings
from ....core.learning.trainer import Trainer
from ....core.pairs.pairs import EditPair, EditPairs, thumbnail
from ..encoders.residency import prepare
from ..models.description import describe
from ..sampling.comfy_denoiser import ComfyDenoiser
from ..sampling.latents import encode_condition, encode_image
from ..sampling.text_encoding import count_in_windows, encode_window
from ..types import Clip, Model, Vae
from .preview import PairPreview
from .progress import Interrupted, LearningProgress, check_interrupted
from .unfinished import Unfinished


@dataclass(frozen=True)
class LearningInputs:
    """What a learning node is given."""

    model: Model
    clip: Clip
    vae: Vae
    pairs: EditPairs
    watched: EditPair
    """The pair whose edit is previewed. If it is none of the pairs, guidance scales are compared on it."""
    init_text: str
    settings: LearningSettings
    open_clip: OpenClipModel | None = None
    """The CLIP of the direction loss."""
    checkpointing: bool = False
    """Save memory by recomputing activations."""
    search_scales: bool = True
    """Find the guidance scales that suit the instruction."""


@dataclass(frozen=True)
class Display:
    """Where and how often a run shows its progress."""

    node: str
    """Id of the node."""
    preview_every: int = 0
    """Steps between previews, 0 for none."""


class LearningSession:
    """One learning run.

    Raises:
        ModelError: model, CLIP and VAE do not fit each other, or the model is not an InstructPix2Pix model.
        LearningError: the CLIP of the direction loss is another one than the model's.
    """

    def __init__(self, inputs: LearningInputs) -> None:
        description = describe(inputs.model)
        # Checked before any text encoder is loaded.
        description.require_sites()
        choice = _direction(inputs, description.family.context_width)
        context, pooled = encode_window(inputs.clip, inputs.init_text)
        null_context, null_pooled = encode_window(inputs.clip, "")
        family = description.family
        if context.shape[1] != family.context_width:
            raise ModelError(
                f"Learn Instruction: CLIP gives text states {context.shape[1]} wide, the {family.title} "
                f"needs {family.context_width}. Connect MODEL, CLIP and VAE of the same Load InstructPix2Pix."
            )
        with torch.inference_mode(False):
            # Autograd refuses tensors that are made in inference mode, so they are copied.
            pooled = None if pooled is None else pooled.clone()
            null_pooled = None if null_pooled is None else null_pooled.clone()
            self._denoiser = ComfyDenoiser(inputs.model, (pooled, null_pooled), inputs.checkpointing)

        latents = self._encoded(inputs, inputs.pairs)
        places = [place for place, pair in enumerate(inputs.pairs) if pair is inputs.watched]
        held_out = None if places else self._encoded(inputs, EditPairs((inputs.watched,)))
        watched = held_out.before[0] if held_out else latents.before[places[0]]
        self._scales = ScaleChoice(held_out) if inputs.search_scales else None
        windows = count_in_windows(inputs.clip, inputs.init_text)
        self._request = LearningRequest(
            self._denoiser,
            latents,
            InitText(inputs.init_text, self._on_device(context), sum(windows), windows[0]),
            self._on_device(null_context),
            choice.settings,
            choice.direction,
            direction_remark=choice.remark,
        )
        self._preview = PairPreview(inputs.vae, inputs.watched, watched)
        self._thumbnail = thumbnail(inputs.pairs)

    def _encoded(self, inputs: LearningInputs, pairs: EditPairs) -> PairLatents:
        family = self._denoiser.description.family
        encoded = PairLatents.encode(
            pairs,
            lambda image: encode_image(inputs.vae, image),
            lambda latent: latent * family.scaling_factor,
            lambda image: encode_condition(self._denoiser.description, inputs.vae, image),
        )
        before = [self._on_device(latent) for latent in encoded.before]
        after = [self._on_device(latent) for latent in encoded.after]
        masks = [self._on_device(mask) for mask in encoded.masks]
        return PairLatents(before, after, encoded.digest, masks)

    def _on_device(self, tensor: Tensor) -> Tensor:
        # The conversion may copy, too, so it also happens outside of inference mode.
        with torch.inference_mode(False):
            return tensor.clone().to(self._denoiser.device, torch.float32)

    def run(self, display: Display, resume: bool = True) -> tuple[Instruction, dict[str, Any]]:
        """Learns.

        Args:
            display: where progress is shown.
            resume: continue a stopped run of the same model, pairs, words and settings; its steps and
                previews may differ.

        Returns:
            The instruction, and everything that the panel showed.

        Raises:
            WorthlessError: the result is not worth keeping (not finite, or nothing changed).
            LearningError: the images are too large for the device's memory.
            Interrupted: the user cancelled. After this and any other error, what is learned so far is kept in
                ``output/instructions/unfinished``.
        """
        run = _Run(display, self._preview, self._thumbnail, resume)
        with torch.inference_mode(False), self._denoiser.loaded():
            instruction = learn(self._request, run, self._scales)
            run.show_scales(instruction)
            run.files.remove()
        return instruction, run.summary()


def _direction(inputs: LearningInputs, context_width: int) -> DirectionChoice:
    if inputs.open_clip is not None and inputs.settings.direction_weight:
        prepare(inputs.open_clip)
    # Autograd refuses tensors that are made in inference mode.
    with torch.inference_mode(False):
        return with_direction(inputs.settings, inputs.pairs, inputs.open_clip, context_width)


class _Run(RunCallbacks):
    """Progress, previews and checkpoints of a run."""

    def __init__(self, display: Display, preview: PairPreview, image: Image.Image, resume: bool) -> None:
        self._display = display
        self._preview = preview
        self._thumbnail = image
        self._resume = resume

    def before_steps(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.files = Unfinished(trainer, self._thumbnail)
        remarks = trainer.request.remarks
        for remark in remarks:
            logging.info("InstructBrush: %s", remark)
        if self._resume:
            remarks.append(self.files.resume())
        remark = " ".join(remark for remark in remarks if remark)
        self._progress = LearningProgress(
            self._display.node, trainer.settings.steps, trainer.steps_done, remark
        )
        self._progress.show(trainer.steps_done, trainer.losses)
        self._schedule = CheckpointSchedule(self.files.save_checkpoint, self._progress.warn)

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        check_interrupted()
        last = done == total
        every = self._display.preview_every
        image = None
        if every and (done % every == 0 or last):
            image = self._preview_if_it_fits(trainer)
        if last or image is not None or self._progress.due():
            self._progress.show(done, trainer.losses, image)
            trainer.check_finite()
        if not last:
            self._schedule.save_if_due()

    def _preview_if_it_fits(
        self, trainer: Trainer, own: tuple[float, float] | None = None
    ) -> Image.Image | None:
        """A preview; None if memory runs out for it, which does not stop the run."""
        try:
            return self._preview.render(trainer, own)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logging.warning("InstructBrush: memory ran out for a preview; learning continues without it.")
            return None

    def after_candidate(self, trainer: Trainer, done: int, total: int) -> None:
        check_interrupted()
        self._progress.show(
            trainer.steps_done, trainer.losses, state=f"guidance scales: {done} of {total} tried"
        )

    def show_scales(self, instruction: Instruction) -> None:
        """Shows the instruction's own guidance scales, and the last preview with them."""
        own = own_scales(instruction)
        if own is None:
            return
        self._progress.add_remark(f"guidance: text_scale {own[0]:g}, image_scale {own[1]:g}")
        image = self._preview_if_it_fits(self._trainer, own) if self._display.preview_every else None
        self._progress.show(self._trainer.steps_done, self._trainer.losses, image)

    def discard(self, trainer: Trainer) -> None:
        self.files.remove()

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        state = self.files.keep("cancelled" if isinstance(error, Interrupted) else "stopped")
        if state:
            logging.warning("InstructBrush: %s", state)
            self._progress.show(trainer.steps_done, trainer.losses, state=state)

    def summary(self) -> dict[str, Any]:
        """Everything that the panel showed."""
        return self._progress.summary(self._trainer.losses)
