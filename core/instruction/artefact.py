"""A learned instruction: keys and values of every cross-attention layer, and what is known about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    """Learned keys and values. Tensors are fp32 on the CPU and are never modified.

    Raises:
        InstructionError: shapes disagree with each other or with ``info``, or a value is not finite.
    """

    keys: Mapping[str, Tensor]
    """Site name -> [j, m, width]."""
    values: Mapping[str, Tensor]
    """Site name -> [j, m, width]."""
    context: Tensor
    """Text states of the init phrase, the whole window, [L, D]; its rows outside ``start .. start + m`` stay as they are."""
    start: int
    """First learned row: 1, or 0 when the start-of-text row was learned too."""
    info: InstructionInfo

    def __post_init__(self) -> None:
        if not self.keys or set(self.keys) != set(self.values):
            raise InstructionError("Instruction: keys and values must name the same cross-attention layers, at least one.")
        if self.context.ndim != 2 or self.start not in (0, 1) or self.start + self.info.tokens > self.context.shape[0]:
            raise InstructionError(
                f"Instruction: {self.info.tokens} learned rows from row {self.start} do not fit a context of shape {tuple(self.context.shape)}."
            )
        for kind, tensors in (("keys", self.keys), ("values", self.values)):
            for site, tensor in tensors.items():
                if tensor.ndim != 3 or tuple(tensor.shape[:2]) != (self.info.segments, self.info.tokens):
                    raise InstructionError(
                        f"Instruction: {kind} of {site} have shape {tuple(tensor.shape)}, expected "
                        f"[{self.info.segments} segments, {self.info.tokens} tokens, width]."
                    )
                if not torch.isfinite(tensor).all():
                    raise InstructionError(f"Instruction: {kind} of {site} hold values that are not finite. Learn it again with a lower learning rate.")

    def check_fits(self, model: ModelDescription) -> list[str]:
        """Whether the instruction can act in ``model``.

        Returns:
            Remarks worth showing (learned on another fine-tune of the same family); empty when it is the very model.

        Raises:
            InstructionError: another family, or sites or widths that the model does not have.
        """
        if self.info.family != model.family.name:
            raise InstructionError(
                f"Instruction '{self.info.title or self.info.init_text}' was learned on a {self.info.family} model ({self.info.model_title}) and cannot "
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
            raise InstructionError(f"Instruction: it holds nothing for the model's layer {missing}. Use the model that it was learned on.")
        if self.info.fingerprint != model.fingerprint:
            return [f"The instruction was learned on {self.info.model_title or 'another model of this family'}; on {model.title} its effect may differ."]
        return []
