"""How an edit is sampled."""

from dataclasses import dataclass

from ..diffusion.schedule import SEEDS
from ..models.families import Family


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of one edit. Hashable and picklable, so they can be part of a benchmark's settings."""

    steps: int = 20
    text_scale: float | None = None
    """s_T of Eq. 3. None is the default of the model's family."""
    image_scale: float = 1.5
    """s_I of Eq. 3."""
    seed: int | tuple[int, ...] = 0
    """Seed of each image's noise. With a single number, image i gets ``seed + i``."""
    fixed_noise: bool = False
    """Whether every image gets the noise that learning with fixed noise drew for each timestep (Visii).

    The first seed must then be the one that the instruction was learned with.
    """

    def seeds(self, images: int) -> list[int]:
        """Returns the seed of each image."""
        if isinstance(self.seed, int):
            return [(self.seed + index) % SEEDS for index in range(images)]
        return list(self.seed)

    def text_scale_for(self, family: Family) -> float:
        """Returns s_T for a model of this family."""
        return family.default_text_scale if self.text_scale is None else self.text_scale


DEFAULT_SAMPLING = SamplingSettings()
