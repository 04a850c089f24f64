"""Puts learned keys and values into every cross-attention layer of a model (InstructBrush, section 4.1), and
an adapter's residuals into every attention layer.

An engine calls ``begin`` once per model call, runs the model on the context of the ``InjectedCall`` it gets,
and calls ``InjectedCall.keys_values`` at every site with the projections of that context. If
``InjectedCall.adapts``, it also calls ``InjectedCall.adapt`` at every place of every attention layer. All
engines share this code, so they agree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..diffusion.schedule import TRAIN_TIMESTEPS, segment_of
from ..errors import InstructionError
from .adapter import Place, residual
from .injected_instruction import InjectedInstruction
from .instruction import Blend, Instruction, WeightedInstruction, parts_of
from .segment_strengths import segment_factors

# ComfyUI, too, repeats the text states of prompts of different lengths at most as often in one call.
_MOST_REPETITIONS = 4


class InjectedCall(Protocol):
    """One model call with an injection. Computes once what is the same at all sites."""

    context: Tensor
    """Text states to project instead of the conditioning's, [B, rows, D]. If the conditioning and the init
    text differ in length, both are repeated to a common multiple, which leaves attention unchanged."""

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the learned rows at one site.

        Args:
            site: name of the cross-attention layer.
            keys, values: projections of ``context``, [B, rows, width]. Changed in place.

        Returns:
            The same two tensors, now K' and V'.
        """
        ...

    @property
    def adapts(self) -> bool:
        """Whether there are residuals, so that the engine must call ``adapt``."""
        ...

    def adapt(self, layer: str, place: Place, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Adds the learned residuals of one place.

        Args:
            layer: name of the self- or cross-attention layer.
            place: one of its projections, or its bypass.
            inputs: what was projected, [B, n, in]; for a bypass the queries' input. Other patches may cut
                every image into T tiles, [B T, n / T, in], the tiles of an image one after another.
            outputs: its projection, [B, n, out]; for a bypass the layer's output. Changed in place.

        Returns:
            ``outputs``.

        Raises:
            InstructionError: the inputs are no tiles of the call's images.
        """
        ...


class AnyInjection(Protocol):
    """What an engine needs of an ``Injection`` or a ``GroupedInjection``."""

    @property
    def is_identity(self) -> bool:
        """Nothing would change: the engine must leave the model call untouched, bit for bit."""
        ...

    def begin(self, context: Tensor, timesteps: Tensor) -> InjectedCall:
        """Starts a model call.

        Args:
            context: text states of the conditioning, [B, L_cond, D].
            timesteps: [B], 0..999, on the same device.
        """
        ...


@dataclass(frozen=True)
class Injection:
    """Instructions prepared for model calls. All tensors live on one device, and nothing here waits for it.

    With the projections ``K_cond`` of the conditioning, ``K_init`` of the i-th init text and the learned rows
    ``gamma``::

        K_i = [K_init[:start], gamma[segment], K_init[start + m:]]
        K'  = K_cond + s[segment] sum_i weight_i (K_i - K_cond)    for end_timestep <= t < start_timestep

    and ``K' = K_cond`` elsewhere; the same for the values. The projections are linear and without bias. So
    the sum is taken over text states before the projection, with zeros in the learned rows, and
    ``s weight gamma`` is added afterwards. A model call then projects as many rows as without an instruction,
    however many are blended. In text space the learned rows are part of the text states instead; the
    formula is the same. An adapter adds ``s[segment] sum_i weight_i (x D_i^T) U_i`` to every projection.
    """

    parts: tuple[InjectedInstruction, ...]
    strengths: Tensor
    """s for every segment, [j]."""
    start_timestep: int = TRAIN_TIMESTEPS
    end_timestep: int = 0
    replaces_conditioning: bool = True
    """One part at strength 1 over the whole range: K_cond has weight 0 and is not needed."""
    is_identity: bool = False
    """Nothing would change: the engine must leave the model call untouched, bit for bit."""

    @property
    def is_text(self) -> bool:
        """All parts are text states, so the conditioning can carry them and no attention layer is changed."""
        return all(part.is_text for part in self.parts)

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.strengths.device

    def to(self, device: torch.device) -> "Injection":
        """Copies it to another device, or returns itself if it is there."""
        if self.device == device:
            return self
        parts = tuple(part.to(device) for part in self.parts)
        return replace(self, parts=parts, strengths=self.strengths.to(device))

    def joins(self, rows: int) -> bool:
        """Whether plain branches with text states of ``rows`` rows should share a model call with it.

        In one call all text states are repeated to a common length, see ``_of_one_length``. For 93 and 77
        rows that is 7161, which costs more than a second call.
        """
        return math.lcm(rows, *(len(part.context) for part in self.parts)) <= _MOST_REPETITIONS * rows

    def begin(self, context: Tensor, timesteps: Tensor) -> "_UniformCall":
        """See ``AnyInjection.begin``."""
        return _UniformCall(self, context, timesteps)

    def strength_at(self, timesteps: Tensor) -> Tensor:
        """s of every sample, 0 outside the range, [B, 1, 1]."""
        active = (timesteps >= self.end_timestep) & (timesteps < self.start_timestep)
        return (self.strengths[segment_of(timesteps, self.strengths.shape[0])] * active).view(-1, 1, 1)


class GroupedInjection:
    """Several injections in one model call, so that instructed and plain branches run as one batch.

    Args:
        injections: one for each of equally large groups of rows; None leaves its rows to the model.
    """

    is_identity = False

    def __init__(self, injections: Sequence[Injection | None]) -> None:
        self.injections = injections

    def begin(self, context: Tensor, timesteps: Tensor) -> InjectedCall:
        """See ``AnyInjection.begin``. The rows of ``context`` and ``timesteps`` lie group after group."""
        return _GroupedCall(self.injections, context, timesteps)


class _UniformCall:
    """The same injection in every row of a call."""

    def __init__(self, injection: Injection, context: Tensor, timesteps: Tensor) -> None:
        strength = None if injection.replaces_conditioning else injection.strength_at(timesteps)
        states: list[Tensor] = []
        factors: list[Tensor | None] = []
        self._count = len(timesteps)
        self._added: list[tuple[InjectedInstruction, dict[tuple[str, ...], Tensor]]] = []
        self._adapters: list[tuple[dict[tuple[str, ...], Tensor], Tensor | None]] = []
        for part in injection.parts:
            segment = segment_of(timesteps, part.segments)
            factor = None if strength is None else part.weight * strength
            states.append(part.states(segment))
            factors.append(factor)
            # Cast and cut once here, not at every layer.
            if part.rows is not None and not part.is_text:
                learned = _times(part.rows.at(segment), factor).to(context.dtype)
                self._added.append((part, part.rows.cut(learned)))
            for tensors in part.adapter:
                # Residuals that all segments share need no selection.
                selected = tensors.tensor if len(tensors.tensor) == 1 else tensors.at(segment)
                scale = None if factor is None else factor.to(context.dtype)
                self._adapters.append((tensors.cut(selected.to(context.dtype)), scale))
        if strength is not None:
            total = sum((factor for factor in factors if factor is not None), strength.new_zeros(()))
            states.append(context)
            factors.append(1 - total)
        # Summed in fp32, whatever dtype the model computes in.
        terms = [_times(rows, factor) for rows, factor in zip(_of_one_length(states), factors, strict=True)]
        self.context = (terms[0] if len(terms) == 1 else sum(terms[1:], terms[0])).to(context.dtype)

    @property
    def adapts(self) -> bool:
        return bool(self._adapters)

    @property
    def acts_at_layers(self) -> bool:
        """Whether there is more than text states."""
        return bool(self._added) or self.adapts

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.add(site, keys, values)
        return keys, values

    def add(self, site: str, keys: Tensor, values: Tensor, samples: slice = slice(None)) -> None:
        """Adds the learned rows in place, in every repetition of the context."""
        for part, learned in self._added:
            for first in range(part.start, keys.shape[1], part.context.shape[0]):
                last = first + part.tokens
                keys[samples, first:last].add_(learned["keys", site])
                values[samples, first:last].add_(learned["values", site])

    def adapt(self, layer: str, place: Place, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Adds every part's residual in place."""
        name = f"{layer}.{place}"
        tiles = _tiles(inputs, self._count)
        for tensors, factor in self._adapters:
            down = tensors.get((f"{name}.down",))
            if down is not None:
                up = tensors[f"{name}.up",]
                if factor is not None:
                    factor = _for_tiles(factor, tiles)
                added = residual(place, inputs, _for_tiles(down, tiles), _for_tiles(up, tiles), factor)
                outputs.add_(added)
        return outputs


class _GroupedCall:
    def __init__(self, injections: Sequence[Injection | None], context: Tensor, timesteps: Tensor) -> None:
        count = len(injections)
        self._count = len(context)
        size = len(context) // count
        states: list[Tensor] = []
        self._calls: list[tuple[slice, _UniformCall]] = []
        groups = zip(injections, context.chunk(count), timesteps.chunk(count), strict=True)
        for index, (injection, rows, times) in enumerate(groups):
            if injection is None:
                states.append(rows)
                continue
            call = injection.begin(rows, times)
            states.append(call.context)
            if call.acts_at_layers:
                self._calls.append((slice(index * size, (index + 1) * size), call))
        self.context = torch.cat(_of_one_length(states))

    def keys_values(self, site: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        for samples, call in self._calls:
            call.add(site, keys, values, samples)
        return keys, values

    @property
    def adapts(self) -> bool:
        return any(call.adapts for _, call in self._calls)

    def adapt(self, layer: str, place: Place, inputs: Tensor, outputs: Tensor) -> Tensor:
        tiles = _tiles(inputs, self._count)
        for samples, call in self._calls:
            of_tiles = slice(samples.start * tiles, samples.stop * tiles)
            call.adapt(layer, place, inputs[of_tiles], outputs[of_tiles])
        return outputs


def inject(
    instruction: Instruction | Blend,
    strength: float = 1.0,
    segment_strengths: Sequence[float] | None = None,
    start_timestep: int = TRAIN_TIMESTEPS,
    end_timestep: int = 0,
    device: torch.device | str = "cpu",
) -> Injection:
    """Prepares an instruction for a model.

    Args:
        instruction: an instruction or a weighted sum of several.
        strength: s. 0 is the conditioning alone, 1 is as learned; values beyond extrapolate.
        segment_strengths: factors that are multiplied with ``strength``, one for every segment from low to
            high noise, or a single one for all.
        start_timestep, end_timestep: the instruction acts for ``end <= t < start``. Fig. 3's T is
            ``end_timestep``: 0 is the full edit, 1000 leaves the conditioning alone.
        device: where the model runs.

    Raises:
        InstructionError: a strength is not finite, there are too many or too few of them, or the range is not
            within 0..1000.
    """
    parts = [part for part in parts_of(instruction) if part.weight != 0.0]
    factors = segment_factors(instruction, segment_strengths)
    scaled = [strength * factor for factor in factors]
    if not all(math.isfinite(value) for value in scaled):
        raise InstructionError(
            f"Strength: {strength} with segment strengths {factors} is not finite. Use numbers such as 0, "
            "0.5 or 1."
        )
    if not 0 <= end_timestep <= TRAIN_TIMESTEPS or not 0 <= start_timestep <= TRAIN_TIMESTEPS:
        raise InstructionError(
            f"Timestep range: {start_timestep} to {end_timestep} leaves 0..{TRAIN_TIMESTEPS}. Use start "
            f"{TRAIN_TIMESTEPS} and end 0 for the whole range."
        )
    whole_range = start_timestep == TRAIN_TIMESTEPS and end_timestep == 0
    return Injection(
        tuple(_on_cpu(part).to(device) for part in parts),
        torch.tensor(scaled, dtype=torch.float32, device=device),
        start_timestep,
        end_timestep,
        replaces_conditioning=whole_range
        and len(parts) == 1
        and all(value * parts[0].weight == 1.0 for value in scaled),
        is_identity=not parts or start_timestep <= end_timestep or all(value == 0.0 for value in scaled),
    )


def _on_cpu(part: WeightedInstruction) -> InjectedInstruction:
    learned = part.instruction
    if learned.rows is not None:
        return InjectedInstruction.text(learned.context, learned.start, learned.rows, part.weight)
    attention = InjectedInstruction.attention(learned.context, learned.start, learned.keys, learned.values)
    return replace(attention.with_adapter(learned.adapter), weight=part.weight)


def _times(rows: Tensor, factor: Tensor | None) -> Tensor:
    return rows if factor is None else factor * rows


def _tiles(inputs: Tensor, count: int) -> int:
    """The number of tiles that every one of ``count`` images is cut into."""
    tiles, rest = divmod(len(inputs), count)
    if rest or not tiles:
        raise InstructionError(
            f"Instruction: its adapter got {len(inputs)} rows in an attention layer of a call with {count} "
            "images. Another patch of the model regroups them; remove that patch, or apply an instruction "
            "without an adapter."
        )
    return tiles


def _for_tiles(tensor: Tensor, tiles: int) -> Tensor:
    """Repeats values of every image for its tiles."""
    return tensor if tiles == 1 or len(tensor) == 1 else tensor.repeat_interleave(tiles, dim=0)


def _of_one_length(states: Sequence[Tensor]) -> list[Tensor]:
    """Repeats states [B, L_i, width] to a common length, which leaves attention unchanged."""
    common = math.lcm(*(each.shape[1] for each in states))
    return [
        each if each.shape[1] == common else each.repeat(1, common // each.shape[1], 1) for each in states
    ]
