"""The training loop, for one process or many.

AdamW with gradient accumulation and clipping, a moving average of the weights, and exact resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import LearningError
from ..learning.checkpoint import check_tensors, load_optimizer_state, optimizer_state
from .settings import FineTuningSettings
from .stream import PairStream

if TYPE_CHECKING:
    from accelerate import Accelerator


class FineTuning:
    """A run, which can stop after any step, be saved, and resume exactly (see core/learning/checkpoint.py).

    Args:
        accelerator: see ``make_accelerator``.
        objective: on the accelerator's device; returns the error of each sample [B]. Parameters with
            ``requires_grad`` are trained.
        inputs: makes the objective's arguments from samples of the stream.
        stream: the samples.
        settings: hyperparameters.
        model: identity of the model and of how samples are shown to it, for ``identity``.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: nn.Module,
        inputs: Callable[[Sequence[Any]], dict[str, Tensor]],
        stream: PairStream[Any],
        settings: FineTuningSettings,
        model: Mapping[str, Any],
    ) -> None:
        from diffusers.training_utils import EMAModel

        self.accelerator = accelerator
        self.settings = settings
        self.stream = stream
        self.inputs = inputs
        self._model = model
        self.parameters = {
            name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad
        }
        parameters = list(self.parameters.values())
        self._average: Any = EMAModel(parameters, decay=settings.average_decay, foreach=True)
        self._optimizer = torch.optim.AdamW(
            parameters,
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        prepare: Any = accelerator.prepare
        self.objective, self._prepared_optimizer = prepare(objective.train(), self._optimizer)
        self.steps_done = 0
        self._batches: Iterator[list[Any]] | None = None
        self._losses = torch.zeros(2, device=accelerator.device)
        """(sum of batch losses, number of batches) since ``mean_loss`` was last called."""

    @property
    def samples_of_step(self) -> int:
        """Samples in a step, over all processes."""
        return self.settings.batch * self.settings.accumulation * self.accelerator.num_processes

    def step(self) -> None:
        """Runs one optimizer step."""
        settings = self.settings
        accelerator = self.accelerator
        if self._batches is None:
            start = self.steps_done * self.samples_of_step
            self._batches = self.stream.batches(
                start, settings.batch, accelerator.process_index, accelerator.num_processes, settings.threads
            )
        for group in self._optimizer.param_groups:
            group["lr"] = settings.rate_at(self.steps_done)
        for _ in range(settings.accumulation):
            arguments = self.inputs(next(self._batches))
            with accelerator.accumulate(self.objective):
                loss = self.objective(**arguments).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(list(self.parameters.values()), settings.clip_norm)
                self._prepared_optimizer.step()
                self._prepared_optimizer.zero_grad()
            self._losses += torch.stack([loss.detach(), torch.ones_like(loss)])
        self._average.step(self.parameters.values())
        self.steps_done += 1

    def run(self, callback: Callable[[], None] | None = None) -> None:
        """Steps until ``settings.steps`` are done.

        Args:
            callback: called after every step. An exception that it raises ends the run between two steps.
        """
        try:
            while self.steps_done < self.settings.steps:
                self.step()
                if callback is not None:
                    callback()
        finally:
            self.close()

    def close(self) -> None:
        """Stops reading ahead. The run can still continue."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()  # type: ignore[attr-defined]

    @contextmanager
    def distributed(self, last: bool = True) -> Iterator[None]:
        """Context in which the processes train together. The run ends with it.

        At the end the processes wait for each other. A process that fails does not wait, because the others
        may never arrive.

        Args:
            last: no run follows, so the process group ends too.
        """
        wrapper = self.objective
        finished = False
        try:
            yield
            self.accelerator.wait_for_everyone()
            finished = True
        finally:
            # Whoever releases the group last waits for gloo's threads, which may wait for the GIL to free a
            # tensor. DDP's reducer waits while it holds the GIL: a deadlock. The Python object of the group
            # releases the GIL first. So the reducer is deleted before the group, and by name, because a
            # traceback may keep the wrapper alive.
            if isinstance(wrapper, DistributedDataParallel):
                for name in ("reducer", "logger", "process_group"):
                    vars(wrapper).pop(name, None)
            # NCCL waits for pending work, so a failed process leaves its group alone.
            if last if finished else self.accelerator.state.backend == "gloo":
                self.accelerator.end_training()
            elif finished:
                self.accelerator.free_memory()

    def mean_loss(self) -> float:
        """Returns the mean loss since the last call, over all processes. Every process must call it.

        Raises:
            LearningError: the loss is not finite.
        """
        total, count = self.accelerator.reduce(self._losses, "sum").tolist()  # type: ignore[union-attr]
        self._losses.zero_()
        if not total / count < float("inf"):
            raise LearningError(
                f"Fine-tuning: the loss was not finite before step {self.steps_done}. "
                f"Lower --rate ({self.settings.learning_rate}), or use --precision bf16."
            )
        return total / count

    def is_finite(self) -> bool:
        """Returns whether all weights are finite."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters.values())

    def use_average(self) -> None:
        """Replaces the model's weights by their average."""
        self._average.copy_to(list(self.parameters.values()))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the model has its averaged weights."""
        parameters = list(self.parameters.values())
        self._average.store(parameters)
        self._average.copy_to(parameters)
        try:
            yield
        finally:
            self._average.restore(parameters)

    def identity(self) -> dict[str, Any]:
        """Returns what a checkpoint must agree with: model, data, and all settings that affect the result."""
        data = {
            "data": self.stream.digest,
            "samples of a step": self.samples_of_step,
            "fp16": self.accelerator.scaler is not None,
        }
        return {**self._model, **data, **self.settings.identity()}

    def state(self) -> dict[str, Tensor]:
        """Returns all tensors that an exact resume needs.

        These are the weights, their average, the optimizer's state, the fp16 loss scale and the step.
        """
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
        """Restores ``state``. The run then continues exactly as the saved one would have.

        Raises:
            ValueError: the state belongs to another run or precision. The run is unchanged then.
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
        self.steps_done = steps
        self._average.optimization_step = steps
        scaler = self.accelerator.scaler
        if scaler:
            types = {name: type(value) for name, value in scaler.state_dict().items()}
            scaler.load_state_dict(
                {name: kind(state[f"scaler.{name}"].item()) for name, kind in types.items()}
            )
        self._losses.zero_()
