"""What each timestep segment is trained on, in an order that a run can go on in."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from ..diffusion.schedule import SEEDS, fixed_noise, segment_bounds
from .checkpoint import check_tensors
from .objective import PairLatents
from .settings import LearningSettings


class SegmentStream:
    """The endless training samples of one segment: shuffled passes over its timesteps, so that each comes once a round.

    With fresh noise a sample has a random pair and noise of its own; with fixed noise both follow from its timestep.

    Every segment draws from a generator of its own, so what a segment sees does not depend on which others are trained beside it.
    """

    def __init__(self, segment: int, settings: LearningSettings) -> None:
        segments, seed = settings.segments, settings.seed
        self._fixed, self._seed = settings.noise == "fixed", seed
        self._first, self._last = segment_bounds(segment, segments)
        # Generators with neighbouring seeds give unrelated streams; the product keeps (seed, segment) pairs apart.
        self.generator = Generator().manual_seed((seed * 1009 + segment) % SEEDS)
        self.order = torch.empty(0, dtype=torch.int64)
        self.position = 0

    def draw(self, latents: PairLatents) -> tuple[int, int, Tensor]:
        """(pair, timestep, noise) of the next sample."""
        if self.position >= len(self.order):
            self.order = torch.randperm(self._last - self._first, generator=self.generator) + self._first
            self.position = 0
        timestep = int(self.order[self.position])
        self.position += 1
        if self._fixed:
            pair = timestep % len(latents.after)
            return pair, timestep, fixed_noise(latents.after[pair].shape, timestep, self._seed)
        pair = int(torch.randint(len(latents.after), (1,), generator=self.generator))
        return pair, timestep, torch.randn(latents.after[pair].shape, generator=self.generator)

    def mark(self) -> tuple[Tensor, Tensor, int]:
        """Where the stream is, for :meth:`rewind`."""
        return self.generator.get_state(), self.order, self.position

    def rewind(self, mark: tuple[Tensor, Tensor, int]) -> None:
        """Go back to a mark: what comes next is what came then."""
        self.generator.set_state(mark[0])
        self.order, self.position = mark[1:]

    def state(self) -> dict[str, Tensor]:
        """Where the stream is, for :meth:`load_state`."""
        return {
            "generator": self.generator.get_state(),
            "order": self.order,
            "position": torch.tensor(self.position),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.rewind((state["generator"].cpu(), state["order"].cpu(), int(state["position"])))

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """See that :meth:`load_state` can go on from a state.

        Raises:
            ValueError: it has other tensors, or what they hold is no pass over the segment's timesteps.
        """
        timesteps = torch.arange(self._first, self._last)
        order = timesteps if "order" in state and state["order"].numel() else self.order.new_empty(0)
        check_tensors(state, {**self.state(), "order": order})
        position = int(state["position"])
        if not torch.equal(state["order"].sort().values, order) or not 0 <= position <= len(order):
            raise ValueError("its order is no pass over its timesteps")
        try:
            Generator().set_state(state["generator"])
        except RuntimeError as error:
            raise ValueError("its generator has no such state") from error
