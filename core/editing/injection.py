"""Learned keys and values in place of a model's own, in every cross-attention layer (InstructBrush, section 4.1).

An engine calls :meth:`Injection.begin` once a model call, runs the model on the context of the :class:`InjectedCall` it returns, and calls
:meth:`InjectedCall.keys_values` at every site with the projections of that context. The mathematics is therefore the same in every engine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InstructionError
from ..instruction.artefact import Blend, Instruction, Part, parts_of
from .schedule import TRAIN_TIMESTEPS, segment_of


@dataclass(frozen=True)
class InjectedPart:
    """One instruction of an injection: learned tensors on the model's device."""

    context: Tensor
    """Text states of the init phrase, [L, D]."""
    start: int
    """First row that was learned: 1 leaves the start-of-text row alone, 0 includes it."""
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    """Site name -> learned keys [j, m, width]; empty in the space of text."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Site name -> learned values [j, m, width]; empty in the space of text."""
    rows: Tensor | None = None
    """Learned text states [j, m, D]; None in the space of attention."""
    weight: float = 1.0

    def to(self, device: torch.device | str) -> "InjectedPart":
        """The same on another device."""
        keys, values = ({name: tensor.to(device) for name, tensor in tensors.items()} for tensors in (self.keys, self.values))
        return InjectedPart(self.context.to(device), self.start, keys, values, None if self.rows is None else self.rows.to(device), self.weight)

    @property
    def segments(self) -> int:
        """j."""
        return (next(iter(self.keys.values())) if self.rows is None else self.rows).shape[0]

    def states(self, segment: Tensor, dtype: torch.dtype) -> Tensor:
        """The text states that this part's keys and values are projected from, [B, L, D], for samples in the given segments [B]."""
        context = self.context.to(dtype).expand(segment.shape[0], -1, -1)
        return context if self.rows is None else self.put(context, self.rows, segment)

    def learned(self, kind: str, site: str, projected: Tensor, segment: Tensor) -> Tensor:
        """K_i or V_i at a site from the projection of :meth:`states`, [B, L, width]."""
        return projected if self.rows is not None else self.put(projected, getattr(self, kind)[site], segment)

    def put(self, whole: Tensor, learned: Tensor, segment: Tensor) -> Tensor:
        """``whole`` [B, L, width] with the learned rows [j, m, width] of every sample's segment in their place."""
        rows = learned[segment].to(whole.dtype)
        return torch.cat([whole[:, : self.start], rows, whole[:, self.start + rows.shape[1] :]], dim=1)


@dataclass(frozen=True)
class Injection:
    """Instructions made ready for a model call. All tensors live on one device; nothing here waits for the device.

    With the projections ``K_cond`` of the conditioning's words, ``K_init`` of the i-th init phrase and the learned rows ``gamma``::

        K_i = [K_init[:start], gamma[segment], K_init[start + m:]]
        K'  = K_cond + s[segment] sum_i weight_i (K_i - K_cond)        for end_timestep <= t < start_timestep, K_cond elsewhere

    and the same for the values. In the space of text the rows are learned before the projection instead, which is linear: the same formula.
    """

    parts: tuple[InjectedPart, ...]
    strengths: Tensor
    """s for every segment, [j]."""
    start_timestep: int = TRAIN_TIMESTEPS
    end_timestep: int = 0
    whole: bool = True
    """One part at strength 1 over the whole range: the conditioning's own words play no part and need not be projected."""
    is_identity: bool = False
    """Nothing would change: the engine must leave the model call untouched, bit for bit."""

    @property
    def is_text(self) -> bool:
        """All of it is text states: it acts in the conditioning alone, without the attention layers' help."""
        return all(part.rows is not None for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.strengths.device

    def to(self, device: torch.device) -> "Injection":
        """The same on another device; itself when it is there already."""
        if self.device == device:
            return self
        return replace(self, parts=tuple(part.to(device) for part in self.parts), strengths=self.strengths.to(device))

    def begin(self, context: Tensor, timesteps: Tensor) -> "InjectedCall":
        """Start a model call.

        Args:
            context: text states of the conditioning, [B, L_cond, D].
            timesteps: [B], 0..999, on the same device.
        """
        return _OneInjection(self, context, timesteps)

    def strength_at(self, timesteps: Tensor) -> Tensor:
        """s of every sample, 0 outside the range, [B, 1, 1]."""
        active = (timesteps >= self.end_timestep) & (timesteps < self.start_timestep)
        return (self.strengths[segment_of(timesteps, self.strengths.shape[0])] * active).view(-1, 1, 1)


class InjectedCall(Protocol):
    """One model call with an injection. What does not depend on the site is computed once."""

    context: Tensor
    """What the engine projects instead of the conditioning's states, [B, rows, D]."""

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """K' and V' at one site.

        Args:
            site: name of the cross-attention layer.
            keys, values: projections of :attr:`context`, [B, rows, width].

        Returns:
            Keys and values [B, L', width] in the dtype of the projections. Conditionings of another length than the init phrase's are both
            repeated to their common multiple, which leaves attention unchanged.
        """
        ...


class _OneInjection:
    """The same injection in every row of a call."""

    def __init__(self, injection: Injection, context: Tensor, timesteps: Tensor) -> None:
        self.parts, self.whole, self.is_text = injection.parts, injection.whole, injection.is_text
        self.segments = [segment_of(timesteps, part.segments) for part in self.parts]
        states = [part.states(segment, context.dtype) for part, segment in zip(self.parts, self.segments, strict=True)]
        if self.whole:
            self.context = states[0]
            return
        self.strength = injection.strength_at(timesteps)
        self.lengths = [context.shape[1], *(each.shape[1] for each in states)]
        # The projections are linear and without bias, so text states may be mixed before them.
        self.context = self._mixed([context, *states]) if self.is_text else torch.cat([context, *states], dim=1)

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.is_text:
            return keys, values
        return self._at("keys", site, keys), self._at("values", site, values)

    def _at(self, kind: str, site: str, projected: Tensor) -> Tensor:
        if self.whole:
            return self.parts[0].learned(kind, site, projected, self.segments[0])
        own, *inits = projected.split(self.lengths, dim=1)
        each = zip(self.parts, inits, self.segments, strict=True)
        return self._mixed([own, *(part.learned(kind, site, init, segment) for part, init, segment in each)])

    def _mixed(self, rows: list[Tensor]) -> Tensor:
        """``own + s sum_i weight_i (rows_i - own)``."""
        own, *learned = _of_one_length(rows)
        strength = self.strength.to(own.dtype)
        if len(learned) == 1:
            return torch.lerp(own, learned[0], strength * self.parts[0].weight)
        return own + strength * sum((part.weight * (each - own) for part, each in zip(self.parts, learned, strict=True)), torch.zeros_like(own))


def _of_one_length(rows: Sequence[Tensor]) -> list[Tensor]:
    """Rows [B, L_i, width] repeated to the common multiple of their lengths, which leaves attention over them unchanged."""
    common = math.lcm(*(each.shape[1] for each in rows))
    return [each if each.shape[1] == common else each.repeat(1, common // each.shape[1], 1) for each in rows]


class RowInjections:
    """Several injections in one model call, each on rows of its own, so that instructed and plain branches run as one batch.

    Contexts of differing length are padded for the projections and cut again before anything attends to them.

    Args:
        parts: one for each of equally large groups of rows; None leaves its rows to the model.
    """

    is_identity = False

    def __init__(self, parts: Sequence[Injection | None]) -> None:
        self.parts = parts

    def begin(self, context: Tensor, timesteps: Tensor) -> InjectedCall:
        """As :meth:`Injection.begin`, for all groups."""
        return _RowGroups(self.parts, context, timesteps)


class _RowGroups:
    def __init__(self, parts: Sequence[Injection | None], context: Tensor, timesteps: Tensor) -> None:
        contexts = context.chunk(len(parts))
        groups = zip(parts, contexts, timesteps.chunk(len(parts)), strict=True)
        self.calls = [None if part is None else _OneInjection(part, rows, t) for part, rows, t in groups]
        contexts = [rows if call is None else call.context for call, rows in zip(self.calls, contexts, strict=True)]
        self.lengths = [rows.shape[1] for rows in contexts]
        # Where every group has its own part or none and nothing is mixed, the learned rows can be written over a copy.
        self.plain = len(set(self.lengths)) == 1 and all(part is None or part.whole for part in parts)
        longest = max(self.lengths)
        self.context = torch.cat([functional.pad(rows, (0, 0, 0, longest - rows.shape[1])) for rows in contexts])

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.plain:
            return self._written("keys", site, keys), self._written("values", site, values)
        count = len(self.calls)
        pairs = []
        for call, length, k, v in zip(self.calls, self.lengths, keys.chunk(count), values.chunk(count), strict=True):
            k, v = k[:, :length], v[:, :length]
            pairs.append((k, v) if call is None else call.keys_values(site, k, v))
        return torch.cat(_of_one_length([k for k, _ in pairs])), torch.cat(_of_one_length([v for _, v in pairs]))

    def _written(self, kind: str, site: str, projected: Tensor) -> Tensor:
        result, group = projected.clone(), projected.shape[0] // len(self.calls)
        for index, call in enumerate(self.calls):
            if call is not None and not call.is_text:
                part = call.parts[0]
                rows = getattr(part, kind)[site][call.segments[0]]
                result[index * group : (index + 1) * group, part.start : part.start + rows.shape[1]] = rows
        return result


def inject(
    instruction: Instruction | Blend,
    strength: float = 1.0,
    segment_strengths: Sequence[float] | None = None,
    start_timestep: int = TRAIN_TIMESTEPS,
    end_timestep: int = 0,
    device: torch.device | str = "cpu",
) -> Injection:
    """Make an instruction ready for a model.

    Args:
        instruction: what was learned, or a weighted sum of such.
        strength: s, 0 = the conditioning's own words, 1 = as learned; values beyond extrapolate.
        segment_strengths: one factor for every segment, from low to high noise, multiplied with ``strength``; a single one serves all.
        start_timestep, end_timestep: the instruction acts for ``end <= t < start``. Fig. 3's T is ``end_timestep``: 0 is the full edit, 1000
            leaves the conditioning alone.
        device: where the model runs.

    Raises:
        InstructionError: a strength is not finite, there are too many or too few of them, or the range is not within 0..1000.
    """
    parts = [part for part in parts_of(instruction) if part.weight != 0.0]
    factors = _factors(parts, segment_strengths)
    scaled = [strength * factor for factor in factors]
    if not all(math.isfinite(value) for value in scaled):
        raise InstructionError(f"Strength: {strength} with segment strengths {factors} is not finite. Use numbers such as 0, 0.5 or 1.")
    if not 0 <= end_timestep <= TRAIN_TIMESTEPS or not 0 <= start_timestep <= TRAIN_TIMESTEPS:
        raise InstructionError(
            f"Timestep range: {start_timestep} to {end_timestep} leaves 0..{TRAIN_TIMESTEPS}. Use start {TRAIN_TIMESTEPS} and end 0 for the whole range."
        )
    whole_range = start_timestep == TRAIN_TIMESTEPS and end_timestep == 0
    return Injection(
        tuple(_prepared(part).to(device) for part in parts),
        torch.tensor(scaled, dtype=torch.float32, device=device),
        start_timestep,
        end_timestep,
        whole=whole_range and len(parts) == 1 and all(value * parts[0].weight == 1.0 for value in scaled),
        is_identity=not parts or start_timestep <= end_timestep or all(value == 0.0 for value in scaled),
    )


def _prepared(part: Part) -> InjectedPart:
    learned = part.instruction
    return InjectedPart(learned.context, learned.start, learned.keys, learned.values, learned.rows, part.weight)


def _factors(parts: Sequence[Part], segment_strengths: Sequence[float] | None) -> list[float]:
    """One factor for every segment."""
    counts = sorted({part.instruction.info.segments for part in parts})
    segments = counts[0] if len(counts) == 1 else 1
    factors = [1.0] if segment_strengths is None else [float(value) for value in segment_strengths]
    if len(factors) == 1:
        return factors * segments
    if len(counts) > 1:
        raise InstructionError(
            f"Segment strengths: the blended instructions have {counts} segments, so their segments are not the same. Give one value for all."
        )
    if len(factors) != segments:
        raise InstructionError(
            f"Segment strengths: {len(factors)} values were given, but the instruction has {segments} segments. "
            f"Give {segments} values, from low noise to high, or one for all."
        )
    return factors
