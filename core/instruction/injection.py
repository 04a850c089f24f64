"""Learned keys and values in place of a model's own, in every cross-attention layer (InstructBrush, section 4.1).

An engine calls :meth:`Injection.begin` once a model call, runs the model on the context of the :class:`InjectedCall` it returns, and calls
:meth:`InjectedCall.keys_values` at every site with the projections of that context. The mathematics is therefore the same in every engine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..diffusion.schedule import TRAIN_TIMESTEPS, segment_of
from ..errors import InstructionError
from .instruction import Blend, Instruction, WeightedInstruction, parts_of


@dataclass(frozen=True)
class InjectedInstruction:
    """One instruction of an injection: learned tensors on the model's device. Make it with :meth:`attention` or :meth:`text`."""

    context: Tensor
    """Text states of the init phrase, [L, D]; zeros in the learned rows, of which nothing acts."""
    start: int
    """First row that was learned: 1 leaves the start-of-text row alone, 0 includes it."""
    learned: Tensor
    """[j, m, width]: text states, or keys and values of all sites side by side."""
    columns: Mapping[tuple[str, str], int]
    """("keys" or "values", site) -> how many columns of :attr:`learned` are its own, in their order; empty in the space of text."""
    weight: float = 1.0

    @classmethod
    def attention(
        cls,
        context: Tensor,
        start: int,
        keys: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        weight: float = 1.0,
    ) -> "InjectedInstruction":
        """Of learned keys and values.

        Args:
            context: text states of the init phrase [L, D].
            start: first learned row.
            keys, values: site -> [j, m, width].
            weight: in a blend.
        """
        tensors = {
            (kind, site): tensor
            for kind, tensors in (("keys", keys), ("values", values))
            for site, tensor in tensors.items()
        }
        columns = {name: tensor.shape[2] for name, tensor in tensors.items()}
        return cls._of(context, start, torch.cat(list(tensors.values()), dim=2), columns, weight)

    @classmethod
    def text(cls, context: Tensor, start: int, rows: Tensor, weight: float = 1.0) -> "InjectedInstruction":
        """Of learned text states [j, m, D]; the rest as :meth:`attention`."""
        return cls._of(context, start, rows, {}, weight)

    @classmethod
    def _of(
        cls,
        context: Tensor,
        start: int,
        learned: Tensor,
        columns: Mapping[tuple[str, str], int],
        weight: float,
    ) -> "InjectedInstruction":
        rest = context.clone()
        rest[start : start + learned.shape[1]] = 0
        return cls(rest, start, learned, columns, weight)

    def to(self, device: torch.device | str) -> "InjectedInstruction":
        """The same on another device."""
        return replace(self, context=self.context.to(device), learned=self.learned.to(device))

    @property
    def segments(self) -> int:
        """j."""
        return self.learned.shape[0]

    def rows(self, segment: Tensor) -> Tensor:
        """The learned rows of every sample's segment, [B, m, width]."""
        # As an embedding, whose gradient is summed in a fixed order: that of indexing may differ from run to run.
        return functional.embedding(segment, self.learned.flatten(1)).unflatten(1, self.learned.shape[1:])

    def states(self, segment: Tensor) -> Tensor:
        """The text states that this part's keys and values are projected from, [B, L, D], for samples in the given segments [B]."""
        context = self.context.expand(segment.shape[0], -1, -1)
        if self.columns:
            return context
        rows = self.rows(segment)
        return torch.cat([context[:, : self.start], rows, context[:, self.start + rows.shape[1] :]], dim=1)


@dataclass(frozen=True)
class Injection:
    """Instructions made ready for a model call. All tensors live on one device; nothing here waits for the device.

    With the projections ``K_cond`` of the conditioning's words, ``K_init`` of the i-th init phrase and the learned rows ``gamma``::

        K_i = [K_init[:start], gamma[segment], K_init[start + m:]]
        K'  = K_cond + s[segment] sum_i weight_i (K_i - K_cond)        for end_timestep <= t < start_timestep, K_cond elsewhere

    and the same for the values. The projections are linear and without bias, so the sum is taken over text states, before them, with zeros in the learned
    rows; ``s weight gamma`` is added there afterwards. So a model call projects as many rows as without an instruction, whatever is blended, and a site
    has one addition to do. In the space of text the rows are learned before the projection instead: the same formula.
    """

    parts: tuple[InjectedInstruction, ...]
    strengths: Tensor
    """s for every segment, [j]."""
    start_timestep: int = TRAIN_TIMESTEPS
    end_timestep: int = 0
    whole: bool = True
    """One part at strength 1 over the whole range: the conditioning's own words play no part."""
    is_identity: bool = False
    """Nothing would change: the engine must leave the model call untouched, bit for bit."""

    @property
    def is_text(self) -> bool:
        """All of it is text states: it acts in the conditioning alone, without the attention layers' help."""
        return not any(part.columns for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.strengths.device

    def to(self, device: torch.device) -> "Injection":
        """The same on another device; itself when it is there already."""
        if self.device == device:
            return self
        return replace(
            self, parts=tuple(part.to(device) for part in self.parts), strengths=self.strengths.to(device)
        )

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
    """What the engine projects instead of the conditioning's states, [B, rows, D]. Conditionings of another length than the init phrase's are both
    repeated to their common multiple, which leaves attention unchanged."""

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """K' and V' at one site.

        Args:
            site: name of the cross-attention layer.
            keys, values: projections of :attr:`context`, [B, rows, width], made for this call: the learned rows are added to them in place.

        Returns:
            The same keys and values.
        """
        ...


class _OneInjection:
    """The same injection in every row of a call."""

    def __init__(self, injection: Injection, context: Tensor, timesteps: Tensor) -> None:
        strength = None if injection.whole else injection.strength_at(timesteps)
        # Sums in fp32, whatever the model computes in.
        terms: list[tuple[Tensor, Tensor | None]] = []
        self._added: list[tuple[InjectedInstruction, dict[tuple[str, str], Tensor]]] = []
        for part in injection.parts:
            segment, share = (
                segment_of(timesteps, part.segments),
                None if strength is None else part.weight * strength,
            )
            terms.append((part.states(segment), share))
            if part.columns:
                # In the model's dtype and cut into sites once, not at every site.
                learned = _times(part.rows(segment), share).to(context.dtype)
                self._added.append(
                    (
                        part,
                        dict(
                            zip(part.columns, learned.split(list(part.columns.values()), dim=-1), strict=True)
                        ),
                    )
                )
        if strength is not None:
            shares = [share for _, share in terms if share is not None]
            terms.append((context, 1 - sum(shares, strength.new_zeros(()))))
        states = [
            _times(each, share)
            for each, (_, share) in zip(_of_one_length([each for each, _ in terms]), terms, strict=True)
        ]
        self.context = (states[0] if len(states) == 1 else sum(states[1:], states[0])).to(context.dtype)

    @property
    def acts_at_sites(self) -> bool:
        """Whether there are learned keys and values, and not text states alone."""
        return bool(self._added)

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.add(site, keys, values)
        return keys, values

    def add(self, site: str, keys: Tensor, values: Tensor, samples: slice = slice(None)) -> None:
        """Add the learned rows to the projections of :attr:`context`, or of that repeated, in place, in some samples of a batch."""
        for part, learned in self._added:
            tokens = part.learned.shape[1]
            for first in range(part.start, keys.shape[1], part.context.shape[0]):
                keys[samples, first : first + tokens].add_(learned["keys", site])
                values[samples, first : first + tokens].add_(learned["values", site])


def _times(rows: Tensor, share: Tensor | None) -> Tensor:
    return rows if share is None else share * rows


def _of_one_length(rows: Sequence[Tensor]) -> list[Tensor]:
    """Rows [B, L_i, width] repeated to the common multiple of their lengths, which leaves attention over them unchanged."""
    common = math.lcm(*(each.shape[1] for each in rows))
    return [each if each.shape[1] == common else each.repeat(1, common // each.shape[1], 1) for each in rows]


class GroupedInjection:
    """Several injections in one model call, each on rows of its own, so that instructed and plain branches run as one batch.

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
        contexts, count = context.chunk(len(parts)), len(parts)
        groups = zip(parts, contexts, timesteps.chunk(count), strict=True)
        calls = [None if part is None else _OneInjection(part, rows, t) for part, rows, t in groups]
        self.context = torch.cat(
            _of_one_length(
                [rows if call is None else call.context for call, rows in zip(calls, contexts, strict=True)]
            )
        )
        size = len(context) // count
        self._calls = [
            (slice(i * size, (i + 1) * size), call)
            for i, call in enumerate(calls)
            if call is not None and call.acts_at_sites
        ]

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        for samples, call in self._calls:
            call.add(site, keys, values, samples)
        return keys, values


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
        raise InstructionError(
            f"Strength: {strength} with segment strengths {factors} is not finite. Use numbers such as 0, 0.5 or 1."
        )
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


def _prepared(part: WeightedInstruction) -> InjectedInstruction:
    learned = part.instruction
    if learned.rows is not None:
        return InjectedInstruction.text(learned.context, learned.start, learned.rows, part.weight)
    return InjectedInstruction.attention(learned.context, learned.start, learned.keys, learned.values, part.weight)


def _factors(parts: Sequence[WeightedInstruction], segment_strengths: Sequence[float] | None) -> list[float]:
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
