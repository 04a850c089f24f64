"""Arithmetic of instructions: scale, blend, compose, and the hybrid with a user's own words.

All functions are pure. With the conditioning's keys ``K_cond`` and each instruction's own keys ``K_i``, a
cross-attention layer always computes::

    K' = K_cond + sum_i w_i (K_i - K_cond)

and the same for the values, and an adapter adds ``sum_i w_i (x D_i^T) U_i``; see ``Blend`` in
core/instruction/instruction.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InstructionError
from .adapter import Adapter
from .instruction import Blend, Instruction, InstructionInfo, WeightedInstruction, parts_of

_MAX_SEGMENTS = 1000


def scale(instruction: Instruction | Blend, factor: float) -> Instruction | Blend:
    """``K' = K_cond + factor * sum_i w_i (K_i - K_cond)``.

    0 has no effect, 1 is the instruction itself, more than 1 exaggerates.

    Raises:
        InstructionError: the factor is not finite.
    """
    return blend([(factor, instruction)])


def blend(terms: Sequence[tuple[float, Instruction | Blend]]) -> Instruction | Blend:
    """``K' = K_cond + sum_i w_i (K_i - K_cond)``. The weights need not sum to one.

    The sum is simplified where that is exact: inner blends are flattened, weights of equal instructions are
    added, terms of weight 0 are dropped, and a single instruction of weight 1 is returned as it is. If every
    weight is 0, one term of weight 0 remains.

    Args:
        terms: (weight, instruction) pairs, at least one.

    Raises:
        InstructionError: no terms, a weight that is not finite, or instructions that do not fit one model.
    """
    merged: list[WeightedInstruction] = []
    for weight, instruction in terms:
        if not math.isfinite(weight):
            raise InstructionError(
                f"Blend: the weight {weight} of '{instruction.title}' is not a number. Use one such as 0.5, "
                "1 or -1."
            )
        for part in parts_of(instruction):
            _add_term(merged, weight * part.weight, part.instruction)
    if not merged:
        raise InstructionError("Blend: at least one instruction is needed.")
    _check_same_model([part.instruction for part in merged])
    kept = tuple(part for part in merged if part.weight != 0)
    if not kept:
        return Blend((WeightedInstruction(0.0, merged[0].instruction),))
    if len(kept) == 1 and kept[0].weight == 1:
        return kept[0].instruction
    return Blend(kept)


def compose(first: Instruction | Blend, second: Instruction | Blend) -> Instruction:
    """Puts the learned rows of both side by side, like two phrases in one sentence::

        K = [K_init_a[:start_a], gamma_a[segment], gamma_b[segment], K_init_a[start_a + m_a :]]

    and the same for the values; in text space the same with the text states. All learned rows of the
    second instruction are kept, including its start-of-text row if that was learned. All frozen rows of the
    first one follow, so the window grows: attention takes any number of rows. Without the end and padding
    rows, which attention uses when there is nothing to do, edits become coarse. The residuals of adapters
    are added.

    Args:
        first, second: of one space, learned on one family of models. If their numbers of segments differ,
            both are cut into the least common multiple, which changes nothing.

    Raises:
        InstructionError: a weighted sum (compose first, then scale or blend), or different spaces or models.
    """
    a = _single(first)
    b = _single(second)
    _check_composable(a, b)
    segments = math.lcm(a.info.segments, b.info.segments)
    if segments > _MAX_SEGMENTS:
        raise InstructionError(
            f"Compose: {a.info.segments} and {b.info.segments} segments agree only in {segments}, more than "
            "there are timesteps. Learn one again with the other's number of segments."
        )
    a = with_segments(a, segments)
    b = with_segments(b, segments)
    end = a.start + a.info.tokens
    init_of_b = b.context[b.start : b.start + b.info.tokens]
    return replace(
        a,
        keys=_side_by_side(a.keys, b.keys),
        values=_side_by_side(a.values, b.values),
        context=torch.cat([a.context[:end], init_of_b, a.context[end:]]),
        rows=None if a.rows is None or b.rows is None else torch.cat([a.rows, b.rows], dim=1),
        adapter=_both_adapters(a.adapter, b.adapter),
        info=_composed_info(a, b),
    )


def with_words(
    instruction: Instruction | Blend, states: Tensor, count: int, text: str = ""
) -> tuple[Instruction | Blend, int]:
    """The hybrid (Visii): writes the user's words after the learned rows, then the words' end and padding::

        context' = [context[:start + m], states[1 : 1 + n], states[1 + count : 1 + count + L - start - m - n]]

    Only frozen rows change, so it works in both spaces. ``n`` is ``count``, or fewer if the window is too
    short; one row always remains for the end of the text.

    Args:
        instruction: for a blend, every part gets the words.
        states: the words' text states, the whole window, [L, D]: start, words, end, padding.
        count: tokens of the words, without start and end. 0 leaves the instruction as it is.
        text: the words, for the title.

    Returns:
        The hybrid, and how many tokens at the end of the words did not fit into the tightest part.

    Raises:
        InstructionError: the states have another width than the instruction's context.
    """
    if isinstance(instruction, Instruction):
        return _hybrid(instruction, states, count, text)
    parts = []
    most_cut = 0
    for part in instruction.parts:
        hybrid, cut = _hybrid(part.instruction, states, count, text)
        parts.append(WeightedInstruction(part.weight, hybrid))
        most_cut = max(most_cut, cut)
    return Blend(tuple(parts)), most_cut


def with_segments(instruction: Instruction, segments: int) -> Instruction:
    """Cuts every segment into equal copies. The result is exact at every timestep.

    Raises:
        InstructionError: ``segments`` is not a multiple of the instruction's.
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
        adapter={
            name: tensor if len(tensor) == 1 else tensor.repeat_interleave(factor, dim=0)
            for name, tensor in instruction.adapter.items()
        },
        info=replace(instruction.info, segments=segments),
    )


def same_effect(first: Instruction, second: Instruction) -> bool:
    """Whether two instructions do the same in any model: their tensors are equal, titles may differ."""
    if first is second:
        return True
    if first.start != second.start or not _equal(first.learned(), second.learned()):
        return False
    # Learned rows replace those of the init text, so only the frozen rows count.
    end = first.start + first.info.tokens
    frozen_rows = (slice(first.start), slice(end, None))
    return all(torch.equal(first.context[rows], second.context[rows]) for rows in frozen_rows)


def _add_term(terms: list[WeightedInstruction], weight: float, instruction: Instruction) -> None:
    """Appends a term, or adds its weight to the term with the same effect."""
    for index, term in enumerate(terms):
        if same_effect(term.instruction, instruction):
            terms[index] = WeightedInstruction(term.weight + weight, term.instruction)
            return
    terms.append(WeightedInstruction(weight, instruction))


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return set(first) == set(second) and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def _check_same_model(instructions: Sequence[Instruction]) -> None:
    """Checks the width of the text states, and family and sites of keys and values."""
    first = instructions[0]
    for other in instructions[1:]:
        if other.context.shape[1] != first.context.shape[1]:
            raise InstructionError(
                f"Blend: '{first.title}' has text states {first.context.shape[1]} wide, '{other.title}' "
                f"{other.context.shape[1]}: no model takes both. Blend instructions of one family of models."
            )
    in_attention = [each for each in instructions if each.info.space != "text"]
    for other in in_attention[1:]:
        first = in_attention[0]
        if other.info.family != first.info.family or _widths_differ(first, other):
            raise InstructionError(
                f"Blend: '{first.title}' was learned on a {first.info.family} model, '{other.title}' on a "
                f"{other.info.family} model with other layers: no model takes both. Blend instructions of "
                "one family of models."
            )


def _check_composable(a: Instruction, b: Instruction) -> None:
    if a.info.space != b.info.space:
        raise InstructionError(
            f"Compose: '{a.title}' was learned in {a.info.space} space, '{b.title}' in "
            f"{b.info.space} space. Blend them instead, or learn one again."
        )
    if a.info.family != b.info.family or _widths_differ(a, b):
        raise InstructionError(
            f"Compose: '{a.title}' was learned on a {a.info.family} model, '{b.title}' on a {b.info.family} "
            "model with other layers. Compose instructions of one model."
        )


def _widths_differ(first: Instruction, second: Instruction) -> bool:
    """Whether no model can take both: keys of other layers, or a tensor of another width."""
    a, b = ({name: tensor.shape[2] for name, tensor in each.learned().items()} for each in (first, second))
    other_layers = bool(first.keys and second.keys) and set(first.keys) != set(second.keys)
    return other_layers or any(b.get(name, width) != width for name, width in a.items())


def _side_by_side(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys or values of both. Either may have none, if it is an adapter without learned rows."""
    if not first or not second:
        return dict(first or second)
    return {site: torch.cat([gamma, second[site]], dim=1) for site, gamma in first.items()}


def _both_adapters(first: Adapter, second: Adapter) -> dict[str, Tensor]:
    """The sum of the residuals. Every rank adds a term, so ranks stand side by side."""
    segments = max((len(tensor) for tensor in (*first.values(), *second.values())), default=1)
    both: dict[str, Tensor] = {}
    for name in dict.fromkeys((*first, *second)):
        tensors = [each[name].expand(segments, -1, -1) for each in (first, second) if name in each]
        both[name] = torch.cat(tensors, dim=1)
    return both


def _single(instruction: Instruction | Blend) -> Instruction:
    simplified = blend([(1.0, instruction)])
    if isinstance(simplified, Blend):
        raise InstructionError(
            f"Compose: '{simplified.title}' is a weighted sum, and rows cannot be added to a sum. Compose "
            "first, then scale or blend."
        )
    return simplified


def _composed_info(a: Instruction, b: Instruction) -> InstructionInfo:
    same_model = a.info.fingerprint == b.info.fingerprint
    models = dict.fromkeys(each.info.model_title for each in (a, b) if each.info.model_title)
    settings = {name: value for name, value in a.info.settings.items() if b.info.settings.get(name) == value}
    # The adapters lie side by side.
    for name in ("rank", "bypass"):
        if isinstance(settings.get(name), int):
            settings[name] *= 2
    # Both instructions' rows share one softmax, so scales found for each alone hold only if they agree.
    same_scales = (a.info.text_scale, a.info.image_scale) == (b.info.text_scale, b.info.image_scale)
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
        text_scale=a.info.text_scale if same_scales else None,
        image_scale=a.info.image_scale if same_scales else None,
    )


def _hybrid(instruction: Instruction, states: Tensor, count: int, text: str) -> tuple[Instruction, int]:
    context = instruction.context
    if states.ndim != 2 or states.shape[1] != context.shape[1]:
        raise InstructionError(
            f"Add words: the text states are {tuple(states.shape)}, those of '{instruction.title}' "
            f"{tuple(context.shape)}. Use the text encoder of a model that the instruction fits."
        )
    window = context.shape[0]
    end = instruction.start + instruction.info.tokens
    words = max(min(count, len(states) - 2, window - end - 1), 0)
    if words == 0:
        return instruction, count
    # If words fill the encoder's window, its last row is their end.
    end_of_words = min(1 + count, len(states) - 1)
    states = states.detach().cpu().float()
    padding = states[end_of_words : end_of_words + window - end - words]
    hybrid = torch.cat([context[:end], states[1 : 1 + words], padding])
    title = f"{instruction.title} + {text}" if text else instruction.info.title
    # The scales were found for the learned rows alone; words need the guidance that the model is used with.
    info = replace(instruction.info, title=title, text_scale=None, image_scale=None)
    return replace(instruction, context=hybrid, info=info), count - words
