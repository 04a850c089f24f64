"""A learned instruction, in attention, text or adapter space, and weighted sums of several."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InstructionError, shown_text
from ..models.families import ModelDescription
from .adapter import Adapter, adapter_widths, check_adapter


@dataclass(frozen=True)
class InstructionInfo:
    """Describes an instruction without its tensors. Stored as JSON in the header of instruction files."""

    family: str
    """Model family it was learned on, e.g. ``"sd15"``."""
    fingerprint: str
    """Fingerprint of the model it was learned on; empty if it comes from several models."""
    segments: int
    """j, the number of timestep segments."""
    tokens: int
    """m, the number of learned rows. 0 is possible in the adapter space only."""
    space: Literal["attention", "text", "adapter"] = "attention"
    """What was learned: keys and values of every cross-attention layer (InstructBrush), the text encoder's
    states (Visii), or low-rank residuals in every attention layer, with or without keys and values."""
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
    text_scale: float | None = None
    """s_T of Eq. 3 that suits the instruction. None if it was not searched; see ``own_scales``."""
    image_scale: float | None = None
    """s_I of Eq. 3 that suits the instruction; set if and only if ``text_scale`` is."""


@dataclass(frozen=True)
class Instruction:
    """The result of learning from pairs. Tensors are fp32 on the CPU and are never modified.

    Raises:
        InstructionError: shapes disagree with each other or with ``info``, or a value is not finite.
    """

    keys: Mapping[str, Tensor]
    """Site name -> [j, m, width]; empty in text space, and in an adapter without learned rows."""
    values: Mapping[str, Tensor]
    """As ``keys``."""
    context: Tensor
    """Text states of the init text, the whole window, [L, D]. Rows outside ``start .. start + m`` are
    frozen."""
    start: int
    """First learned row: 1, or 0 when the start-of-text row was learned too."""
    info: InstructionInfo
    rows: Tensor | None = None
    """Learned text states [j, m, D] that replace rows ``start .. start + m`` of the context; text space
    only."""
    adapter: Adapter = field(default_factory=dict)
    """Residuals of the attention layers' projections; adapter space only."""

    def __post_init__(self) -> None:
        self._check_space()
        self._check_context()
        self._check_learned()

    def learned(self) -> dict[str, Tensor]:
        """Learned tensors by name: ``keys.<site>`` and ``values.<site>`` [j, m, width], ``adapter.<name>``
        [j or 1, r, width], or ``rows`` [j, m, D]."""
        if self.rows is not None:
            return {"rows": self.rows}
        kinds = (("keys", self.keys), ("values", self.values), ("adapter", self.adapter))
        return {f"{kind}.{name}": tensor for kind, tensors in kinds for name, tensor in tensors.items()}

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.info.title or self.info.init_text or "instruction"

    def check_fits(self, model: ModelDescription) -> list[str]:
        """Checks that the instruction can act in ``model``.

        Returns:
            Remarks for the user, e.g. that it was learned on another fine-tune of the same family.

        Raises:
            ModelError: the model has no cross-attention layers.
            InstructionError: the family, a site or a width differs. Learned text states only need text states
                of the same width, so they also act in other families.
        """
        model.require_sites()
        if self.info.space != "text":
            self._check_sites(model)
        self._check_text_width(model)
        if self.info.fingerprint == model.fingerprint:
            return []
        learned_on = self.info.model_title or "another model of this family"
        remark = f"The instruction was learned on {learned_on}; on {model.title} its effect may differ."
        return [shown_text(remark)]

    def _check_space(self) -> None:
        if self.info.space == "text":
            if self.rows is None or self.keys or self.values or self.adapter:
                raise InstructionError(
                    "Instruction: an instruction in text space must hold learned rows, and neither keys nor "
                    "values nor an adapter."
                )
            return
        if bool(self.adapter) != (self.info.space == "adapter"):
            raise InstructionError(
                "Instruction: an instruction in adapter space must hold an adapter, and no other may."
            )
        without_rows = self.info.tokens == 0 and bool(self.adapter)
        if self.rows is not None or bool(self.keys) == without_rows or set(self.keys) != set(self.values):
            raise InstructionError(
                "Instruction: keys and values must name the same cross-attention layers, at least one."
            )

    def _check_context(self) -> None:
        shape = tuple(self.context.shape)
        if len(shape) != 2 or self.start not in (0, 1) or self.start + self.info.tokens > shape[0]:
            raise InstructionError(
                f"Instruction: {self.info.tokens} learned rows from row {self.start} do not fit a context of "
                f"shape {shape}."
            )
        if not torch.isfinite(self.context).all():
            raise InstructionError(
                "Instruction: its context holds values that are not finite. The model that gave it may be "
                "damaged; load it again."
            )

    def _check_learned(self) -> None:
        segments = self.info.segments
        tokens = self.info.tokens
        check_adapter(self.adapter, segments)
        for name, tensor in self.learned().items():
            if not torch.isfinite(tensor).all():
                raise InstructionError(
                    f"Instruction: {name} holds values that are not finite. Learn it again with a lower "
                    "learning rate."
                )
            if name.startswith("adapter."):
                continue
            width = self.context.shape[1] if self.rows is not None else tensor.shape[-1]
            if tuple(tensor.shape) != (segments, tokens, width):
                raise InstructionError(
                    f"Instruction: {name} has shape {tuple(tensor.shape)}, expected [{segments} segments, "
                    f"{tokens} tokens, width]."
                )

    def _check_text_width(self, model: ModelDescription) -> None:
        width = model.family.context_width
        if self.context.shape[1] != width:
            raise InstructionError(
                f"Instruction '{self.title}' holds text states {self.context.shape[1]} wide, {model.title} "
                f"takes {width}. Load a model of the kind it was learned on ({self.info.family}), or learn "
                "it again on this one."
            )

    def _check_sites(self, model: ModelDescription) -> None:
        if self.info.family != model.family.name:
            raise InstructionError(
                f"Instruction '{self.title}' was learned on a {self.info.family} model "
                f"({self.info.model_title}) and cannot act in a {model.family.name} model ({model.title}). "
                f"Load a {self.info.family} model, or learn the instruction again on this one."
            )
        widths = {site.name: site.width for site in model.sites}
        expected = {**widths, **adapter_widths(model.sites)}
        for name, tensor in (*self.keys.items(), *self.values.items(), *self.adapter.items()):
            if expected.get(name) != tensor.shape[2]:
                raise InstructionError(
                    f"Instruction: layer {name} is {tensor.shape[2]} wide, the model has "
                    f"{expected.get(name, 'no such layer')}. Use the model that the instruction was learned "
                    "on."
                )
        missing = sorted(set(widths) - set(self.keys))
        if missing and self.info.tokens:
            raise InstructionError(
                f"Instruction: it holds nothing for the model's layer {missing[0]}. Use the model that it "
                "was learned on."
            )


@dataclass(frozen=True)
class WeightedInstruction:
    """One term of a ``Blend``."""

    weight: float
    instruction: Instruction


@dataclass(frozen=True)
class Blend:
    """A weighted sum of instructions. At every cross-attention layer it computes::

        K' = K_cond + sum_i weight_i (K_i - K_cond)

    and the same for the values. ``K_cond`` are the keys of the conditioning, ``K_i`` the keys that the i-th
    instruction alone puts in their place. Residuals of adapters are added with the same weights. The weights
    need not sum to one. Scaling, blending, adding and negating all have this form, see
    core/instruction/algebra.py.

    Raises:
        InstructionError: there are no parts, or a weight is not finite.
    """

    parts: tuple[WeightedInstruction, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InstructionError("Blend: at least one instruction is needed.")
        weights = [part.weight for part in self.parts]
        if not all(math.isfinite(weight) for weight in weights):
            raise InstructionError(f"Blend: the weights {weights} must all be finite numbers.")

    @property
    def title(self) -> str:
        """Its name in messages."""
        return " + ".join(f"{part.weight:g} {part.instruction.title}" for part in self.parts)

    def check_fits(self, model: ModelDescription) -> list[str]:
        """Checks every part, see ``Instruction.check_fits``. Returns each remark once."""
        remarks = [remark for part in self.parts for remark in part.instruction.check_fits(model)]
        return list(dict.fromkeys(remarks))


def parts_of(instruction: Instruction | Blend) -> tuple[WeightedInstruction, ...]:
    """Returns the parts of a blend, or a single instruction as one part of weight 1."""
    if isinstance(instruction, Blend):
        return instruction.parts
    return (WeightedInstruction(1.0, instruction),)


def own_scales(instruction: Instruction | Blend) -> tuple[float, float] | None:
    """Returns the scales (s_T, s_I) of Eq. 3 that suit an instruction, or None if they are unknown.

    A blend has the mean of its parts' scales, weighted by the parts' absolute weights. So scaling and
    negating keep the scales, and blending leads from one instruction's scales to the other's.
    """
    total = text = image = 0.0
    for part in parts_of(instruction):
        info = part.instruction.info
        if part.weight == 0:
            continue
        if info.text_scale is None or info.image_scale is None:
            return None
        weight = abs(part.weight)
        total += weight
        text += weight * info.text_scale
        image += weight * info.image_scale
    return (text / total, image / total) if total else None
