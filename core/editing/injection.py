"""Learned keys and values in place of a model's own, in every cross-attention layer (InstructBrush, section 4.1).

An engine calls :meth:`Injection.begin` once a model call, runs the model on the context of the :class:`InjectedCall` it returns, and calls
:meth:`InjectedCall.keys_values` at every site with the projections of that context. The mathematics is therefore the same in every engine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InstructionError
from ..instruction.artefact import Instruction
from .schedule import TRAIN_TIMESTEPS, segment_of


@dataclass(frozen=True)
class Injection:
    """An instruction made ready for a model call. All tensors live on one device; nothing here waits for the device.

    With the projections ``K_cond`` of the conditioning's words, ``K_init`` of the init phrase and the learned rows ``gamma``::

        K_learned = [K_init[:start], gamma[segment], K_init[start + m:]]
        K'        = K_cond + s[segment] (K_learned - K_cond)        for end_timestep <= t < start_timestep, K_cond elsewhere

    and the same for the values.
    """

    keys: Mapping[str, Tensor]
    """Site name -> learned keys [j, m, width]."""
    values: Mapping[str, Tensor]
    """Site name -> learned values [j, m, width]."""
    context: Tensor
    """Text states of the init phrase, [L, D]."""
    start: int
    """First row that was learned: 1 leaves the start-of-text row alone, 0 includes it."""
    strengths: Tensor
    """s for every segment, [j]."""
    start_timestep: int = TRAIN_TIMESTEPS
    end_timestep: int = 0
    whole: bool = True
    """Every strength is 1 over the whole range: the conditioning's own words play no part and need not be projected."""
    is_identity: bool = False
    """Nothing would change: the engine must leave the model call untouched, bit for bit."""

    def to(self, device: torch.device) -> "Injection":
        """The same on another device; itself when it is there already."""
        if self.context.device == device and self.strengths.device == device:
            return self
        return Injection(
            {name: tensor.to(device) for name, tensor in self.keys.items()},
            {name: tensor.to(device) for name, tensor in self.values.items()},
            self.context.to(device),
            self.start,
            self.strengths.to(device),
            self.start_timestep,
            self.end_timestep,
            self.whole,
            self.is_identity,
        )

    def begin(self, context: Tensor, timesteps: Tensor) -> "InjectedCall":
        """Start a model call.

        Args:
            context: text states of the conditioning, [B, L_cond, D].
            timesteps: [B], 0..999, on the same device.
        """
        return _OneInjection(self, context, timesteps)


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
    """The same injection in every row: the context is that of the init phrase [B, L, D], or below full strength both [B, L_cond + L, D]."""

    def __init__(self, injection: Injection, context: Tensor, timesteps: Tensor) -> None:
        self.injection = injection
        init = injection.context.to(context.dtype).expand(context.shape[0], -1, -1)
        self.context = init if injection.whole else torch.cat([context, init], dim=1)
        self.segment = segment_of(timesteps, injection.strengths.shape[0])
        if not injection.whole:
            active = (timesteps >= injection.end_timestep) & (timesteps < injection.start_timestep)
            self.strength = (injection.strengths[self.segment] * active).view(-1, 1, 1).to(context.dtype)

    def rows(self, gamma: Tensor, dtype: torch.dtype) -> Tensor:
        """The learned rows of every sample's segment, [B, m, width]."""
        return gamma[self.segment].to(dtype)

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        put = self._learned if self.injection.whole else self._mixed
        return put(keys, self.injection.keys[site]), put(values, self.injection.values[site])

    def _learned(self, init: Tensor, gamma: Tensor) -> Tensor:
        rows, start = self.rows(gamma, init.dtype), self.injection.start
        return torch.cat([init[:, :start], rows, init[:, start + rows.shape[1] :]], dim=1)

    def _mixed(self, both: Tensor, gamma: Tensor) -> Tensor:
        length = self.injection.context.shape[0]
        cond = both[:, :-length]
        learned = self._learned(both[:, -length:], gamma)
        if cond.shape[1] != length:
            common = math.lcm(cond.shape[1], length)
            cond, learned = cond.repeat(1, common // cond.shape[1], 1), learned.repeat(1, common // length, 1)
        return torch.lerp(cond, learned, self.strength.to(cond.dtype))


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
        self.aligned = len(set(self.lengths)) == 1 and all(part is None or part.whole for part in parts)
        longest = max(self.lengths)
        self.context = torch.cat([functional.pad(rows, (0, 0, 0, longest - rows.shape[1])) for rows in contexts])

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.aligned:
            return self._put(site, keys, "keys"), self._put(site, values, "values")
        count = len(self.calls)
        pairs = []
        for call, length, k, v in zip(self.calls, self.lengths, keys.chunk(count), values.chunk(count), strict=True):
            k, v = k[:, :length], v[:, :length]
            pairs.append((k, v) if call is None else call.keys_values(site, k, v))
        common = math.lcm(*(k.shape[1] for k, _ in pairs))
        whole = [(k.repeat(1, common // k.shape[1], 1), v.repeat(1, common // v.shape[1], 1)) if k.shape[1] != common else (k, v) for k, v in pairs]
        return torch.cat([k for k, _ in whole]), torch.cat([v for _, v in whole])

    def _put(self, site: str, projected: Tensor, kind: str) -> Tensor:
        """Write the learned rows over a copy: what the general way comes to when all contexts are as long and no strength is partial."""
        result, group = projected.clone(), projected.shape[0] // len(self.calls)
        for index, call in enumerate(self.calls):
            if call is not None:
                rows = call.rows(getattr(call.injection, kind)[site], projected.dtype)
                start = call.injection.start
                result[index * group : (index + 1) * group, start : start + rows.shape[1]] = rows
        return result


def inject(
    instruction: Instruction,
    strength: float = 1.0,
    segment_strengths: Sequence[float] | None = None,
    start_timestep: int = TRAIN_TIMESTEPS,
    end_timestep: int = 0,
    device: torch.device | str = "cpu",
) -> Injection:
    """Make an instruction ready for a model.

    Args:
        instruction: what was learned.
        strength: s, 0 = the conditioning's own words, 1 = as learned; values beyond extrapolate.
        segment_strengths: one factor for every segment, from low to high noise, multiplied with ``strength``; a single one serves all.
        start_timestep, end_timestep: the instruction acts for ``end <= t < start``. Fig. 3's T is ``end_timestep``: 0 is the full edit, 1000
            leaves the conditioning alone.
        device: where the model runs.

    Raises:
        InstructionError: a strength is not finite, there are too many or too few of them, or the range is not within 0..1000.
    """
    segments = instruction.info.segments
    factors = [1.0] * segments if segment_strengths is None else [float(value) for value in segment_strengths]
    if len(factors) == 1:
        factors = factors * segments
    if len(factors) != segments:
        raise InstructionError(
            f"Segment strengths: {len(factors)} values were given, but the instruction has {segments} segments. "
            f"Give {segments} values, from low noise to high, or one for all."
        )
    scaled = [strength * factor for factor in factors]
    if not all(math.isfinite(value) for value in scaled):
        raise InstructionError(f"Strength: {strength} with segment strengths {factors} is not finite. Use numbers such as 0, 0.5 or 1.")
    if not 0 <= end_timestep <= TRAIN_TIMESTEPS or not 0 <= start_timestep <= TRAIN_TIMESTEPS:
        raise InstructionError(
            f"Timestep range: {start_timestep} to {end_timestep} leaves 0..{TRAIN_TIMESTEPS}. Use start {TRAIN_TIMESTEPS} and end 0 for the whole range."
        )
    whole_range = start_timestep == TRAIN_TIMESTEPS and end_timestep == 0
    return Injection(
        {name: tensor.to(device) for name, tensor in instruction.keys.items()},
        {name: tensor.to(device) for name, tensor in instruction.values.items()},
        instruction.context.to(device),
        instruction.start,
        torch.tensor(scaled, dtype=torch.float32, device=device),
        start_timestep,
        end_timestep,
        whole=whole_range and all(value == 1.0 for value in scaled),
        is_identity=start_timestep <= end_timestep or all(value == 0.0 for value in scaled),
    )
