"""The loop that tunes a model, in one process or many: accumulated, clipped AdamW steps, a moving average of the weights, and exact continuation."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..diffusion.schedule import SEEDS
from ..errors import LearningError
from ..learning.checkpoint import check_tensors, load_optimizer_state, optimizer_state
from .stream import EditStream, Sample

if TYPE_CHECKING:
    from accelerate import Accelerator

_ANY_TIME = ("steps", "batch", "accumulation", "threads")
"""Settings that may differ when a run goes on; the samples of a step, batch x accumulation x processes, may not."""
_PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, which may have hours of preparation left."""


@dataclass(frozen=True)
class FineTuningSettings:
    """How to tune. The defaults are InstructPix2Pix's, and a batch that makes UltraEdit's 256 on eight GPUs."""

    steps: int = 10_000
    batch: int = 32
    """Samples that one process handles at once."""
    accumulation: int = 1
    """Batches of a step."""
    learning_rate: float = 1e-4
    warmup: int = 0
    """Steps over which the rate rises to ``learning_rate``; then it stays."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    average_decay: float = 0.9999
    """Of the weights' moving average, which is what is kept in the end."""
    dropout: float = 0.05
    """Share of samples without text, of those without image and mask, and of those without all."""
    seed: int = 0
    threads: int = 4
    """That decode images, in each process."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "accumulation", "learning_rate", "clip_norm", "threads")
        for name in positive:
            if not getattr(self, name) > 0:
                raise LearningError(f"Fine-tuning: {name} is {getattr(self, name)}; it must be more than 0.")
        if self.seed >= SEEDS:
            raise LearningError(f"Fine-tuning: seed is {self.seed}; it must be less than 2^64.")
        for name in ("warmup", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise LearningError(f"Fine-tuning: {name} is {getattr(self, name)}; it must not be negative.")
        if not 0 <= self.average_decay < 1 or not 0 <= self.dropout <= 1 / 3:
            raise LearningError(
                f"Fine-tuning: average_decay is {self.average_decay} (0 or more, below 1) and dropout {self.dropout} (0 to 1/3: three shares of the samples)."
            )

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1))


def make_accelerator(precision: str | None, accumulation: int) -> Accelerator:
    """What accelerate knows of this run: device, processes, precision (None: as ``accelerate launch`` or ``accelerate config`` says).

    Raises:
        LearningError: accelerate is missing, or the device cannot compute in that precision.
    """
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise LearningError(
            "Fine-tuning: accelerate is not installed. Run: pip install accelerate"
        ) from error
    if torch.distributed.is_available():
        # The group of all processes is a default argument in there: imported while there is one, as DDP does, it keeps that group, and gloo's threads with it,
        # until the interpreter is gone, and nothing ends them before.
        importlib.import_module("torch.distributed.nn.functional")
    try:
        waiting = InitProcessGroupKwargs(timeout=_PATIENCE)
        accelerator = Accelerator(
            mixed_precision=precision, gradient_accumulation_steps=accumulation, kwargs_handlers=[waiting]
        )
    except ValueError as error:
        raise LearningError(
            f"Fine-tuning: this machine cannot train so: {error} Choose another --precision."
        ) from error
    if (
        accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu"
    ):  # accelerate would train in fp32 without a word
        raise LearningError("Fine-tuning: the CPU does not train in fp16. Choose --precision bf16 or no.")
    return accelerator


class FineTuning:
    """One run, which can be stopped between any two steps, saved, and continued exactly (:mod:`~..learning.checkpoint`).

    Args:
        accelerator: of :func:`make_accelerator`.
        objective: on the accelerator's device; gives the error of each sample [B]. Its parameters with ``requires_grad`` are trained.
        inputs: makes the objective's arguments from samples of the stream.
        stream: the samples.
        settings: how to tune.
        model: what tells it from others, and how it is shown the samples, for :meth:`identity`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: nn.Module,
        inputs: Callable[[Sequence[Any]], dict[str, Tensor]],
        stream: EditStream,
        settings: FineTuningSettings,
        model: Mapping[str, Any],
    ) -> None:
        from diffusers.training_utils import EMAModel

        self.accelerator, self.settings, self.stream = accelerator, settings, stream
        self._inputs, self._model = inputs, model
        self.parameters = {
            name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad
        }
        self._average: Any = EMAModel(
            list(self.parameters.values()), decay=settings.average_decay, foreach=True
        )
        self._optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        prepare: Any = accelerator.prepare
        self._objective, self._stepper = prepare(objective.train(), self._optimizer)
        self.steps_done = 0
        self._batches: Iterator[list[Sample]] | None = None
        self._losses = torch.zeros(2, device=accelerator.device)

    @property
    def samples_of_step(self) -> int:
        """Of all processes together."""
        return self.settings.batch * self.settings.accumulation * self.accelerator.num_processes

    def step(self) -> None:
        """One optimizer step."""
        settings, accelerator = self.settings, self.accelerator
        if self._batches is None:
            start = self.steps_done * self.samples_of_step
            self._batches = self.stream.batches(
                start, settings.batch, accelerator.process_index, accelerator.num_processes, settings.threads
            )
        for group in self._optimizer.param_groups:
            group["lr"] = settings.rate_at(self.steps_done)
        for _ in range(settings.accumulation):
            arguments = self._inputs(next(self._batches))
            with accelerator.accumulate(self._objective):
                loss = self._objective(**arguments).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(list(self.parameters.values()), settings.clip_norm)
                self._stepper.step()
                self._stepper.zero_grad()
            self._losses += torch.stack([loss.detach(), torch.ones_like(loss)])
        self._average.step(self.parameters.values())
        self.steps_done += 1

    def run(self, callback: Callable[[], None] | None = None) -> None:
        """Step until ``settings.steps`` are done, with the callback after every step; what it raises ends the run between two steps."""
        try:
            while self.steps_done < self.settings.steps:
                self.step()
                if callback is not None:
                    callback()
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading ahead. The run can still go on."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()  # type: ignore[attr-defined]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it the processes train together; then they part, and the run cannot go on. One that fails waits for nobody: the others may never come."""
        wrapper, finished = self._objective, False
        try:
            yield
            self.accelerator.wait_for_everyone()
            finished = True
        finally:
            # Whoever lets go of the group last waits for gloo's threads, and these may wait for the interpreter's lock, to free a tensor. DDP's reducer waits
            # with the lock held, for ever; the group's own object gives it up before. So the reducer goes first, and by name, as a traceback may keep the
            # wrapper. NCCL waits for all that is under way, so a process that failed leaves its group alone.
            if isinstance(wrapper, DistributedDataParallel):
                for name in ("reducer", "logger", "process_group"):
                    vars(wrapper).pop(name, None)
            if finished or self.accelerator.state.backend == "gloo":
                self.accelerator.end_training()

    def mean_loss(self) -> float:
        """Mean over all samples since it was last asked for; every process must ask.

        Raises:
            LearningError: it is not finite.
        """
        total, count = self.accelerator.reduce(self._losses, "sum").tolist()  # type: ignore[union-attr]
        self._losses.zero_()
        if not total / count < float("inf"):
            raise LearningError(
                f"Fine-tuning: the loss was not finite before step {self.steps_done}. Lower --rate ({self.settings.learning_rate}), or take --precision bf16."
            )
        return total / count

    def is_finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters.values())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model has its averaged weights."""
        parameters = list(self.parameters.values())
        self._average.store(parameters)
        self._average.copy_to(parameters)
        try:
            yield
        finally:
            self._average.restore(parameters)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: the model, the data and all settings that change what is learned."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in _ANY_TIME}
        data = {
            "data": self.stream.digest,
            "samples of a step": self.samples_of_step,
            "fp16": self.accelerator.scaler is not None,
        }
        return {**self._model, **data, **settings}

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue exactly: weights, their average, optimizer, the scale of fp16 losses, and how far the run is."""
        state = {f"parameter.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        state |= {
            f"average.{name}": tensor
            for name, tensor in zip(self.parameters, self._average.shadow_params, strict=True)
        }
        state |= optimizer_state(self._optimizer, self.parameters)
        scaler = self.accelerator.scaler
        state |= {
            f"scaler.{name}": torch.tensor(value, dtype=torch.float64)
            for name, value in (scaler.state_dict() if scaler else {}).items()
        }
        return state | {"steps_done": torch.tensor(self.steps_done)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state`; what follows is what would have followed.

        Raises:
            ValueError: it is no state of this run, or one of another precision. The run is as it was.
        """
        expected = {
            name: tensor for name, tensor in self.state().items() if not name.startswith("optimiser.")
        }
        check_tensors(state, expected, self.parameters)
        steps = int(state["steps_done"])
        if steps < 0:
            raise ValueError(f"it has {steps} steps")
        self.close()
        with torch.no_grad():
            for (name, parameter), average in zip(
                self.parameters.items(), self._average.shadow_params, strict=True
            ):
                parameter.copy_(state[f"parameter.{name}"])
                average.copy_(state[f"average.{name}"])
        load_optimizer_state(self._optimizer, self.parameters, state)
        self.steps_done = self._average.optimization_step = steps
        if self.accelerator.scaler:
            like = self.accelerator.scaler.state_dict()
            self.accelerator.scaler.load_state_dict(
                {name: type(value)(state[f"scaler.{name}"].item()) for name, value in like.items()}
            )
        self._losses.zero_()
