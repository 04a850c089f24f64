"""Records learning steps as CUDA graphs: one call starts all kernels of a step, without waiting for
Python."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ..devices import is_out_of_memory

logger = logging.getLogger(__name__)

# Eager steps before one is recorded: in them libraries choose their kernels, and the optimizer makes its
# state.
_EAGER_STEPS = 2
_MOST_RECORDINGS = 8
# Largest difference between a recording's gradients and the eager ones, relative to their norm. Half
# precision and atomic sums alone make about 0.01.
_TOLERANCE = 0.05

Step = Callable[[Sequence[Tensor]], Tensor]

# Whether a recording failed in this process.
_failed = False


class Replay:
    """Runs steps. On the CPU they run eagerly. On a GPU, a step is recorded for every repeated combination of
    shapes, and replayed.

    A step that waits for the device is not recorded. The first replay of a recording is compared with the
    eager step. If they differ, or if recording fails, all further steps run eagerly: a recording cannot
    follow every patch of a model.

    Args:
        step: from inputs on the device to a scalar on it. Changes only the tensors of ``changed``.
        changed: returns the tensors that outlive a step, always the same ones.
        gradients: returns the gradients of the last step.
    """

    def __init__(
        self, step: Step, changed: Callable[[], list[Tensor]], gradients: Callable[[], list[Tensor]]
    ) -> None:
        self._step = step
        self._changed = changed
        self._gradients = gradients
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self.recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self.enabled = can_record()

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Runs one step."""
        device = inputs[0].device
        if device.type != "cuda" or not self.enabled:
            return self._step(inputs)
        shapes = tuple(tensor.shape for tensor in inputs)
        recording = self.recordings.get(shapes)
        if recording is not None:
            return recording.replay(inputs)
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._seen[shapes] += 1
        if self._seen[shapes] <= _EAGER_STEPS or len(self.recordings) >= _MOST_RECORDINGS:
            return self._aside(inputs)
        return self._record(shapes, inputs)

    def forget(self) -> bool:
        """Drops the recordings and their memory. Returns whether there were any."""
        had_recordings = bool(self.recordings)
        self.recordings.clear()
        self._seen.clear()
        return had_recordings

    def _aside(self, inputs: Sequence[Tensor]) -> Tensor:
        """Runs an eager step on the recordings' stream, which autograd's nodes remember."""
        current = torch.cuda.current_stream(inputs[0].device)
        assert self._stream is not None
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return self._step(inputs)
        finally:
            current.wait_stream(self._stream)

    def _record(self, shapes: tuple[torch.Size, ...], inputs: Sequence[Tensor]) -> Tensor:
        before = _copies(self._changed())
        try:
            with _refusing_to_wait():
                loss = self._aside(inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._give_up(error)
            _restore(self._changed(), before)
            return self._aside(inputs)
        expected = _copies(self._gradients())
        after = _copies(self._changed())
        _restore(self._changed(), before)
        outer = torch.cuda.current_stream(inputs[0].device)
        try:
            recording = _Recording(self._step, inputs, self._stream, self._pool)
            found = recording.replay(inputs)
            if not _alike([found, *self._gradients()], [loss, *expected]):
                raise RuntimeError("its first step differs")
        except RuntimeError as error:
            global _failed
            _failed = True
            self._give_up(error)
            _end_capture(outer, self._pool)
            _restore(self._changed(), after)
            return loss
        self.recordings[shapes] = recording
        return found

    def _give_up(self, error: RuntimeError) -> None:
        self.enabled = False
        self.forget()
        logger.warning(
            "InstructBrush: this model's steps cannot be recorded (%s); learning continues more slowly.",
            error,
        )


class _Recording:
    """One recorded step: inputs at fixed addresses, and the graph. Recordings share memory, because only one
    runs at a time and nothing in it is needed afterwards."""

    def __init__(
        self, step: Step, inputs: Sequence[Tensor], stream: torch.cuda.Stream | None, pool: Any
    ) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of a server may use the device meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._loss = step(self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> Tensor:
        for recorded, tensor in zip(self._inputs, inputs, strict=True):
            recorded.copy_(tensor)
        self._graph.replay()
        return self._loss.clone()


def can_record() -> bool:
    """Whether steps may be recorded. Not with ``cudaMallocAsync``, where a failed capture ends the process,
    and not after a failed recording, which leaves a state that cannot be restored completely."""
    return not _failed and torch.cuda.is_available() and torch.cuda.get_allocator_backend() == "native"


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Makes operations raise that wait for the device, because they would break a capture."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _end_capture(outer: torch.cuda.Stream, pool: Any) -> None:
    """Restores what a broken capture leaves behind: current stream, allocator and random number generator."""
    torch.cuda.set_stream(outer)
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(outer.device_index, pool)
    generator = torch.cuda.default_generators[outer.device_index]
    with suppress(RuntimeError):
        generator.graphsafe_set_state(generator.clone_state())


@torch.no_grad()
def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    # Detached, because a copy with a gradient would keep autograd's node of its source, and the stream of it.
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether the loss, and all gradients together, are equal within the tolerance. Waits for the device
    once.

    Args:
        found, expected: the loss and then the gradients.
    """
    error = torch.stack(
        [(one.float() - other.float()).square().sum() for one, other in zip(found, expected, strict=True)]
    )
    size = torch.stack([other.float().square().sum() for other in expected])
    loss_error, gradient_error = torch.stack([error[0], error[1:].sum()]).sqrt().tolist()
    loss, gradient = torch.stack([size[0], size[1:].sum()]).sqrt().tolist()
    return loss_error <= _TOLERANCE * loss and gradient_error <= _TOLERANCE * gradient
