"""Edits that stay in a region: the source is put back outside the mask while sampling (UltraEdit, Eq. 1)."""

from dataclasses import dataclass

from torch import Tensor

from ..errors import RegionError


def blended_states(steps: int, every: int) -> list[int]:
    """Which of the states 1 .. ``steps`` that sampling reaches are blended: those with a multiple of ``every`` steps left, so always the last.

    UltraEdit blends where the steps left are even (``every`` 2).

    Args:
        steps: sampling steps, at least 1.
        every: at least 1; 1 blends every state, ``steps`` or more the last alone.

    Raises:
        RegionError: ``every`` is below 1.
    """
    if every < 1:
        raise RegionError(
            f"Region Edit: blending every {every} steps is not possible. Use 1 or more; 2 is UltraEdit's."
        )
    return [state for state in range(1, steps + 1) if (steps - state) % every == 0]


def blend(mask: Tensor, source: Tensor, state: Tensor) -> Tensor:
    """Eq. 1: ``(1 - M_s) source + M_s z``. 1 gives the state and 0 the source, bit for bit.

    Args:
        mask: M_s, 0..1, broadcast over the latent: 1 edits, 0 keeps.
        source: the source's latent, noised as much as the state is.
        state: z, what the model made of the last state.
    """
    return mask * state + (1 - mask) * source


@dataclass(frozen=True)
class Region:
    """Where an edit may act, for :func:`~..editing.sampler.edit_latents`."""

    mask: Tensor
    """Soft mask at the latent's size, [B or 1, 1, h, w] in 0..1."""
    source: Tensor
    """Scaled latents of the images themselves, [B, C, h, w]."""
    every: int = 2
    """Steps from one blending to the next; see :func:`blended_states`."""

    def __post_init__(self) -> None:
        if self.mask.ndim != 4 or self.mask.shape[1] != 1 or self.mask.shape[2:] != self.source.shape[2:]:
            raise RegionError(
                f"Region: a mask of shape {tuple(self.mask.shape)} does not fit latents of shape {tuple(self.source.shape)}. "
                "Scale it to the latent's height and width, [batch, 1, height, width]."
            )
        if self.mask.shape[0] not in (1, self.source.shape[0]):
            raise RegionError(
                f"Region: {self.mask.shape[0]} masks were given for {self.source.shape[0]} images. Give one for each, or one for all."
            )
        blended_states(1, self.every)
