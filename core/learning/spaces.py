"""Learned tensors: keys and values of every cross-attention layer, text states, or adapters."""

from typing import Protocol

import torch
from torch import Generator, Tensor

from ..editing.denoiser import Denoiser
from ..instruction.adapter import adapter_widths
from ..instruction.injected_instruction import InjectedInstruction
from .settings import LearningSettings


class Space(Protocol):
    """Learned tensors, and the part of an injection that they make.

    Every learned tensor has values for each of j segments. With ``separate`` segments the parameter is a
    tensor [j, m, width]. With ``shared`` segments there are two parameters, ``gamma`` [m, width] and
    ``delta`` [j, m, width], and the values are ``gamma_j = gamma + delta_j``.
    """

    parameters: dict[str, Tensor]
    """What the optimizer changes."""
    rate_factors: dict[str, float]
    """Parameters whose learning rate is the settings' times a factor; all others have factor 1."""

    def part(self) -> InjectedInstruction:
        """The current values as a part of an injection, differentiable in ``parameters``."""
        ...

    def learned(self) -> dict[str, Tensor]:
        """The current values on the CPU, [j, m, width], by the names of ``Instruction.learned``."""
        ...

    def initial(self) -> dict[str, Tensor]:
        """The values before the first step, on the CPU, the same for all segments, [m, width]."""
        ...


class _SegmentedTensors:
    """Tensors [m, width] that are learned for every segment."""

    def __init__(self, initial: dict[str, Tensor], settings: LearningSettings) -> None:
        self._initial = initial
        self._shared = settings.parametrisation == "shared"
        self.parameters: dict[str, Tensor] = {}
        self.rate_factors: dict[str, float] = {}
        for name, rows in initial.items():
            if self._shared:
                self.parameters[name] = rows.clone()
                delta = torch.zeros(settings.segments, *rows.shape, device=rows.device)
                self.parameters[_delta_name(name)] = delta
            else:
                self.parameters[name] = rows.repeat(settings.segments, 1, 1)
        for tensor in self.parameters.values():
            tensor.requires_grad_(True)

    def values(self, name: str) -> Tensor:
        """gamma_j of all segments, [j, m, width]."""
        if not self._shared:
            return self.parameters[name]
        return self.parameters[name] + self.parameters[_delta_name(name)]

    def _of(self, prefix: str) -> dict[str, Tensor]:
        """The values of all names with a prefix, without it."""
        return {
            name.removeprefix(prefix): self.values(name) for name in self._initial if name.startswith(prefix)
        }

    @torch.no_grad()
    def learned(self) -> dict[str, Tensor]:
        return {name: self.values(name).detach().cpu().clone() for name in self._initial}

    def initial(self) -> dict[str, Tensor]:
        return {name: rows.detach().cpu() for name, rows in self._initial.items()}


def _delta_name(name: str) -> str:
    kind, _, site = name.partition(".")
    return f"{kind}_delta.{site}"


class AttentionSpace(_SegmentedTensors):
    """InstructBrush: keys and values of every cross-attention layer, starting from the projected init
    text."""

    def __init__(
        self, denoiser: Denoiser, context: Tensor, start: int, tokens: int, settings: LearningSettings
    ) -> None:
        self.context = context
        self.start = start
        rows = slice(start, start + tokens)
        initial: dict[str, Tensor] = {}
        for site, (keys, values) in denoiser.project(context).items():
            initial[f"keys.{site}"] = keys[rows].float()
            initial[f"values.{site}"] = values[rows].float()
        super().__init__(initial, settings)

    def part(self) -> InjectedInstruction:
        return InjectedInstruction.attention(self.context, self.start, self._of("keys."), self._of("values."))


class TextSpace(_SegmentedTensors):
    """Visii: the text encoder's output states, starting from those of the init text."""

    def __init__(self, context: Tensor, start: int, tokens: int, settings: LearningSettings) -> None:
        self.context = context
        self.start = start
        super().__init__({"rows": context[start : start + tokens].float().clone()}, settings)

    def part(self) -> InjectedInstruction:
        return InjectedInstruction.text(self.context, self.start, self.values("rows"))


class AdapterSpace(_SegmentedTensors):
    """Residuals of every attention layer that start at zero, and keys and values unless m is 0."""

    def __init__(
        self, denoiser: Denoiser, context: Tensor, start: int, tokens: int, settings: LearningSettings
    ) -> None:
        rows = AttentionSpace(denoiser, context, start, tokens, settings) if tokens else None
        self._context = context
        self._start = start
        widths = adapter_widths(denoiser.description.sites)
        generator = Generator().manual_seed(settings.seed)
        initial = {} if rows is None else dict(rows.initial())
        for name, width in widths.items():
            layer, place, side = name.rsplit(".", 2)
            is_bypass = place == "bypass"
            if is_bypass and not layer.endswith("attn2"):
                continue
            rank = settings.bypass if is_bypass else settings.rank
            if not rank:
                continue
            tensor = torch.zeros(rank, width)
            if side == "down":
                tensor.uniform_(-(width**-0.5), width**-0.5, generator=generator)
            initial[f"adapter.{name}"] = tensor
        super().__init__({name: tensor.to(denoiser.device) for name, tensor in initial.items()}, settings)
        factor = settings.adapter_rate / settings.learning_rate
        self.rate_factors = {
            name: factor * (settings.up_ratio if name.endswith(".up") else 1)
            for name in self.parameters
            if name.startswith("adapter")
        }

    def part(self) -> InjectedInstruction:
        rows = InjectedInstruction.attention(
            self._context, self._start, self._of("keys."), self._of("values.")
        )
        return rows.with_adapter(self._of("adapter."))


def make_space(
    denoiser: Denoiser, context: Tensor, start: int, tokens: int, settings: LearningSettings
) -> Space:
    """Returns the space that the settings name.

    Args:
        denoiser: the frozen model.
        context: text states of the init text, [L, D].
        start: first learned row.
        tokens: m, number of learned rows.
        settings: how to learn.
    """
    match settings.space:
        case "attention":
            return AttentionSpace(denoiser, context, start, tokens, settings)
        case "text":
            return TextSpace(context, start, tokens, settings)
        case "adapter":
            return AdapterSpace(denoiser, context, start, tokens, settings)
