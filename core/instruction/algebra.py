"""Arithmetic of instructions: scale, blend, add, negate, compose, and the hybrid with a user's own words.

All functions are pure: they return new instructions and leave the given ones alone. What acts at a cross-attention layer is always::

    K' = K_cond + sum_i w_i (K_i - K_cond)

(and the same for the values) with the conditioning's keys ``K_cond`` and those of each instruction alone ``K_i``; see ``artefact.Blend``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InstructionError
from .instruction import Blend, Instruction, InstructionInfo, WeightedInstruction, parts_of

_MAX_SEGMENTS = 1000


def scale(instruction: Instruction | Blend, factor: float) -> Instruction | Blend:
    """``K' = K_cond + factor * sum_i w_i (K_i - K_cond)``: 0 has no effect, 1 is the instruction itself, beyond exaggerates.

    Raises:
        InstructionError: the factor is not finite.
    """
    return blend([(factor, instruction)])


def negate(instruction: Instruction | Blend) -> Instruction | Blend:
    """``K' = K_cond - sum_i w_i (K_i - K_cond)``: :func:`scale` by -1, a step from the conditioning the other way.

    The other way to turn an instruction round, the learned rows in the middle branch of Eq. 3, belongs to the guidance, not to the instruction.
    """
    return scale(instruction, -1.0)


def add(first: Instruction | Blend, second: Instruction | Blend) -> Instruction | Blend:
    """``K' = K_cond + (K_a - K_cond) + (K_b - K_cond)``: the sum of both changes.

    For instructions in the space of text this is the sum of the changes of the text states, because the projections are linear.

    Raises:
        InstructionError: as :func:`blend`.
    """
    return blend([(1.0, first), (1.0, second)])


def interpolate(first: Instruction | Blend, second: Instruction | Blend, t: float) -> Instruction | Blend:
    """``K' = (1 - t) K_a + t K_b``: 0 is the first, 1 the second; the conditioning's words drop out.

    Raises:
        InstructionError: as :func:`blend`.
    """
    return blend([(1 - t, first), (t, second)])


def blend(terms: Sequence[tuple[float, Instruction | Blend]]) -> Instruction | Blend:
    """``K' = K_cond + sum_i w_i (K_i - K_cond)`` with the weights as they are given; they need not sum to one.

    What can be said exactly in fewer terms is: blends inside become part of the sum, weights of equal instructions add up, terms of weight 0
    vanish, and a single instruction at weight 1 is that instruction. Where every weight is 0, one term of weight 0 is kept: no effect.

    Args:
        terms: (weight, instruction) pairs, at least one.

    Raises:
        InstructionError: no terms, a weight that is not finite, or instructions that no model takes together.
    """
    flat: list[WeightedInstruction] = []
    for weight, instruction in terms:
        if not math.isfinite(weight):
            raise InstructionError(
                f"Blend: the weight {weight} of '{instruction.title}' is no number. Use one such as 0.5, 1 or -1."
            )
        for part in parts_of(instruction):
            place = next(
                (i for i, known in enumerate(flat) if same_effect(known.instruction, part.instruction)), None
            )
            if place is None:
                flat.append(WeightedInstruction(weight * part.weight, part.instruction))
            else:
                flat[place] = WeightedInstruction(flat[place].weight + weight * part.weight, flat[place].instruction)
    if not flat:
        raise InstructionError("Blend: at least one instruction is needed.")
    _check_together([part.instruction for part in flat])
    kept = tuple(part for part in flat if part.weight != 0) or (WeightedInstruction(0.0, flat[0].instruction),)
    return kept[0].instruction if len(kept) == 1 and kept[0].weight == 1 else Blend(kept)


def compose(first: Instruction | Blend, second: Instruction | Blend) -> Instruction:
    """Token slots side by side: the model attends to the learned rows of both, as to two phrases one after the other::

        K = [K_init_a[:start_a], gamma_a[segment], gamma_b[segment], K_init_a[start_a + m_a :]]

    and the same for the values; in the space of text the same with the text states. The first one's frozen rows follow, all of them: attention takes
    any number of rows, and without the end and padding that it rests on when there is nothing to do, an edit grows coarse. All of the second one's
    learned rows are written, with its start-of-text row where that was learned.

    Args:
        first, second: of one space, learned on one family of models; with differing numbers of segments, both are cut finer until they agree,
            which changes nothing.

    Raises:
        InstructionError: a weighted sum (compose first, then scale or blend), or different spaces or models.
    """
    a, b = _single(first), _single(second)
    if a.info.space != b.info.space:
        raise InstructionError(
            f"Compose: '{a.title}' was learned in the space of {a.info.space}, '{b.title}' in that of {b.info.space}. Blend them instead, or learn one again."
        )
    if a.info.family != b.info.family or _widths(a) != _widths(b):
        raise InstructionError(
            f"Compose: '{a.title}' was learned on a {a.info.family} model, '{b.title}' on a {b.info.family} model with other layers. "
            "Compose instructions of one model."
        )
    segments = math.lcm(a.info.segments, b.info.segments)
    if segments > _MAX_SEGMENTS:
        raise InstructionError(
            f"Compose: {a.info.segments} and {b.info.segments} segments agree only in {segments}, more than there are timesteps. "
            "Learn one again with the other's number of segments."
        )
    a, b = with_segments(a, segments), with_segments(b, segments)
    init = b.context[b.start : b.start + b.info.tokens]
    end = a.start + a.info.tokens
    context = torch.cat([a.context[:end], init, a.context[end:]])
    return replace(
        a,
        keys={site: torch.cat([gamma, b.keys[site]], dim=1) for site, gamma in a.keys.items()},
        values={site: torch.cat([gamma, b.values[site]], dim=1) for site, gamma in a.values.items()},
        context=context,
        rows=None if a.rows is None or b.rows is None else torch.cat([a.rows, b.rows], dim=1),
        info=_composed_info(a, b),
    )


def with_words(
    instruction: Instruction | Blend, states: Tensor, count: int, text: str = ""
) -> tuple[Instruction | Blend, int]:
    """The hybrid (Visii): the user's words after the learned rows, then the words' end and padding::

        context' = [context[:start + m], states[1 : 1 + n], states[1 + count : 1 + count + L - start - m - n]]

    Only frozen rows change, so it serves both spaces. ``n`` is ``count``, or as many words as leave one row for the end; no row is written twice.

    Args:
        instruction: for a blend, every part gets the words.
        states: the words as the text encoder gives them, the whole window, [L, D]: start, words, end, padding.
        count: tokens of the words, without start and end. 0 leaves the instruction as it is.
        text: the words, for the title.

    Returns:
        The hybrid, and how many tokens at the end of the words did not fit (into the tightest part).

    Raises:
        InstructionError: the states are of another text encoder.
    """
    if isinstance(instruction, Instruction):
        return _hybrid(instruction, states, count, text)
    hybrids = [(part.weight, *_hybrid(part.instruction, states, count, text)) for part in instruction.parts]
    return Blend(tuple(WeightedInstruction(weight, hybrid) for weight, hybrid, _ in hybrids)), max(
        cut for _, _, cut in hybrids
    )


def with_segments(instruction: Instruction, segments: int) -> Instruction:
    """The same instruction cut into more segments, each a copy of the one it lies in: exact at every timestep.

    Raises:
        InstructionError: ``segments`` is no multiple of the instruction's.
    """
    factor, rest = divmod(segments, instruction.info.segments)
    if rest or not factor:
        raise InstructionError(
            f"Segments: {instruction.info.segments} cannot be cut into {segments}. Use a multiple."
        )
    if factor == 1:
        return instruction
    return replace(
        instruction,
        keys={site: gamma.repeat_interleave(factor, dim=0) for site, gamma in instruction.keys.items()},
        values={site: gamma.repeat_interleave(factor, dim=0) for site, gamma in instruction.values.items()},
        rows=None if instruction.rows is None else instruction.rows.repeat_interleave(factor, dim=0),
        info=replace(instruction.info, segments=segments),
    )


def same_effect(first: Instruction, second: Instruction) -> bool:
    """Whether two instructions do the same to any model: equal tensors, whatever they are called."""
    if first is second:
        return True
    if first.start != second.start or not _equal(first.learned(), second.learned()):
        return False
    # The init phrase's states are not used where something was learned instead.
    end = first.start + first.info.tokens
    return all(
        torch.equal(first.context[rows], second.context[rows])
        for rows in (slice(first.start), slice(end, None))
    )


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return set(first) == set(second) and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def _check_together(instructions: Sequence[Instruction]) -> None:
    """One model must take them all: an attention part binds the family, every part the width of the text states."""
    first = instructions[0]
    for other in instructions[1:]:
        if other.context.shape[1] != first.context.shape[1]:
            raise InstructionError(
                f"Blend: '{first.title}' has text states {first.context.shape[1]} wide, '{other.title}' {other.context.shape[1]}: no model takes both. "
                "Blend instructions of one family of models."
            )
    bound = [each for each in instructions if each.info.space == "attention"]
    for other in bound[1:]:
        if other.info.family != bound[0].info.family or _widths(other) != _widths(bound[0]):
            raise InstructionError(
                f"Blend: '{bound[0].title}' was learned on a {bound[0].info.family} model, '{other.title}' on a {other.info.family} model with other layers: "
                "no model takes both. Blend instructions of one family of models."
            )


def _widths(instruction: Instruction) -> dict[str, int]:
    return {name: tensor.shape[2] for name, tensor in instruction.learned().items()}


def _single(instruction: Instruction | Blend) -> Instruction:
    whole = blend([(1.0, instruction)])
    if isinstance(whole, Blend):
        raise InstructionError(
            f"Compose: '{whole.title}' is a weighted sum, which has no rows of its own. Compose first, then scale or blend."
        )
    return whole


def _composed_info(a: Instruction, b: Instruction) -> InstructionInfo:
    same_model = a.info.fingerprint == b.info.fingerprint
    models = dict.fromkeys(each.info.model_title for each in (a, b) if each.info.model_title)
    settings = {name: value for name, value in a.info.settings.items() if b.info.settings.get(name) == value}
    return replace(
        a.info,
        fingerprint=a.info.fingerprint if same_model else "",
        model_title=", ".join(models),
        tokens=a.info.tokens + b.info.tokens,
        init_text=", ".join(each.info.init_text for each in (a, b) if each.info.init_text),
        title=f"{a.title}, {b.title}",
        created=max(a.info.created, b.info.created),
        pairs=a.info.pairs + b.info.pairs,
        steps=a.info.steps + b.info.steps,
        final_loss=None,
        losses=(),
        settings={**settings, "include_bos": a.start == 0},
    )


def _hybrid(instruction: Instruction, states: Tensor, count: int, text: str) -> tuple[Instruction, int]:
    context = instruction.context
    if states.ndim != 2 or states.shape[1] != context.shape[1]:
        raise InstructionError(
            f"Add words: the text states are {tuple(states.shape)}, those of '{instruction.title}' {tuple(context.shape)}. "
            "Use the text encoder of a model that the instruction fits."
        )
    window, end = context.shape[0], instruction.start + instruction.info.tokens
    words = max(min(count, len(states) - 2, window - end - 1), 0)
    if words == 0:
        return instruction, count
    # Where the window is full of words, the encoder has put their end into its last row.
    after = min(1 + count, len(states) - 1)
    states = states.detach().cpu().float()
    hybrid = torch.cat([context[:end], states[1 : 1 + words], states[after : after + window - end - words]])
    title = f"{instruction.title} + {text}" if text else instruction.info.title
    return replace(instruction, context=hybrid, info=replace(instruction.info, title=title)), count - words
