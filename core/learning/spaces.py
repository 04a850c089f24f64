"""What a learning run may learn: keys and values of every layer, or the text encoder's states. Two spaces, one trainer."""

from typing import Protocol

import torch
from torch import Tensor

from ..editing.denoiser import Denoiser
from ..instruction.injection import InjectedInstruction
from .settings import LearningSettings


class Space(Protocol):
    """Learned tensors and what they make of the text states of the init phrase.

    Every learned tensor is kept for each of j segments. With ``separate`` segments a tensor [j, m, width] is the parameter itself; with
    ``shared`` ones there are two, ``gamma`` [m, width] and ``delta`` [j, m, width], and what acts is ``gamma_j = gamma + delta_j``.
    """

    parameters: dict[str, Tensor]
    """What the optimizer moves."""

    def part(self) -> InjectedInstruction:
        """What acts now, differentiable in :attr:`parameters`."""
        ...

    def learned(self) -> dict[str, Tensor]:
        """What acts now by its names in an :class:`~...instruction.artefact.Instruction`: ``keys.<site>``, ``values.<site>`` or ``rows``, on the CPU."""
        ...

    def beginning(self) -> dict[str, Tensor]:
        """The same before the first step, for one segment, [m, width]."""
        ...


class _Segmented:
    """Tensors [m, width] learned for every segment, under either parametrisation."""

    def __init__(self, initial: dict[str, Tensor], settings: LearningSettings) -> None:
        self._initial, self._shared = initial, settings.parametrisation == "shared"
        self.parameters: dict[str, Tensor] = {}
        for name, rows in initial.items():
            if self._shared:
                kind, _, site = name.partition(".")
                self.parameters[name] = rows.clone()
                self.parameters[f"{kind}_delta.{site}"] = torch.zeros(
                    settings.segments, *rows.shape, device=rows.device
                )
            else:
                self.parameters[name] = rows.repeat(settings.segments, 1, 1)
        for tensor in self.parameters.values():
            tensor.requires_grad_(True)

    def gamma(self, name: str) -> Tensor:
        """What acts, [j, m, width]."""
        if not self._shared:
            return self.parameters[name]
        kind, _, site = name.partition(".")
        return self.parameters[name] + self.parameters[f"{kind}_delta.{site}"]

    @torch.no_grad()
    def learned(self) -> dict[str, Tensor]:
        return {name: self.gamma(name).detach().cpu().clone() for name in self._initial}

    def beginning(self) -> dict[str, Tensor]:
        return {name: rows.detach().cpu() for name, rows in self._initial.items()}


class AttentionSpace(_Segmented):
    """InstructBrush: keys and values of every cross-attention layer, started from the projections of the init phrase."""

    def __init__(
        self, denoiser: Denoiser, context: Tensor, start: int, tokens: int, settings: LearningSettings
    ) -> None:
        self.context, self.start = context, start
        rows = slice(start, start + tokens)
        projected = denoiser.project(context)
        initial = {
            f"{kind}.{site}": pair[place][rows].float()
            for site, pair in projected.items()
            for place, kind in enumerate(("keys", "values"))
        }
        super().__init__(initial, settings)

    def part(self) -> InjectedInstruction:
        return InjectedInstruction.attention(self.context, self.start, self._kind("keys."), self._kind("values."))

    def _kind(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): self.gamma(name) for name in self._initial if name.startswith(prefix)
        }


class TextSpace(_Segmented):
    """Visii: the text encoder's output states, started from those of the init phrase."""

    def __init__(self, context: Tensor, start: int, tokens: int, settings: LearningSettings) -> None:
        self.context, self.start = context, start
        super().__init__({"rows": context[start : start + tokens].float().clone()}, settings)

    def part(self) -> InjectedInstruction:
        return InjectedInstruction.text(self.context, self.start, self.gamma("rows"))
