"""Optimizes an instruction in timestep segments (InstructBrush, section 4; Visii in text space)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor

from ..errors import WorthlessError
from ..instruction.injection import Injection
from ..instruction.instruction import Instruction, InstructionInfo
from . import run_state
from .cuda_graph import Replay
from .memory import StepMemory
from .objective import Samples, collect, noise_errors
from .request import LearningRequest
from .segment_streams import SegmentStream
from .spaces import make_space

_CURVE_POINTS = 100
# Steps between two reads of the losses, each of which waits for the device.
_FLUSH_EVERY = 64
# Room in an instruction file for a thumbnail, a loss curve and a workflow.
_HEADER_BYTES = 200_000


class Trainer:
    """The steps of one learning run. It can be stopped between any two steps, saved, and continued exactly
    (see ``checkpoint``).

    Args:
        request: what to learn from, and how.
    """

    def __init__(self, request: LearningRequest) -> None:
        self.request = request
        self.settings = request.settings
        self.denoiser = request.denoiser
        self.latents = request.latents
        device = self.denoiser.device
        self.context = request.init_text.states.to(device, torch.float32)
        self.null_context = request.null_context.to(device, torch.float32)
        self.space = make_space(self.denoiser, self.context, request.first_row, request.rows, self.settings)
        self.parameters = self.space.parameters
        self._direction = None
        if request.direction is not None and self.settings.direction_weight:
            self._direction = request.direction.to(device)
        self._trained = request.trained_segments
        self._segments = torch.tensor(self._trained, device=device)
        self._streams = {segment: SegmentStream(segment, self.settings) for segment in self._trained}
        self.optimizer = self._make_optimizer()
        pixels = max(math.prod(latent.shape[-2:]) for latent in self.latents.after)
        self.loss_scale = 1.0
        if self.denoiser.dtype == torch.float16:
            # Gradients of a mean over many pixels underflow in half precision. A power of two changes no
            # digit, and this one is far below overflow.
            self.loss_scale = 2.0 ** round(math.log2(max(pixels / 4, 1)))
        self.replay = Replay(self._step, self._changed, self._gradients)
        samples = len(self._trained) * self.settings.batch
        self._memory = StepMemory(self.denoiser, pixels, samples, self.replay)
        self.steps_done = 0
        self.ending = ""
        """How the run ended, if before its last step; stored with the settings."""
        self._losses: list[float] = []
        self._pending: list[Tensor] = []

    def _make_optimizer(self) -> torch.optim.Optimizer:
        on_gpu = self.denoiser.device.type == "cuda"
        by_factor: dict[float, list[Tensor]] = {}
        for name, tensor in self.parameters.items():
            by_factor.setdefault(self.space.rate_factors.get(name, 1.0), []).append(tensor)
        groups = []
        for factor, tensors in by_factor.items():
            rate = self.settings.learning_rate * factor
            # A tensor on a GPU, so that a recorded step follows its changes.
            lr = torch.tensor(rate, device=self.denoiser.device) if on_gpu else rate
            groups.append({"params": tensors, "lr": lr, "rate_factor": factor})
        return torch.optim.AdamW(
            groups,
            weight_decay=self.settings.weight_decay,
            fused=on_gpu or None,
            capturable=on_gpu,
        )

    def run(self, after_step: Callable[[int, int], None] | None = None) -> None:
        """Steps until ``settings.steps`` are done.

        Args:
            after_step: called after every step with (steps done, steps in all). An exception in it stops
                learning between two steps, and the trainer stays valid: it can be saved, continued or made
                into an instruction.
        """
        try:
            with torch.enable_grad():
                while self.steps_done < self.settings.steps:
                    self.step()
                    if after_step is not None:
                        after_step(self.steps_done, self.settings.steps)
        finally:
            self.replay.forget()

    def step(self) -> None:
        """One optimizer step, all segments together, without waiting for the device.

        Raises:
            LearningError: a single sample with recomputed activations does not fit into the device's memory.
        """
        for group in self.optimizer.param_groups:
            rate = self.settings.rate_at(self.steps_done) * group["rate_factor"]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        with self._all_or_nothing():
            drawn = [
                self._streams[segment].draw(self.latents)
                for segment in self._trained
                for _ in range(self.settings.batch)
            ]
            batches = collect(self.latents, drawn, self.denoiser.device)
            loss = self._memory.run([tensor for samples in batches for tensor in samples])
        self.steps_done += 1
        self._pending.append(loss)
        if len(self._pending) >= _FLUSH_EVERY:
            self._flush()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """A step that is interrupted counts as not started: its samples are drawn again."""
        marks = {segment: stream.mark() for segment, stream in self._streams.items()}
        try:
            yield
        except BaseException:
            for segment, stream in self._streams.items():
                stream.rewind(marks[segment])
            raise

    def _step(self, inputs: Sequence[Tensor]) -> Tensor:
        """One step on the fields of ``Samples``, one batch after another; returns the segments' mean loss."""
        assert self._memory.plan is not None
        self.optimizer.zero_grad(set_to_none=True)
        # A mean over each segment's samples: a segment has the gradient it would have if trained alone.
        weight = self.loss_scale * self.settings.noise_weight / self.settings.batch
        total = torch.zeros((), device=self.denoiser.device)
        fields = len(Samples._fields)
        for first in range(0, len(inputs), fields):
            for samples in Samples(*inputs[first : first + fields]).chunks(self._memory.plan.rows):
                errors = noise_errors(
                    self.denoiser, samples, self.context, self.null_context, self.injection(), self.settings
                )
                total += _backward(weight * errors.sum())
        if self._direction is not None:
            states = self.injection().parts[0].states(self._segments).float()
            weight = self.loss_scale * self.settings.direction_weight
            total += _backward(weight * self._direction.loss(states, self.settings.clamp_direction).sum())
        if self.loss_scale != 1:
            for gradient in self._gradients():
                gradient.mul_(1 / self.loss_scale)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.clip_norm)
        self.optimizer.step()
        return total / (len(self._trained) * self.loss_scale)

    def injection(self) -> Injection:
        """The current values as an injection at full strength, differentiable in ``parameters``."""
        strengths = torch.ones(self.settings.segments, device=self.denoiser.device)
        return Injection((self.space.part(),), strengths)

    def _changed(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        state = [
            value
            for tensor in self.parameters.values()
            for value in self.optimizer.state[tensor].values()
            if isinstance(value, Tensor)
        ]
        return [*self.parameters.values(), *state]

    def _gradients(self) -> list[Tensor]:
        return [tensor.grad for tensor in self.parameters.values() if tensor.grad is not None]

    @property
    def losses(self) -> list[float]:
        """Mean loss of every step so far. Reading it waits for the device."""
        self._flush()
        return self._losses

    def _flush(self) -> None:
        if self._pending:
            self._losses.extend(torch.stack(self._pending).tolist())
            self._pending.clear()

    def check_finite(self) -> None:
        """Checks the last loss. Reading it waits for the device.

        Raises:
            WorthlessError: the loss is not finite; names the step where it went wrong.
        """
        if self.losses and not math.isfinite(self.losses[-1]):
            self.instruction()

    def instruction(self, title: str = "") -> Instruction:
        """What is learned so far.

        Raises:
            WorthlessError: no step is done, the loss or a tensor is not finite, or nothing changed.
        """
        learned = self.space.learned()
        self._check_worth(learned)
        tensors: dict[str, dict[str, Tensor]] = {"keys": {}, "values": {}, "adapter": {}}
        for name, tensor in learned.items():
            kind, _, rest = name.partition(".")
            if kind in tensors:
                tensors[kind][rest] = tensor
        return Instruction(
            tensors["keys"],
            tensors["values"],
            self.context.detach().cpu().clone(),
            self.request.first_row,
            self._info(title),
            learned.get("rows"),
            tensors["adapter"],
        )

    def _check_worth(self, learned: Mapping[str, Tensor]) -> None:
        losses = self.losses
        if not losses:
            raise WorthlessError(
                "Learning: no step is done, so there is no result to keep. Let it run for at least one step."
            )
        if not all(torch.isfinite(tensor).all() for tensor in (*learned.values(), torch.tensor(losses))):
            first = next(
                (step for step, loss in enumerate(losses) if not loss < float("inf")), len(losses) - 1
            )
            raise WorthlessError(
                f"Learning: the loss was not finite at step {first + 1}. Nothing is kept: lower the "
                f"learning rate ({self.settings.acting_rates})."
            )
        initial = self.space.initial()
        if all(
            torch.equal(tensor[segment], initial[name])
            for name, tensor in learned.items()
            for segment in self._trained
        ):
            raise WorthlessError(
                f"Learning: nothing changed in {self.steps_done} steps. Raise the learning rate "
                f"({self.settings.acting_rates}) or the steps."
            )

    def _info(self, title: str) -> InstructionInfo:
        description = self.denoiser.description
        losses = self.losses
        last = losses[-max(len(losses) // 10, 1) :]
        return InstructionInfo(
            family=description.family.name,
            fingerprint=description.fingerprint,
            segments=self.settings.segments,
            tokens=self.request.rows,
            space=self.settings.space,
            init_text=self.request.init_text.text,
            title=title,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            model_title=description.title,
            pairs=len(self.latents.after),
            steps=self.steps_done,
            final_loss=sum(last) / len(last),
            losses=tuple(loss_curve(losses)),
            settings={
                **self.settings.acting(),
                "losses": self.request.losses,
                **({"ending": self.ending} if self.ending else {}),
            },
        )

    def file_size(self, half: bool = True) -> int:
        """Approximate size of the instruction file, in bytes. half: whether it is saved in fp16."""
        numbers = self.settings.segments * sum(tensor.numel() for tensor in self.space.initial().values())
        return (2 if half else 4) * (numbers + self.context.numel()) + _HEADER_BYTES

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return self.request.identity()

    def state(self) -> dict[str, Tensor]:
        """Everything that is needed to continue exactly."""
        return run_state.pack(self.parameters, self.optimizer, self._streams, self.losses)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues from ``state``: the next steps are those that would have followed.

        Raises:
            ValueError: the state does not fit this run. Nothing is changed then.
        """
        self._losses = run_state.restore(state, self.parameters, self.optimizer, self._streams)
        self._pending = []
        self.steps_done = len(self._losses)
        self.replay.forget()

    def go_back(self, parameters: Mapping[str, Tensor], steps: int) -> None:
        """Takes the values of an earlier step, for ``instruction``. Optimizer and sample streams stay, so
        the run must neither be continued nor saved then."""
        with torch.no_grad():
            for name, tensor in self.parameters.items():
                tensor.copy_(parameters[name])
        del self.losses[steps:]
        self.steps_done = steps
        self.replay.forget()


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()


def loss_curve(losses: list[float], points: int = _CURVE_POINTS) -> list[float]:
    """Reduces losses to at most ``points`` means, for a file header or a plot."""
    width = max(-(-len(losses) // points), 1)
    parts = [losses[first : first + width] for first in range(0, len(losses), width)]
    return [sum(part) / len(part) for part in parts]
