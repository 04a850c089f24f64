"""Text states that were learned, as plain CONDITIONING: they act in any model, with any sampler, without a hand in the MODEL."""

from collections.abc import Iterator

import torch

from ....core.diffusion.schedule import TRAIN_TIMESTEPS, segment_bounds
from ....core.instruction.injection import Injection
from .instruction_patch import Conditioning


def with_learned_states(conditioning: Conditioning, injection: Injection) -> Conditioning:
    """A CONDITIONING whose text states are those of the injection, in as many entries as it has parts of the noise schedule.

    Args:
        conditioning: with the words that act where the injection does not.
        injection: of the space of text (``injection.is_text``).
    """
    result = []
    for states, options in conditioning:
        here = injection.to(states.device)
        mixed = [
            (first, last, here.begin(states, torch.full(states.shape[:1], first)).context)
            for first, last in _intervals(injection)
        ]
        for first, last, context in _joined(mixed):
            start = max(_percent(last), options.get("start_percent", 0.0))
            end = min(_percent(first), options.get("end_percent", 1.0))
            if (first, last) == (0, TRAIN_TIMESTEPS):
                result.append([context, options])
            elif start < end:
                result.append([context, {**options, "start_percent": start, "end_percent": end}])
    return result


def _intervals(injection: Injection) -> Iterator[tuple[int, int]]:
    """Stretches of timesteps, first and one past the last, in which the injection does the same."""
    edges = {0, TRAIN_TIMESTEPS, injection.start_timestep, injection.end_timestep}
    for segments in (injection.strengths.shape[0], *(part.segments for part in injection.parts)):
        edges.update(segment_bounds(segment, segments)[0] for segment in range(segments))
    ordered = sorted(edges)
    yield from zip(ordered, ordered[1:], strict=False)


def _joined(stretches: list[tuple[int, int, torch.Tensor]]) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Neighbours with equal states as one."""
    first, last, context = stretches[0]
    for start, end, states in stretches[1:]:
        if torch.equal(states, context):
            last = end
        else:
            yield first, last, context
            first, last, context = start, end, states
    yield first, last, context


def _percent(timestep: int) -> float:
    """Where a stretch of timesteps begins or ends, as ComfyUI counts: 0 is pure noise. ComfyUI rounds noise levels to the nearest timestep, so the
    border lies half a timestep below."""
    return min(max(1 - (timestep - 0.5) / (TRAIN_TIMESTEPS - 1), 0.0), 1.0)
