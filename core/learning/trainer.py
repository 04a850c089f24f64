"""Learning an instruction in timestep segments: keys and values of every cross-attention layer (InstructBrush, section 4), or text states (Visii)."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor

from ..devices import free_memory, is_out_of_memory
from ..editing.denoiser import Denoiser
from ..errors import LearningError, WorthlessError
from ..instruction.injection import Injection
from ..instruction.instruction import Instruction, InstructionInfo
from .checkpoint import check_tensors, load_optimizer_state, optimizer_state
from .cuda_graph import Replay
from .memory import MemoryPlan, largest_side, plan_memory
from .objective import Direction, PairLatents, Samples, collect, noise_errors
from .segment_streams import SegmentStream
from .settings import LearningSettings
from .spaces import AttentionSpace, Space, TextSpace

logger = logging.getLogger(__name__)

_EMPTY_PHRASE_TOKENS = 10
_CURVE_POINTS = 100
_FLUSH_EVERY = 64
_HEADER_BYTES = 200_000
"""Of an instruction file: a thumbnail, a curve and a workflow, with room to spare."""


class Trainer:
    """One learning run. It can be stopped between any two steps, saved, and continued exactly (see ``checkpoint``).

    Args:
        denoiser: the frozen model, in any engine.
        latents: the pairs, encoded once, on the denoiser's device.
        context: text states of the init phrase, the whole window, [L, D].
        null_context: text states of "", [L, D].
        settings: how to learn.
        init_text: the phrase, for the record.
        phrase_tokens: number of its tokens without start and end; m when ``settings.tokens`` is None.
        direction: how the images differ in CLIP space, for settings with a ``direction_weight``.
        only_segments: train these alone (separate segments only); the rest stay at their beginning.

    Raises:
        LearningError: m rows do not fit the context, ``only_segments`` with shared segments, or a direction that is missing or of another width.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        latents: PairLatents,
        context: Tensor,
        null_context: Tensor,
        settings: LearningSettings,
        init_text: str = "",
        phrase_tokens: int = 0,
        direction: Direction | None = None,
        only_segments: tuple[int, ...] | None = None,
    ) -> None:
        self.denoiser, self.latents, self.settings, self.init_text = denoiser, latents, settings, init_text
        self.context = context.to(denoiser.device, torch.float32)
        self.null_context = null_context.to(denoiser.device, torch.float32)
        self.tokens = settings.tokens or phrase_tokens or _EMPTY_PHRASE_TOKENS
        self.start = 0 if settings.include_bos else 1
        if self.start + self.tokens > context.shape[0]:
            raise LearningError(
                f"Learning: {self.tokens} tokens from row {self.start} do not fit the text encoder's {context.shape[0]} rows. "
                f"Use at most {context.shape[0] - self.start} tokens."
            )
        if only_segments is not None and settings.parametrisation == "shared":
            raise LearningError(
                "Learning: shared segments are trained together. Set segments to 'separate' to train some alone."
            )
        if settings.direction_weight and (
            direction is None or direction.projection.shape[0] != context.shape[1]
        ):
            given = (
                "none was given"
                if direction is None
                else f"the one given projects states {direction.projection.shape[0]} wide"
            )
            raise LearningError(
                f"Learning: the direction loss needs a CLIP model whose text states are {context.shape[1]} wide; {given}. "
                "Connect the one that the model's text encoder belongs to, or set the direction weight to 0."
            )
        self._direction = (
            direction.to(denoiser.device) if direction is not None and settings.direction_weight else None
        )
        self._trained = only_segments or tuple(range(settings.segments))
        self._segments = torch.tensor(self._trained, device=denoiser.device)
        self._streams = {segment: SegmentStream(segment, settings) for segment in self._trained}
        self.space: Space = (
            TextSpace(self.context, self.start, self.tokens, settings)
            if settings.space == "text"
            else AttentionSpace(denoiser, self.context, self.start, self.tokens, settings)
        )
        self.parameters = self.space.parameters
        on_gpu = denoiser.device.type == "cuda"
        # On a GPU the rate is a tensor, so that a recorded step can be given another one.
        self._rate: float | Tensor = (
            torch.tensor(settings.learning_rate, device=denoiser.device) if on_gpu else settings.learning_rate
        )
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=self._rate,
            weight_decay=0.0,
            fused=on_gpu or None,
            capturable=on_gpu,
        )
        self.plan: MemoryPlan | None = None
        # Half precision has no numbers for the gradients of a mean over many pixels. A power of two, which changes no digit; and far from what would overflow.
        self._loss_scale = (
            2.0 ** round(math.log2(max(self._pixels / 4, 1))) if denoiser.dtype == torch.float16 else 1.0
        )
        self._update = Replay(
            self._step,
            self._changed,
            lambda: [tensor.grad for tensor in self.parameters.values() if tensor.grad is not None],
        )
        self.steps_done = 0
        self._losses: list[float] = []
        self._pending: list[Tensor] = []

    def injection(self) -> Injection:
        """What was learned so far as an injection at full strength, differentiable in :attr:`parameters`."""
        return Injection(
            (self.space.part(),), torch.ones(self.settings.segments, device=self.denoiser.device)
        )

    def step(self) -> None:
        """One optimizer step, all segments together. Nothing here waits for the device.

        Raises:
            LearningError: a single sample with recomputed activations does not fit into the device's memory.
        """
        rate = self.settings.rate_at(self.steps_done)
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        with self._all_or_nothing():
            drawn = [
                self._streams[segment].draw(self.latents)
                for segment in self._trained
                for _ in range(self.settings.batch)
            ]
            inputs = [
                tensor for samples in collect(self.latents, drawn, self.denoiser.device) for tensor in samples
            ]
            loss = self._fitting(inputs)
        self.steps_done += 1
        self._pending.append(loss)
        if len(self._pending) >= _FLUSH_EVERY:
            self._flush()

    def _fitting(self, inputs: Sequence[Tensor]) -> Tensor:
        """The step on its inputs, by a plan that fits into memory."""
        if self.plan is None:
            self._follow(self._first_plan())
        while True:
            try:
                return self._update(inputs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # Recordings of other sizes hold memory, too: without them the same plan may fit.
                smaller = (
                    self.plan
                    if self._update.forget()
                    else self.plan.smaller()
                    if self.plan is not None
                    else None
                )
                if smaller is None:
                    raise LearningError(self._too_large()) from error
            # Here the failed step's tensors are gone.
            self._follow(smaller)
            torch.cuda.empty_cache()
            logger.info("InstructBrush: memory ran out; learning goes on with %s", smaller)

    def _first_plan(self) -> MemoryPlan:
        rows = len(self._trained) * self.settings.batch
        free = free_memory(self.denoiser.device)
        return plan_memory(
            self._family, self._pixels, rows, self.denoiser.dtype.itemsize, free, self.denoiser.checkpointing
        )

    def _follow(self, plan: MemoryPlan) -> None:
        self.plan, self.denoiser.checkpointing = plan, plan.checkpointing
        self._update.forget()

    def _too_large(self) -> str:
        free = free_memory(self.denoiser.device) or 0
        fits = largest_side(self._family, self.denoiser.dtype.itemsize, free)
        return f"Learning: these images are too large for the device's memory ({free / 2**30:.1f} GiB free). Use images of at most {fits} x {fits} pixels."

    @property
    def _family(self) -> str:
        return self.denoiser.description.family.name

    @property
    def _pixels(self) -> int:
        return max(math.prod(latent.shape[-2:]) for latent in self.latents.after)

    def _step(self, inputs: Sequence[Tensor]) -> Tensor:
        """One step on samples; returns the mean loss of the segments."""
        assert self.plan is not None
        self.optimizer.zero_grad(set_to_none=True)
        # A mean over each segment's samples: a segment's gradient is then what it would be if the segment were trained alone.
        weight = self._loss_scale * self.settings.noise_weight / self.settings.batch
        total = torch.zeros((), device=self.denoiser.device)
        for first in range(0, len(inputs), len(Samples._fields)):
            for samples in Samples(*inputs[first : first + len(Samples._fields)]).chunks(self.plan.rows):
                errors = noise_errors(
                    self.denoiser, samples, self.context, self.null_context, self.injection(), self.settings
                )
                total += _backward(weight * errors.sum())
        if self._direction is not None:
            states = self.injection().parts[0].states(self._segments).float()
            weight = self._loss_scale * self.settings.direction_weight
            total += _backward(weight * self._direction.loss(states, self.settings.clamp_direction).sum())
        if self._loss_scale != 1:
            for tensor in self.parameters.values():
                if tensor.grad is not None:
                    tensor.grad.mul_(1 / self._loss_scale)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.clip_norm)
        self.optimizer.step()
        return total / (len(self._trained) * self._loss_scale)

    def _changed(self) -> list[Tensor]:
        state = [
            value
            for tensor in self.parameters.values()
            for value in self.optimizer.state[tensor].values()
            if isinstance(value, Tensor)
        ]
        return [*self.parameters.values(), *state]

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """A step that is interrupted in its midst was not begun: what it drew is drawn again."""
        marks = {segment: stream.mark() for segment, stream in self._streams.items()}
        try:
            yield
        except BaseException:
            for segment, stream in self._streams.items():
                stream.rewind(marks[segment])
            raise

    def run(self, callback: Callable[[int, int], None] | None = None) -> None:
        """Step until ``settings.steps`` are done.

        Args:
            callback: called after every step with (steps done, steps in all); an exception in it stops learning between two steps, and the
                trainer stays valid: it can be saved, continued or made into an instruction.
        """
        try:
            with torch.enable_grad():
                while self.steps_done < self.settings.steps:
                    self.step()
                    if callback is not None:
                        callback(self.steps_done, self.settings.steps)
        finally:
            self._update.forget()

    def check_finite(self) -> None:
        """See that what was learned is worth keeping. Reading the loss waits for the device.

        Raises:
            WorthlessError: the last loss is not finite; says at which step it went wrong.
        """
        if self.losses and not math.isfinite(self.losses[-1]):
            self.instruction()

    @property
    def losses(self) -> list[float]:
        """Mean loss of every step so far. Reading it waits for the device."""
        self._flush()
        return self._losses

    def _flush(self) -> None:
        if self._pending:
            self._losses.extend(torch.stack(self._pending).tolist())
            self._pending.clear()

    def instruction(self, title: str = "") -> Instruction:
        """What was learned so far.

        Raises:
            WorthlessError: no step was done, the loss or a tensor is not finite, or nothing moved.
        """
        losses = self.losses
        if not losses:
            raise WorthlessError(
                "Learning: no step was done, there is nothing to keep. Let it run for at least one step."
            )
        learned, began = self.space.learned(), self.space.beginning()
        if not all(torch.isfinite(tensor).all() for tensor in (*learned.values(), torch.tensor(losses))):
            first = next(
                (step for step, loss in enumerate(losses) if not loss < float("inf")), len(losses) - 1
            )
            raise WorthlessError(
                f"Learning: the loss was not finite at step {first + 1}. Nothing is kept: lower the learning rate ({self.settings.learning_rate})."
            )
        if all(
            torch.equal(now[segment], began[name])
            for name, now in learned.items()
            for segment in self._trained
        ):
            raise WorthlessError(
                f"Learning: nothing changed in {self.steps_done} steps. Raise the learning rate ({self.settings.learning_rate}) or the steps."
            )
        last = losses[-max(len(losses) // 10, 1) :]
        info = InstructionInfo(
            family=self.denoiser.description.family.name,
            fingerprint=self.denoiser.description.fingerprint,
            segments=self.settings.segments,
            tokens=self.tokens,
            space=self.settings.space,
            init_text=self.init_text,
            title=title,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            model_title=self.denoiser.description.title,
            pairs=len(self.latents.after),
            steps=self.steps_done,
            final_loss=sum(last) / len(last),
            losses=tuple(curve(losses)),
            settings=asdict(self.settings),
        )
        keys, values = (
            {name.partition(".")[2]: tensor for name, tensor in learned.items() if name.startswith(kind)}
            for kind in ("keys.", "values.")
        )
        return Instruction(
            keys, values, self.context.detach().cpu().clone(), self.start, info, learned.get("rows")
        )

    def file_size(self) -> int:
        """About how many bytes the file of the instruction will have."""
        rows = self.settings.segments * sum(tensor.numel() for tensor in self.space.beginning().values())
        return 4 * (rows + self.context.numel()) + _HEADER_BYTES

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: the model, the pairs, the words and the settings that decide what a step learns."""
        pairs = hashlib.sha256(self.latents.digest.encode())
        if not self.latents.digest:
            for latent in (*self.latents.before, *self.latents.after):
                pairs.update(latent.detach().float().cpu().numpy().tobytes())
        known = {
            "model": self.denoiser.description.fingerprint,
            "pairs": pairs.hexdigest(),
            "words": self.init_text,
            "trained segments": list(self._trained),
        }
        if self._direction is not None:
            known["CLIP"] = hashlib.sha256(self._direction.target.cpu().numpy().tobytes()).hexdigest()
        return known | self.settings.decisive()

    def digest(self) -> str:
        """Hex digits that tell this run from others."""
        return hashlib.sha256(repr(sorted(self.identity().items())).encode()).hexdigest()

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue exactly: parameters, optimizer, generators, positions and losses."""
        state = {f"parameter.{name}": tensor.detach() for name, tensor in self.parameters.items()}
        state |= optimizer_state(self.optimizer, self.parameters)
        state |= {
            f"stream.{segment}.{part}": tensor
            for segment, stream in self._streams.items()
            for part, tensor in stream.state().items()
        }
        state["steps_done"] = torch.tensor(self.steps_done)
        state["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state`; what follows is what would have followed.

        Raises:
            ValueError: it is no state of this run. The run is as it was.
        """
        streams = {segment: _below(state, f"stream.{segment}.") for segment in self._streams}
        self._check(state, streams)
        for segment, stream in self._streams.items():
            stream.load_state(streams[segment])
        with torch.no_grad():
            for name, tensor in self.parameters.items():
                tensor.copy_(state[f"parameter.{name}"])
        load_optimizer_state(self.optimizer, self.parameters, state)
        self._update.forget()
        self.steps_done = int(state["steps_done"])
        self._losses, self._pending = state["losses"].tolist(), []

    def _check(self, state: Mapping[str, Tensor], streams: Mapping[int, Mapping[str, Tensor]]) -> None:
        for segment, stream in self._streams.items():
            try:
                stream.check_state(streams[segment])
            except ValueError as error:
                raise ValueError(f"segment {segment}: {error}") from error
        expected = {f"parameter.{name}": tensor for name, tensor in self.parameters.items()}
        expected |= {
            f"stream.{segment}.{part}": tensor
            for segment, parts in streams.items()
            for part, tensor in parts.items()
        }
        # A loss for every step.
        expected |= {
            "steps_done": torch.tensor(0),
            "losses": torch.empty(state["losses"].numel() if "losses" in state else 0, dtype=torch.float64),
        }
        check_tensors(state, expected, self.parameters)
        if int(state["steps_done"]) != len(state["losses"]):
            raise ValueError(f"it has {int(state['steps_done'])} steps and {len(state['losses'])} losses")


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()


def curve(losses: list[float], points: int = _CURVE_POINTS) -> list[float]:
    """A loss curve of at most ``points`` means, for a header or a drawing."""
    width = max(-(-len(losses) // points), 1)
    return [sum(losses[i : i + width]) / len(losses[i : i + width]) for i in range(0, len(losses), width)]
