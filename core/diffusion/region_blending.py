"""Region blending (UltraEdit, Eq. 1): while sampling, the source replaces the edit outside a mask.

The supplement prints ``z_{t-1} = (1 - M_s) z_T + M_s DM(z_t)`` if t is even, else ``DM(z_t)``. This file
differs from it in three points, and in two of them from UltraEdit's code
(``data_generation/sdxl_p2p_pipeline.py``):

- **What is blended in.** The equation has z_T, the noise that sampling starts from, which would never become
  the source. Here, as in the code, it is the source at the noise level that the step reaches.
- **Which steps.** The equation's t is a timestep. The code counts steps from 0 and blends after odd ones:
  states 2, 4, 6, ... (state i is the latent after i steps). Here the count starts at the end: of n states,
  n, n - 2, n - 4, ... are blended. Both agree if n is even. If n is odd, they blend opposite states.
- **The last state.** Here it is always blended, with the clean source, so what lies outside the mask is the
  source. The code does this only if n is even. If n is odd, its last state stays as the model made it. It
  makes its data with 3 or 4 steps: the last 30 % of a schedule of 10 or 14.

The code makes training pairs this way, with Prompt-to-Prompt on SDXL Turbo. Here it limits any edit.
"""

from dataclasses import dataclass

from torch import Tensor

from ..errors import RegionError


def blended_states(steps: int, every: int) -> list[int]:
    """Returns which of the states 1 .. ``steps`` are blended.

    State i is the latent after i steps. A state is blended if the number of steps left is a multiple of
    ``every``, so the last one always is. UltraEdit uses ``every`` 2; the module's text says what differs.

    Args:
        steps: sampling steps, at least 1.
        every: at least 1. With 1 all states are blended, with ``steps`` or more only the last.

    Raises:
        RegionError: ``every`` is below 1.
    """
    if every < 1:
        raise RegionError(
            f"Region Edit: blending every {every} steps is not possible. Use 1 or more; UltraEdit uses 2."
        )
    return [state for state in range(1, steps + 1) if (steps - state) % every == 0]


def blend(mask: Tensor, source: Tensor, state: Tensor) -> Tensor:
    """Eq. 1: ``(1 - M_s) source + M_s z``. A mask of 1 gives the state and 0 the source, bit for bit.

    Args:
        mask: M_s in 0..1, broadcast over the latent. 1 edits, 0 keeps.
        source: the source's latent, at the noise level of the state.
        state: z, the latent after a sampling step.
    """
    return mask * state + (1 - mask) * source


@dataclass(frozen=True)
class Region:
    """Where an edit may act, see ``edit_latents`` in core/editing/sampler.py.

    Raises:
        RegionError: the mask does not fit the latents, or ``every`` is below 1.
    """

    mask: Tensor
    """Soft mask at the latent's size, [B or 1, 1, h, w] in 0..1."""
    source: Tensor
    """Scaled latents of the unedited images, [B, C, h, w]."""
    every: int = 2
    """Steps between blendings, see ``blended_states``."""

    def __post_init__(self) -> None:
        if self.mask.ndim != 4 or self.mask.shape[1] != 1 or self.mask.shape[2:] != self.source.shape[2:]:
            raise RegionError(
                f"Region: a mask of shape {tuple(self.mask.shape)} does not fit latents of shape "
                f"{tuple(self.source.shape)}. "
                "Scale it to the latent's height and width, [batch, 1, height, width]."
            )
        if self.mask.shape[0] not in (1, self.source.shape[0]):
            raise RegionError(
                f"Region: {self.mask.shape[0]} masks were given for {self.source.shape[0]} images. "
                "Give one for each, or one for all."
            )
        blended_states(1, self.every)
