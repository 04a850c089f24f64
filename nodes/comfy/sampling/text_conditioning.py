"""Learned text states as plain CONDITIONING. They act in any model and sampler; the MODEL needs no patch."""

from collections.abc import Iterator
from typing import Any

import torch

from ....core.diffusion.schedule import TRAIN_TIMESTEPS, segment_bounds
from ....core.instruction.injection import Injection
from .instruction_patch import Conditioning, percent_of


def with_learned_states(conditioning: Conditioning, injection: Injection, sampling: Any) -> Conditioning:
    """Returns a CONDITIONING with learned text states, one entry for each part of the noise schedule.

    Args:
        conditioning: its words act where the injection does not.
        injection: an injection of the text space (``injection.is_text``).
        sampling: the MODEL's "model_sampling".
    """
    result = []
    for states, options in conditioning:
        on_device = injection.to(states.device)
        intervals = []
        for first, last in _intervals(injection):
            call = on_device.begin(states, torch.full(states.shape[:1], first, device=states.device))
            intervals.append((first, last, call.context))
        for first, last, context in _merged(intervals):
            # ComfyUI rounds noise levels to the nearest timestep, so a bound is half a timestep below.
            # Not start_percent and end_percent, which Conditioning Set Timestep Range would replace. ComfyUI
            # takes what is in both ranges.
            start = max(percent_of(last - 0.5, sampling), options.get("clip_start_percent", 0.0))
            end = min(percent_of(first - 0.5, sampling), options.get("clip_end_percent", 1.0))
            if (first, last) == (0, TRAIN_TIMESTEPS):
                result.append([context, options])
            elif start < end:
                result.append([context, {**options, "clip_start_percent": start, "clip_end_percent": end}])
    return result


def _intervals(injection: Injection) -> Iterator[tuple[int, int]]:
    """Intervals of timesteps in which the injection is constant: first and one-past-last timestep."""
    edges = {0, TRAIN_TIMESTEPS, injection.start_timestep, injection.end_timestep}
    for segments in (injection.strengths.shape[0], *(part.segments for part in injection.parts)):
        edges.update(segment_bounds(segment, segments)[0] for segment in range(segments))
    ordered = sorted(edges)
    yield from zip(ordered, ordered[1:], strict=False)


def _merged(intervals: list[tuple[int, int, torch.Tensor]]) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Merges neighbors with equal states."""
    first, last, context = intervals[0]
    for start, end, states in intervals[1:]:
        if torch.equal(states, context):
            last = end
        else:
            yield first, last, context
            first = start
            last = end
            context = states
    yield first, last, context
