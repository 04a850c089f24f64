"""A learned instruction, in the space of attention or of text, and weighted sums of several."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InstructionError
from ..models.families import ModelDescription


@dataclass(frozen=True)
class InstructionInfo:
    """What a user may want to know of an instruction without reading its tensors."""

    family: str
    """Model family it was learned on, e.g. ``"sd15"``."""
    fingerprint: str
    """Fingerprint of the very model it was learned on."""
    segments: int
    """j, the number of timestep segments."""
    tokens: int
    """m, the number of learned rows."""
    space: Literal["attention", "text"] = "attention"
    """What was learned: keys and values of every layer (InstructBrush), or the text encoder's states (Visii)."""
    init_text: str = ""
    title: str = ""
    created: str = ""
    """ISO 8601, UTC."""
    model_title: str = ""
    pairs: int = 0
    steps: int = 0
    final_loss: float | None = None
    """Mean loss of the last tenth of the steps."""
    losses: tuple[float, ...] = ()
    """A coarse loss curve, at most 100 means."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The learning settings, as plain values."""


@dataclass(frozen=True)
class Instruction:
    """What was learned from pairs. Tensors are fp32 on the CPU and are never modified.

    Raises:
        InstructionError: shapes disagree with each other or with ``info``, or a value is not finite.
    """

    keys: Mapping[str, Tensor]
    """Site name -> [j, m, width]; empty in the space of text."""
    values: Mapping[str, Tensor]
    """Site name -> [j, m, width]; empty in the space of text."""
    context: Tensor
    """Text states of the init phrase, the whole window, [L, D]; its rows outside ``start .. start + m`` stay as they are."""
    start: int
    """First learned row: 1, or 0 when the start-of-text row was learned too."""
    info: InstructionInfo
    rows: Tensor | None = None
    """Learned text states [j, m, D] in the place of the context's rows ``start .. start + m``; None in the space of attention."""

    def __post_init__(self) -> None:
        if self.info.space == "text":
            if self.rows is None or self.keys or self.values:
                raise InstructionError(
                    "Instruction: in the space of text it has learned rows, and neither keys nor values."
                )
        elif self.rows is not None or not self.keys or set(self.keys) != set(self.values):
            raise InstructionError(
                "Instruction: keys and values must name the same cross-attention layers, at least one."
            )
        if (
            self.context.ndim != 2
            or self.start not in (0, 1)
            or self.start + self.info.tokens > self.context.shape[0]
        ):
            raise InstructionError(
                f"Instruction: {self.info.tokens} learned rows from row {self.start} do not fit a context of shape {tuple(self.context.shape)}."
            )
        if not torch.isfinite(self.context).all():
            raise InstructionError(
                "Instruction: its context holds values that are not finite. The model that gave it may be damaged; load it again."
            )
        for name, tensor in self.learned().items():
            width = self.context.shape[1] if self.rows is not None else tensor.shape[-1]
            if tensor.ndim != 3 or tuple(tensor.shape) != (self.info.segments, self.info.tokens, width):
                raise InstructionError(
                    f"Instruction: {name} has shape {tuple(tensor.shape)}, expected [{self.info.segments} segments, {self.info.tokens} tokens, width]."
                )
            if not torch.isfinite(tensor).all():
                raise InstructionError(
                    f"Instruction: {name} holds values that are not finite. Learn it again with a lower learning rate."
                )

    def learned(self) -> dict[str, Tensor]:
        """Every learned tensor [j, m, width] by its name in files: ``keys.<site>``, ``values.<site>``, or ``rows``."""
        if self.rows is not None:
            return {"rows": self.rows}
        return {
            f"{kind}.{site}": tensor
            for kind, tensors in (("keys", self.keys), ("values", self.values))
            for site, tensor in tensors.items()
        }

    @property
    def title(self) -> str:
        """What to call it in a message."""
        return self.info.title or self.info.init_text or "instruction"

    def check_fits(self, model: ModelDescription) -> list[str]:
        """Whether the instruction can act in ``model``.

        Returns:
            Remarks worth showing (learned on another fine-tune of the same family); empty when it is the very model.

        Raises:
            ModelError: no instruction can act in it.
            InstructionError: another family, or sites or widths that the model does not have. Text states act in any model whose text states are as wide.
        """
        model.require_sites()
        if self.info.space == "text":
            width = model.family.context_width
            if self.context.shape[1] != width:
                raise InstructionError(
                    f"Instruction '{self.title}' holds text states {self.context.shape[1]} wide, {model.title} takes {width}. "
                    f"Load a model of the kind it was learned on ({self.info.family}), or learn it again on this one."
                )
            return self._remarks(model)
        if self.info.family != model.family.name:
            raise InstructionError(
                f"Instruction '{self.title}' was learned on a {self.info.family} model ({self.info.model_title}) and cannot "
                f"act in a {model.family.name} model ({model.title}). Load a {self.info.family} model, or learn the instruction again on this one."
            )
        widths = {site.name: site.width for site in model.sites}
        for site, tensor in self.keys.items():
            if widths.get(site) != tensor.shape[2]:
                raise InstructionError(
                    f"Instruction: layer {site} is {tensor.shape[2]} wide, the model has {widths.get(site, 'no such layer')}. "
                    "Use the model that the instruction was learned on."
                )
        if set(widths) != set(self.keys):
            missing = sorted(set(widths) - set(self.keys))[0]
            raise InstructionError(
                f"Instruction: it holds nothing for the model's layer {missing}. Use the model that it was learned on."
            )
        return self._remarks(model)

    def _remarks(self, model: ModelDescription) -> list[str]:
        if self.info.fingerprint != model.fingerprint:
            return [
                f"The instruction was learned on {self.info.model_title or 'another model of this family'}; on {model.title} its effect may differ."
            ]
        return []


@dataclass(frozen=True)
class WeightedInstruction:
    """One term of a :class:`Blend`."""

    weight: float
    instruction: Instruction


@dataclass(frozen=True)
class Blend:
    """A weighted sum of instructions, as it acts at every cross-attention layer::

        K' = K_cond + sum_i weight_i (K_i - K_cond)

    where ``K_i`` are the keys that the i-th instruction alone would put in place of the conditioning's; and the same for the values. The weights
    need not sum to one. Scaling, blending, adding and negating are all of this form (see ``algebra``).

    Raises:
        InstructionError: no parts, or a weight is not finite.
    """

    parts: tuple[WeightedInstruction, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InstructionError("Blend: at least one instruction is needed.")
        if not all(math.isfinite(part.weight) for part in self.parts):
            raise InstructionError(
                f"Blend: the weights {[part.weight for part in self.parts]} must all be finite numbers."
            )

    @property
    def title(self) -> str:
        """What to call it in a message."""
        return " + ".join(f"{part.weight:g} {part.instruction.title}" for part in self.parts)

    def check_fits(self, model: ModelDescription) -> list[str]:
        """As :meth:`Instruction.check_fits`, for every part."""
        return list(
            dict.fromkeys(remark for part in self.parts for remark in part.instruction.check_fits(model))
        )


def parts_of(instruction: Instruction | Blend) -> tuple[WeightedInstruction, ...]:
    """The terms of a blend; of a single instruction, itself at weight 1."""
    return instruction.parts if isinstance(instruction, Blend) else (WeightedInstruction(1.0, instruction),)
