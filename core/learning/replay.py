"""A training step recorded as a CUDA graph: its thousands of kernels start with one call, and the device no longer waits for Python."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_EAGER_STEPS = 2
"""Steps that run as they are before one is recorded: libraries choose their kernels in them, and the optimiser makes its state."""
_MOST_RECORDINGS = 8
_TOLERANCE = 0.05
"""How far a recording's gradients may be from the eager ones, of their norm. Half precision and atomic sums alone make up to about a hundredth."""

Step = Callable[[Sequence[Tensor]], Tensor]


class Replay:
    """Runs a step eagerly on the CPU; on a GPU it records the step for every combination of shapes that comes again, and replays it.

    The first replay of a recording is compared with the eager step. Where they differ, or where recording fails, all goes on eagerly: a model may be patched in
    ways that no recording follows.

    Args:
        step: from inputs on the device to a scalar on it; changes only what ``changed`` lists.
        changed: the tensors that outlive a step, always the same ones.
        gradients: the gradients that the last step left.
    """

    def __init__(self, step: Step, changed: Callable[[], list[Tensor]], gradients: Callable[[], list[Tensor]]) -> None:
        self._step, self._changed, self._gradients = step, changed, gradients
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self.enabled = True

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """One step."""
        device = inputs[0].device
        if device.type != "cuda" or not self.enabled:
            return self._step(inputs)
        shapes = tuple(tensor.shape for tensor in inputs)
        recording = self._recordings.get(shapes)
        if recording is not None:
            return recording.replay(inputs)
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._seen[shapes] += 1
        if self._seen[shapes] <= _EAGER_STEPS or len(self._recordings) >= _MOST_RECORDINGS:
            return self._aside(inputs)
        return self._record(shapes, inputs)

    def forget(self) -> None:
        """Drop the recordings, and the memory they hold: what they refer to is about to change or to go."""
        self._recordings.clear()
        self._seen.clear()

    def _aside(self, inputs: Sequence[Tensor]) -> Tensor:
        """An eager step on the stream that recordings are made on: autograd's nodes remember where they were made."""
        current = torch.cuda.current_stream(inputs[0].device)
        assert self._stream is not None
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._step(inputs)
        current.wait_stream(self._stream)
        return loss

    def _record(self, shapes: tuple[torch.Size, ...], inputs: Sequence[Tensor]) -> Tensor:
        before = [tensor.clone() for tensor in self._changed()]
        loss = self._aside(inputs)
        expected = [gradient.clone() for gradient in self._gradients()]
        after = [tensor.clone() for tensor in self._changed()]
        try:
            _restore(self._changed(), before)
            recording = _Recording(self._step, inputs, self._stream, self._pool)
            found = recording.replay(inputs)
            if not _alike([found, *self._gradients()], [loss, *expected]):
                raise RuntimeError("its first step is another one")
        except RuntimeError as error:
            logger.warning("InstructBrush: this model's steps cannot be recorded (%s); learning goes on without, only slower.", error)
            self.enabled = False
            self.forget()
            _restore(self._changed(), after)
            return loss
        self._recordings[shapes] = recording
        return found


class _Recording:
    """One recorded step: inputs at fixed addresses, and the graph. Recordings share their memory: one runs at a time, and nothing in it outlives the run."""

    def __init__(self, step: Step, inputs: Sequence[Tensor], stream: torch.cuda.Stream | None, pool: Any) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        # What other threads of a server do meanwhile must not spoil it.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._loss = step(self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> Tensor:
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._loss.clone()


@torch.no_grad()
def _restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all gradients together, and the loss, are the same within the tolerance; waits for the device once."""
    error = torch.stack([(one.float() - other.float()).square().sum() for one, other in zip(found, expected, strict=True)])
    size = torch.stack([other.float().square().sum() for other in expected])
    (loss_error, gradient_error), (loss, gradient) = (torch.stack([each[0], each[1:].sum()]).sqrt().tolist() for each in (error, size))
    return loss_error <= _TOLERANCE * loss and gradient_error <= _TOLERANCE * gradient
