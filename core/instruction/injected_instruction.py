"""One instruction of an injection: its learned tensors on the model's device, selected by segment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .adapter import Adapter


@dataclass(frozen=True)
class SideBySide:
    """Learned tensors of many layers in one tensor.

    So a model call selects the segment, applies the strength and casts once, and not once for each of the
    (SDXL) 140 keys and values.
    """

    tensor: Tensor
    """[j, m, width]"""
    columns: Mapping[tuple[str, ...], int]
    """Name -> number of its columns, in order."""

    @classmethod
    def of(cls, tensors: Mapping[tuple[str, ...], Tensor]) -> "SideBySide":
        """Takes tensors [j, m, width] by name, at least one."""
        columns = {name: tensor.shape[2] for name, tensor in tensors.items()}
        return cls(torch.cat(list(tensors.values()), dim=2), columns)

    def at(self, segment: Tensor) -> Tensor:
        """The values of every sample's segment [B], as [B, m, width]."""
        # An embedding sums its gradient in a fixed order; indexing may differ from run to run.
        return functional.embedding(segment, self.tensor.flatten(1)).unflatten(1, self.tensor.shape[1:])

    def cut(self, rows: Tensor) -> dict[tuple[str, ...], Tensor]:
        """Cuts the values of ``at`` into those of each name."""
        return dict(zip(self.columns, rows.split(list(self.columns.values()), dim=-1), strict=True))

    def to(self, device: torch.device | str) -> "SideBySide":
        """Copies it to another device."""
        return replace(self, tensor=self.tensor.to(device))


_TEXT = ("rows",)


@dataclass(frozen=True)
class InjectedInstruction:
    """One instruction of an injection, on the model's device. Create it with ``attention`` or ``text``."""

    context: Tensor
    """Text states of the init text, [L, D], with zeros in the learned rows."""
    start: int
    """First learned row: 1 leaves the start-of-text row alone, 0 includes it."""
    rows: SideBySide | None
    """Learned rows: text states, or ("keys" or "values", site)."""
    segments: int
    """j, the number of segments."""
    adapter: tuple[SideBySide, ...] = ()
    """Residuals by name, see ``Adapter``; those of equal rank side by side."""
    weight: float = 1.0
    """Weight in a blend."""

    @classmethod
    def attention(
        cls, context: Tensor, start: int, keys: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> "InjectedInstruction":
        """Takes learned keys and values, site -> [j, m, width]."""
        tensors: dict[tuple[str, ...], Tensor] = {("keys", site): tensor for site, tensor in keys.items()}
        tensors |= {("values", site): tensor for site, tensor in values.items()}
        return cls._of(context, start, SideBySide.of(tensors) if tensors else None)

    @classmethod
    def text(cls, context: Tensor, start: int, rows: Tensor, weight: float = 1.0) -> "InjectedInstruction":
        """Takes learned text states [j, m, D]."""
        return replace(cls._of(context, start, SideBySide.of({_TEXT: rows})), weight=weight)

    @classmethod
    def _of(cls, context: Tensor, start: int, rows: SideBySide | None) -> "InjectedInstruction":
        frozen = context
        if rows is not None:
            frozen = context.clone()
            frozen[start : start + rows.tensor.shape[1]] = 0
        return cls(frozen, start, rows, 1 if rows is None else len(rows.tensor))

    def with_adapter(self, adapter: Adapter) -> "InjectedInstruction":
        """Adds an adapter's residuals."""
        by_shape: dict[tuple[int, ...], dict[tuple[str, ...], Tensor]] = {}
        for name, tensor in adapter.items():
            by_shape.setdefault(tuple(tensor.shape[:2]), {})[name,] = tensor
        groups = tuple(SideBySide.of(tensors) for tensors in by_shape.values())
        segments = max([self.segments, *(shape[0] for shape in by_shape)])
        return replace(self, adapter=groups, segments=segments)

    def to(self, device: torch.device | str) -> "InjectedInstruction":
        """Copies it to another device."""
        return replace(
            self,
            context=self.context.to(device),
            rows=None if self.rows is None else self.rows.to(device),
            adapter=tuple(group.to(device) for group in self.adapter),
        )

    @property
    def is_text(self) -> bool:
        """Whether it holds text states alone, so that no attention layer is changed."""
        return self.rows is not None and _TEXT in self.rows.columns

    @property
    def tokens(self) -> int:
        """m, the number of learned rows."""
        return 0 if self.rows is None else self.rows.tensor.shape[1]

    def states(self, segment: Tensor) -> Tensor:
        """The text states to project, [B, L, D], for samples in the given segments [B]."""
        context = self.context.expand(segment.shape[0], -1, -1)
        if self.rows is None or not self.is_text:
            return context
        rows = self.rows.at(segment)
        return torch.cat([context[:, : self.start], rows, context[:, self.start + self.tokens :]], dim=1)
