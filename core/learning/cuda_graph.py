"""A training step recorded as a CUDA graph: its thousands of kernels start with one call, and the device no longer waits for Python."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ..devices import is_out_of_memory

logger = logging.getLogger(__name__)

_EAGER_STEPS = 2
"""Steps that run as they are before one is recorded: libraries choose their kernels in them, and the optimizer makes its state."""
_MOST_RECORDINGS = 8
_TOLERANCE = 0.05
"""How far a recording's gradients may be from the eager ones, of their norm. Half precision and atomic sums alone make up to about a hundredth."""

Step = Callable[[Sequence[Tensor]], Tensor]

_failed = False
"""Whether a recording failed in this process."""


class Replay:
    """Runs a step eagerly on the CPU; on a GPU it records the step for every combination of shapes that comes again, and replays it.

    A step that waits for the device is not recorded, and the first replay of a recording is compared with the eager step. Where they differ, or where recording
    fails, all goes on eagerly: a model may be patched in ways that no recording follows.

    Args:
        step: from inputs on the device to a scalar on it; changes only what ``changed`` lists.
        changed: the tensors that outlive a step, always the same ones.
        gradients: the gradients that the last step left.
    """

    def __init__(
        self, step: Step, changed: Callable[[], list[Tensor]], gradients: Callable[[], list[Tensor]]
    ) -> None:
        self._step, self._changed, self._gradients = step, changed, gradients
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self.enabled = can_record()

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

    def forget(self) -> bool:
        """Drop the recordings, and the memory they hold: what they refer to is about to change or to go. Returns whether there were any."""
        held = bool(self._recordings)
        self._recordings.clear()
        self._seen.clear()
        return held

    def _aside(self, inputs: Sequence[Tensor]) -> Tensor:
        """An eager step on the stream that recordings are made on: autograd's nodes remember where they were made."""
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
        expected, after = _copies(self._gradients()), _copies(self._changed())
        _restore(self._changed(), before)
        outer = torch.cuda.current_stream(inputs[0].device)
        try:
            recording = _Recording(self._step, inputs, self._stream, self._pool)
            found = recording.replay(inputs)
            if not _alike([found, *self._gradients()], [loss, *expected]):
                raise RuntimeError("its first step is another one")
        except RuntimeError as error:
            global _failed
            _failed = True
            self._give_up(error)
            _end_capture(outer, self._pool)
            _restore(self._changed(), after)
            return loss
        self._recordings[shapes] = recording
        return found

    def _give_up(self, error: RuntimeError) -> None:
        self.enabled = False
        self.forget()
        logger.warning(
            "InstructBrush: this model's steps cannot be recorded (%s); learning goes on without, only slower.",
            error,
        )


class _Recording:
    """One recorded step: inputs at fixed addresses, and the graph. Recordings share their memory: one runs at a time, and nothing in it outlives the run."""

    def __init__(
        self, step: Step, inputs: Sequence[Tensor], stream: torch.cuda.Stream | None, pool: Any
    ) -> None:
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


def can_record() -> bool:
    """Whether steps may be recorded at all: with torch's own allocator alone, as a capture that fails under ``cudaMallocAsync`` ends the process; and only
    as long as none has failed, since not everything that it leaves behind can be put right."""
    return not _failed and torch.cuda.is_available() and torch.cuda.get_allocator_backend() == "native"


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Within it, what would wait for the device raises: captured, it would break the capture."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _end_capture(outer: torch.cuda.Stream, pool: Any) -> None:
    """Put right what a broken capture leaves: the current stream, the allocator, the generator of random numbers."""
    torch.cuda.set_stream(outer)
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(outer.device_index, pool)
    generator = torch.cuda.default_generators[outer.device_index]
    with suppress(RuntimeError):
        generator.graphsafe_set_state(generator.clone_state())


@torch.no_grad()
def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    # Without gradients: a copy that remembers its source would keep autograd's node of it, and with it the stream on which it was made.
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all gradients together, and the loss, are the same within the tolerance; waits for the device once."""
    error = torch.stack(
        [(one.float() - other.float()).square().sum() for one, other in zip(found, expected, strict=True)]
    )
    size = torch.stack([other.float().square().sum() for other in expected])
    (loss_error, gradient_error), (loss, gradient) = (
        torch.stack([each[0], each[1:].sum()]).sqrt().tolist() for each in (error, size)
    )
    return loss_error <= _TOLERANCE * loss and gradient_error <= _TOLERANCE * gradient
