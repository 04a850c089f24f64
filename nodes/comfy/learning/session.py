"""A learning run inside ComfyUI: encoded with its CLIP and VAE, trained through its MODEL, watched, cancelled and taken up again."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ....core.devices import is_out_of_memory
from ....core.editing.sampler import edit_latents
from ....core.errors import ModelError, WorthlessError
from ....core.instruction.instruction import Instruction
from ....core.learning.checkpoint import Keeper
from ....core.learning.objective import Direction, PairLatents
from ....core.learning.settings import LearningSettings
from ....core.learning.trainer import Trainer
from ....core.pairs.pairs import EditPair, EditPairs, thumbnail
from ....core.storage.images import to_image
from ..models.description import describe
from ..sampling.engine import ComfyDenoiser
from ..sampling.latents import decode_image, encode_condition, encode_image
from ..sampling.text_encoding import count_tokens, encode_window
from .progress import Interrupted, LearningProgress, check_interrupted
from .unfinished import Unfinished

_PREVIEW_STEPS = 12
_PREVIEW_SIDE = 256


class LearningSession:
    """One learning run.

    Args:
        model, clip, vae: of one InstructPix2Pix model.
        pairs: what to learn from.
        watched: the pair whose edit is previewed.
        init_text: words that come close to the edit.
        settings: how to learn.
        checkpointing: save memory by recomputing activations.
        direction: how the images differ in CLIP space, for settings with a ``direction_weight``.

    Raises:
        ModelError: the parts do not fit each other, or the model is no InstructPix2Pix model.
        LearningError: the init text is too long.
    """

    def __init__(
        self,
        model: ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        pairs: EditPairs,
        watched: EditPair,
        init_text: str,
        settings: LearningSettings,
        checkpointing: bool = False,
        direction: Direction | None = None,
    ) -> None:
        describe(model).require_sites()  # before its text encoders are loaded for nothing
        (context, pooled), (null, null_pooled) = encode_window(clip, init_text), encode_window(clip, "")
        # Whatever was made in inference mode is copied out of it: autograd refuses such tensors.
        with torch.inference_mode(False):
            pooled, null_pooled = (
                states if states is None else states.clone() for states in (pooled, null_pooled)
            )
            self.denoiser = ComfyDenoiser(model, (pooled, null_pooled), checkpointing)
            self.context, self.null_context = (
                states.clone().to(self.denoiser.device) for states in (context, null)
            )
        description = self.denoiser.description
        family = description.family
        if context.shape[1] != family.context_width:
            raise ModelError(
                f"Learn Instruction: CLIP gives text states {context.shape[1]} wide, the {family.title} needs {family.context_width}. "
                "Connect MODEL, CLIP and VAE of the same Load InstructPix2Pix."
            )
        self.vae, self.pairs, self.watched = vae, pairs, watched
        self.settings, self.init_text, self.direction = settings, init_text, direction
        self.phrase_tokens = count_tokens(clip, init_text)
        self.scale = family.scaling_factor

        def condition(image: Tensor) -> Tensor:
            return encode_condition(description, vae, image)

        encoded = PairLatents.encode(
            pairs, lambda image: encode_image(vae, image), lambda latent: latent * self.scale, condition
        )
        self._watched_latent = self._trainable([condition(watched.before[None])[0]])[0]
        self.latents = PairLatents(
            self._trainable(encoded.before), self._trainable(encoded.after), encoded.digest
        )

    def run(
        self, node: str, preview_every: int = 0, resume: bool = True
    ) -> tuple[Instruction, dict[str, Any]]:
        """Learn.

        Args:
            node: id of the node that shows the progress.
            preview_every: steps between previews, 0 for none.
            resume: go on with a run of the same model, pairs, words and settings that was stopped; it may have had other steps and previews.

        Returns:
            The instruction, and the whole of what the panel showed.

        Raises:
            WorthlessError: what was learned is not worth keeping (not finite, nothing moved).
            LearningError: the images are too large for the device's memory.
            Interrupted: the user cancelled. Then, and whatever else is raised, what was learned lies in ``output/instructions/unfinished``.
        """
        with torch.inference_mode(False), self.denoiser.loaded():
            trainer = Trainer(
                self.denoiser,
                self.latents,
                self.context,
                self.null_context,
                self.settings,
                self.init_text,
                self.phrase_tokens,
                self.direction,
            )
            files = Unfinished(trainer, thumbnail(self.pairs))
            remark = files.take_up() if resume else ""
            progress = LearningProgress(node, self.settings.steps, trainer.steps_done, remark)
            progress.show(trainer.steps_done, trainer.losses)
            with self._kept(trainer, files, progress):
                trainer.run(self._after_step(trainer, files, progress, preview_every))
                instruction = trainer.instruction()
            files.remove()
        return instruction, progress.summary(trainer.losses)

    def _after_step(
        self, trainer: Trainer, files: Unfinished, progress: LearningProgress, preview_every: int
    ) -> Callable[[int, int], None]:
        keeper = Keeper(files.save_checkpoint, progress.warn)

        def after_step(done: int, total: int) -> None:
            check_interrupted()
            last = done == total
            preview = (
                self._preview_if_it_fits(trainer)
                if preview_every and (done % preview_every == 0 or last)
                else None
            )
            if last or preview is not None or progress.due():
                progress.show(done, trainer.losses, preview)
                trainer.check_finite()
            if not last:
                keeper.offer()

        return after_step

    @contextmanager
    def _kept(self, trainer: Trainer, files: Unfinished, progress: LearningProgress) -> Iterator[None]:
        """Keep what was learned when the user cancels or something fails; drop what must not be gone on with."""
        try:
            yield
        except WorthlessError:
            files.remove()
            raise
        except BaseException as error:
            state = files.keep("cancelled" if isinstance(error, Interrupted) else "stopped")
            if state:
                logging.warning("InstructBrush: %s", state)
                progress.show(trainer.steps_done, trainer.losses, state=state)
            raise

    def _preview_if_it_fits(self, trainer: Trainer) -> Image.Image | None:
        """A preview; None where memory runs out for it, which is no reason to end the run."""
        try:
            return self._preview(trainer)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logging.warning("InstructBrush: memory ran out for a preview; learning goes on without it.")
            return None

    @torch.no_grad()
    def _preview(self, trainer: Trainer) -> Image.Image:
        """The watched pair: before, edited so far (always from the same noise), after."""
        latent = edit_latents(
            self.denoiser,
            self._watched_latent[None],
            self.context,
            self.null_context,
            trainer.injection(),
            steps=_PREVIEW_STEPS,
            text_scale=self.settings.text_scale,
            image_scale=self.settings.image_scale,
            seed=self.settings.seed,
        )
        edited = decode_image(self.vae, latent / self.scale)[0]
        strip = Image.new("RGB", (3 * _PREVIEW_SIDE, _PREVIEW_SIDE))
        for place, frame in enumerate((self.watched.before, edited, self.watched.after)):
            image = to_image(frame)
            image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
            larger = image.resize(
                (
                    _PREVIEW_SIDE * image.width // max(image.size),
                    _PREVIEW_SIDE * image.height // max(image.size),
                )
            )
            strip.paste(larger, (place * _PREVIEW_SIDE, 0))
        return strip

    def _trainable(self, latents: Any) -> list[Tensor]:
        with torch.inference_mode(False):
            return [latent.clone().to(self.denoiser.device, torch.float32) for latent in latents]
