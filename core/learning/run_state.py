"""State of a learning run as named tensors, for checkpoints: parameters, optimizer, sample streams and
losses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .checkpoint import check_tensors, load_optimizer_state, optimizer_state
from .segment_streams import SegmentStream

Parameters = Mapping[str, Tensor]
Streams = Mapping[int, SegmentStream]


def pack(
    parameters: Parameters, optimizer: torch.optim.Optimizer, streams: Streams, losses: list[float]
) -> dict[str, Tensor]:
    """Everything that is needed to continue exactly. ``losses`` holds one loss for every step."""
    state = {f"parameter.{name}": tensor.detach() for name, tensor in parameters.items()}
    state |= optimizer_state(optimizer, parameters)
    for segment, stream in streams.items():
        state |= {f"stream.{segment}.{part}": tensor for part, tensor in stream.state().items()}
    state["steps_done"] = torch.tensor(len(losses))
    state["losses"] = torch.tensor(losses, dtype=torch.float64)
    return state


def restore(
    state: Mapping[str, Tensor],
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    streams: Streams,
) -> list[float]:
    """Writes a packed state into a run, and returns the losses of its steps.

    Raises:
        ValueError: the state does not fit the run. Nothing is changed then.
    """
    _check(state, parameters, streams)
    for segment, stream in streams.items():
        stream.load_state(_of_stream(state, segment))
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(state[f"parameter.{name}"])
    load_optimizer_state(optimizer, parameters, state)
    return state["losses"].tolist()


def _check(state: Mapping[str, Tensor], parameters: Parameters, streams: Streams) -> None:
    for segment, stream in streams.items():
        try:
            stream.check_state(_of_stream(state, segment))
        except ValueError as error:
            raise ValueError(f"segment {segment}: {error}") from error
    expected = {f"parameter.{name}": tensor for name, tensor in parameters.items()}
    for segment in streams:
        parts = _of_stream(state, segment)
        expected |= {f"stream.{segment}.{part}": tensor for part, tensor in parts.items()}
    losses = state["losses"].numel() if "losses" in state else 0
    expected["steps_done"] = torch.tensor(0)
    expected["losses"] = torch.empty(losses, dtype=torch.float64)
    check_tensors(state, expected, parameters)
    if int(state["steps_done"]) != len(state["losses"]):
        raise ValueError(f"it has {int(state['steps_done'])} steps and {len(state['losses'])} losses")


def _of_stream(state: Mapping[str, Tensor], segment: int) -> dict[str, Tensor]:
    prefix = f"stream.{segment}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
