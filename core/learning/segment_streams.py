"""Training samples of every timestep segment, in an order that a resumed run continues."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from ..diffusion.schedule import SEEDS, fixed_noise, segment_bounds
from .checkpoint import check_tensors
from .objective import PairLatents
from .settings import LearningSettings


class SegmentStream:
    """The endless training samples of one segment: shuffled passes over its timesteps, each timestep once a
    pass. With several strata the passes draw from as many equal ranges of the timesteps in turn.

    With fresh noise a sample has a random pair and new noise; with fixed noise both follow from its timestep.
    Every segment has a separate generator, so its samples do not depend on which other segments are trained.
    """

    def __init__(self, segment: int, settings: LearningSettings) -> None:
        self._fixed = settings.noise == "fixed"
        self._seed = settings.seed
        self._first, self._last = segment_bounds(segment, settings.segments)
        self._strata = settings.strata
        # The product gives different seeds to all pairs of seed and segment.
        self.generator = Generator().manual_seed((settings.seed * 1009 + segment) % SEEDS)
        self.order = torch.empty(0, dtype=torch.int64)
        self.position = 0

    def draw(self, latents: PairLatents) -> tuple[int, int, Tensor]:
        """(pair, timestep, noise) of the next sample."""
        if self.position >= len(self.order):
            self.order = self._shuffled()
            self.position = 0
        timestep = int(self.order[self.position])
        self.position += 1
        if self._fixed:
            pair = timestep % len(latents.after)
            return pair, timestep, fixed_noise(latents.after[pair].shape, timestep, self._seed)
        pair = int(torch.randint(len(latents.after), (1,), generator=self.generator))
        return pair, timestep, torch.randn(latents.after[pair].shape, generator=self.generator)

    def _shuffled(self) -> Tensor:
        count = self._last - self._first
        if self._strata == 1:
            return torch.randperm(count, generator=self.generator) + self._first
        ranges = torch.arange(self._first, self._last).tensor_split(min(self._strata, count))
        passes = [times[torch.randperm(len(times), generator=self.generator)] for times in ranges]
        shortest = min(len(times) for times in passes)
        in_turn = torch.stack([times[:shortest] for times in passes], dim=1).flatten()
        return torch.cat([in_turn, *(times[shortest:] for times in passes)])

    def mark(self) -> tuple[Tensor, Tensor, int]:
        """The current position, for ``rewind``."""
        return self.generator.get_state(), self.order, self.position

    def rewind(self, mark: tuple[Tensor, Tensor, int]) -> None:
        """Goes back to a mark: the next samples are those that followed it."""
        self.generator.set_state(mark[0])
        self.order, self.position = mark[1:]

    def state(self) -> dict[str, Tensor]:
        """The current position as tensors, for ``load_state``."""
        return {
            "generator": self.generator.get_state(),
            "order": self.order,
            "position": torch.tensor(self.position),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues from ``state``."""
        self.rewind((state["generator"].cpu(), state["order"].cpu(), int(state["position"])))

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Checks that a state fits this stream.

        Raises:
            ValueError: it has other tensors, or its order is not a pass over the segment's timesteps.
        """
        timesteps = torch.arange(self._first, self._last)
        order = timesteps if "order" in state and state["order"].numel() else self.order.new_empty(0)
        check_tensors(state, {**self.state(), "order": order})
        position = int(state["position"])
        if not torch.equal(state["order"].sort().values, order) or not 0 <= position <= len(order):
            raise ValueError("its order is not a pass over its timesteps")
        try:
            Generator().set_state(state["generator"])
        except RuntimeError as error:
            raise ValueError("its generator has no such state") from error
