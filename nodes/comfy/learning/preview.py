"""Preview of a learning run: one pair, edited by what is learned so far."""

import torch
from comfy.sd import VAE
from PIL import Image
from torch import Tensor

from ....core.editing.sampler import edit_latents
from ....core.editing.settings import SamplingSettings
from ....core.learning.trainer import Trainer
from ....core.pairs.pairs import EditPair
from ....core.storage.image_tensors import to_image
from ..sampling.latents import decode_image

_STEPS = 12
_SIDE = 256


class PairPreview:
    """Edits the image of one pair, always from the same noise.

    Args:
        vae: decodes the edit.
        pair: the pair.
    """

    condition: Tensor
    """Image condition of the image before the edit, [C, h, w]. Set before the first ``render``."""

    def __init__(self, vae: VAE, pair: EditPair) -> None:
        self._vae = vae
        self._pair = pair

    def ends(self) -> list[Image.Image]:
        """The pair's images before and after the edit."""
        return [_fitted(to_image(image)) for image in (self._pair.before, self._pair.after)]

    @torch.no_grad()
    def render(self, trainer: Trainer, own: tuple[float, float] | None = None) -> Image.Image:
        """The image before the edit, edited by what is learned so far.

        Args:
            trainer: the run.
            own: the instruction's own s_T and s_I, once they are found; None takes those of the settings.
        """
        settings = trainer.settings
        text_scale, image_scale = own or (settings.text_scale, settings.image_scale)
        sampling = SamplingSettings(_STEPS, text_scale, image_scale, settings.seed)
        latent = edit_latents(
            trainer.denoiser,
            self.condition[None],
            trainer.context,
            trainer.null_context,
            trainer.injection(),
            sampling,
        )
        scale = trainer.denoiser.description.family.scaling_factor
        return _fitted(to_image(decode_image(self._vae, latent / scale)[0]))


def _fitted(image: Image.Image) -> Image.Image:
    """Scaled so that the longer side is as long as a preview's."""
    image.thumbnail((_SIDE, _SIDE))
    longest = max(image.size)
    return image.resize((_SIDE * image.width // longest, _SIDE * image.height // longest))
