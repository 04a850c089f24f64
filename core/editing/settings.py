"""How an edit is sampled."""

from dataclasses import dataclass, replace

from ..diffusion.schedule import SEEDS
from ..models.families import Family


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of one edit. Hashable and picklable, so they can be part of a benchmark's settings."""

    steps: int = 20
    text_scale: float | None = None
    """s_T of Eq. 3. None leaves it to the instruction or the model, see ``scales_for``."""
    image_scale: float | None = None
    """s_I of Eq. 3. None leaves it to the instruction or the model, see ``scales_for``."""
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
        """Returns s_T without an instruction's own scales: the given one, or the family's default."""
        return family.default_text_scale if self.text_scale is None else self.text_scale

    def image_scale_for(self, family: Family) -> float:
        """Returns s_I without an instruction's own scales: the given one, or the family's default."""
        return family.default_image_scale if self.image_scale is None else self.image_scale

    def scales_for(self, family: Family, own: tuple[float, float] | None = None) -> tuple[float, float]:
        """Returns the scales (s_T, s_I) of an edit: the one rule for nodes, commands and benchmarks.

        If both scales are None, they are the instruction's own, or without own scales the defaults of the
        model's family. If one is given, the other is the family's default: the instruction's scales were
        found as a pair and say nothing about one of them beside another number.

        Args:
            family: of the model.
            own: the instruction's own scales, see ``own_scales`` in core/instruction/instruction.py.
        """
        if self.text_scale is None and self.image_scale is None and own is not None:
            return own
        return self.text_scale_for(family), self.image_scale_for(family)

    def with_scales_for(self, family: Family, own: tuple[float, float] | None = None) -> "SamplingSettings":
        """Returns the same settings with the scales of ``scales_for`` as numbers."""
        text_scale, image_scale = self.scales_for(family, own)
        return replace(self, text_scale=text_scale, image_scale=image_scale)


DEFAULT_SAMPLING = SamplingSettings()
