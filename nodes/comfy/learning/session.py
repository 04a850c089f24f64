"""Learns an instruction inside ComfyUI: fills the request, runs it, and shows and saves its progress."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ....core.encoders.clip import OpenClipModel
from ....core.errors import LearningError, ModelError
from ....core.instruction.instruction import Instruction
from ....core.learning.objective import PairLatents
from ....core.learning.request import DirectionChoice, InitText, LearningRequest, with_direction
from ....core.learning.run import HeldOutWatch, ScaleChoice, learn
from ....core.learning.settings import LearningSettings
from ....core.pairs.pairs import EditPair, EditPairs
from ....core.pairs.thumbnail import thumbnail
from ..encoders.residency import prepare
from ..models.description import describe
from ..sampling.comfy_denoiser import ComfyDenoiser
from ..sampling.latents import encode_condition, encode_image
from ..sampling.text_encoding import count_in_windows, encode_window
from ..types import Clip, Model, Vae
from .callbacks import Display, ShownRun
from .preview import PairPreview
from .progress import LearningProgress, check_interrupted, data_url, size_advice, speed_advice

_NO_GRADIENTS = (
    "Learning: this MODEL carries a patch with weights of its own that no gradients pass, such as a "
    "hypernetwork or a bypassed LoRA. Connect the MODEL without it; LoRAs of Load LoRA work."
)
_HELD_OUT_EVERY = 50
"""Steps between measurements of the held-out pair if there are no previews."""


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


class LearningSession:
    """One learning run.

    Args:
        inputs: what the node is given.
        progress: messages to the panel.

    Raises:
        ModelError: model, CLIP and VAE do not fit each other, or the model is not an InstructPix2Pix model.
        LearningError: the CLIP of the direction loss is another one than the model's.
    """

    def __init__(self, inputs: LearningInputs, progress: LearningProgress) -> None:
        self._progress = progress
        description = describe(inputs.model)
        # Checked before any text encoder is loaded.
        description.require_sites()
        choice = _direction(inputs, description.family.context_width)
        context, _ = encode_window(inputs.clip, inputs.init_text)
        null_context, pooled = encode_window(inputs.clip, "")
        family = description.family
        if context.shape[1] != family.context_width:
            raise ModelError(
                f"Learn Instruction: CLIP gives text states {context.shape[1]} wide, the {family.title} "
                f"needs {family.context_width}. Connect MODEL, CLIP and VAE of the same Load InstructPix2Pix."
            )
        with torch.inference_mode(False):
            # Autograd refuses tensors that are made in inference mode, so they are copied.
            pooled = None if pooled is None else pooled.clone()
            self._denoiser = ComfyDenoiser(inputs.model, pooled, inputs.checkpointing)

        self._preview = PairPreview(inputs.vae, inputs.watched)
        progress.pair = [data_url(image) for image in self._preview.ends()]
        progress.advice = size_advice(
            [(pair.before.shape[1], pair.before.shape[0]) for pair in inputs.pairs],
            family.side,
            family.title,
        ) or speed_advice(self._denoiser.device)
        progress.enter("encoding")
        latents = self._encoded(inputs, inputs.pairs)
        places = [place for place, pair in enumerate(inputs.pairs) if pair is inputs.watched]
        held_out = None if places else self._encoded(inputs, EditPairs((inputs.watched,)))
        self._preview.condition = held_out.before[0] if held_out else latents.before[places[0]]
        self._held_out = held_out
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
        self._thumbnail = thumbnail(inputs.pairs)

    def _encoded(self, inputs: LearningInputs, pairs: EditPairs) -> PairLatents:
        family = self._denoiser.description.family

        def condition(image: Tensor) -> Tensor:
            check_interrupted()
            self._progress.count()
            return encode_condition(self._denoiser.description, inputs.vae, image)

        encoded = PairLatents.encode(
            pairs,
            lambda image: encode_image(inputs.vae, image),
            lambda latent: latent * family.scaling_factor,
            condition,
        )
        before = [self._on_device(latent) for latent in encoded.before]
        after = [self._on_device(latent) for latent in encoded.after]
        masks = [self._on_device(mask) for mask in encoded.masks]
        return PairLatents(before, after, encoded.digest, masks)

    def _on_device(self, tensor: Tensor) -> Tensor:
        # The conversion may copy, too, so it also happens outside of inference mode.
        with torch.inference_mode(False):
            return tensor.clone().to(self._denoiser.device, torch.float32)

    def run(self, display: Display) -> Instruction:
        """Learns.

        Args:
            display: how often progress is shown and saved.

        Raises:
            WorthlessError: the result is not worth keeping (not finite, or nothing changed).
            LearningError: the images are too large for the device's memory, or gradients do not pass a patch
                of the MODEL.
            Interrupted: the user cancelled. After this and any other error, what is learned so far is kept in
                ``output/instructions/unfinished``.
        """
        watch = None
        if self._held_out is not None:
            watch = HeldOutWatch(self._held_out, display.preview_every or _HELD_OUT_EVERY)
        run = ShownRun(display, self._progress, self._preview, self._thumbnail, watch)
        with torch.inference_mode(False), self._denoiser.loaded():
            try:
                instruction = learn(self._request, run, self._scales)
            except RuntimeError as error:
                if "Inference tensors cannot be saved for backward" in str(error):
                    raise LearningError(_NO_GRADIENTS) from error
                raise
            run.finish(instruction)
        return instruction


def _direction(inputs: LearningInputs, context_width: int) -> DirectionChoice:
    if inputs.open_clip is not None and inputs.settings.direction_weight:
        prepare(inputs.open_clip)
    # Autograd refuses tensors that are made in inference mode.
    with torch.inference_mode(False):
        return with_direction(inputs.settings, inputs.pairs, inputs.open_clip, context_width)
