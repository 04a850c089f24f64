"""What a user sees while an instruction is learned: the node's progress bar, and messages with losses and
previews to the panel."""

import base64
import io
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, Literal
from uuid import uuid4

import comfy.model_management
import comfy.utils
import torch
from PIL import Image
from server import PromptServer

from . import active

EVENT = "instructbrush.learn"
_INTERVAL = 0.5
"""Seconds between messages while learning: reading losses waits for the device."""
_LEAST_INTERVAL = 0.1
_MOST_PREVIEWS = 60
_KEPT_PREVIEWS = 12
"""Previews in the node's result, which ComfyUI keeps in its history."""

_MOST_TIMES = 3
"""Images may have so many times as many pixels as those that the model was made for."""

Phase = Literal["reading", "encoding", "first", "learning", "guidance", "done", "used", "best", "stopped"]
"""Before the first step, while learning, and how the run ended: after the last step, early, with the best
state, or stopped."""

ENDED: tuple[Phase, ...] = ("done", "used", "best", "stopped")

Interrupted = comfy.model_management.InterruptProcessingException


class LearningProgress:
    """Progress of one learning run.

    Args:
        node: the node's execution id.
        total: steps in all.
        pairs: pairs to learn from.
        workflow: id of the workflow, because workflows share ids of nodes.
    """

    def __init__(self, node: str, total: int, pairs: int, workflow: str = "") -> None:
        self.node = node
        self.workflow = workflow
        self.run = uuid4().hex
        self.phase: Phase = "reading"
        self.request: active.Action | None = None
        self.remark = ""
        """Shown with every message."""
        self._warning = ""
        self.advice: dict[str, Any] = {}
        """What the user could do better, see ``size_advice`` and ``speed_advice``."""
        self.pair: list[str] = []
        """Data URLs of the previewed pair, before and after the edit."""
        self.held_out: list[tuple[int, float]] = []
        """(step, error) of the held-out pair."""
        self.watches = False
        """Whether there is a best state to go back to."""
        self._total = total
        self._pairs = pairs
        self._encoded = 0
        self._step = 0
        self._detail = ""
        self._state = ""
        self._losses: list[float] = []
        self._previews: list[tuple[int, str]] = []
        self._bar = comfy.utils.ProgressBar(total, node_id=node)
        self._began = time.monotonic()
        self._done_before = 0
        self._last = 0.0
        self._sent_losses = 0
        self._sent: dict[str, Any] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Lists the run as active. The panel says so if an error ends it."""
        with active.listed(self.node, self):
            try:
                self.enter("reading")
                yield
            except BaseException:
                if self.phase != "stopped":
                    self.enter("stopped")
                raise

    def actions(self) -> tuple[active.Action, ...]:
        """What the user can ask for now."""
        if self.phase == "learning":
            return active.ACTIONS if self.watches else ("use", "later")
        return ("use", "later") if self.phase == "guidance" else ()

    def take_request(self) -> active.Action | None:
        """What the user asked for, once."""
        request, self.request = self.request, None
        return request

    def begin(self, done: int) -> None:
        """Starts the clock of the steps; ``done`` were done before, in a resumed run."""
        self._done_before = done
        self._began = time.monotonic()

    def due(self, seconds: float = _INTERVAL) -> bool:
        """Whether it is time for another message."""
        return time.monotonic() >= self._last + seconds

    def warn(self, text: str) -> None:
        """Writes to the log, and shows the text with every further message."""
        logging.warning("InstructBrush: %s", text)
        self._warning = text

    def add_remark(self, text: str) -> None:
        """Shows the text with every further message, after what is shown already."""
        self.remark = " ".join(part for part in (self.remark, text) if part)

    def enter(self, phase: Phase, state: str = "", detail: str = "") -> None:
        """Shows a phase, with a remark, and how far it is, such as "2 of 4"."""
        self.phase = phase
        self._detail = detail
        self._state = state
        self._send()

    def count(self) -> None:
        """Counts an encoded pair. Pairs are encoded one after the other, then the held-out one."""
        self._encoded = min(self._encoded + 1, self._pairs)
        self.detail(f"{self._encoded} of {self._pairs}")

    def detail(self, text: str) -> None:
        """Shows how far the phase is."""
        self._detail = text
        if self.due(_LEAST_INTERVAL):
            self._send()

    def show(self, step: int, losses: list[float], preview: Image.Image | None = None) -> None:
        """Shows a step.

        Args:
            step: steps done.
            losses: of every step so far. Only the new ones are sent, up to the first that is not finite:
                browsers cannot read such a number.
            preview: the current edit, or None to keep the last one.
        """
        self._step = step
        self._losses = list(takewhile(math.isfinite, losses))
        # Without the preview, which ComfyUI would show a second time, under the node's widgets.
        self._bar.update_absolute(step, self._total)
        if preview is not None:
            self.add_preview(step, preview)
        if step >= self._total or self.due(_LEAST_INTERVAL):
            self._send()

    def add_preview(self, step: int, preview: Image.Image) -> None:
        """Adds the edit after a step, in place of an older one of this step."""
        url = data_url(preview)
        if self._previews and self._previews[-1][0] == step:
            self._previews.pop()
        self._previews = thinned([*self._previews, (step, url)], _MOST_PREVIEWS)

    def _send(self) -> None:
        self._last = time.monotonic()
        message = self._message()
        message["losses"] = self._losses[self._sent_losses :]
        message["first"] = self._sent_losses
        self._sent_losses = len(self._losses)
        once: dict[str, Any] = {"pair": self.pair, "held_out": list(self.held_out), "advice": self.advice}
        if self._previews:
            once["preview_step"], once["preview"] = self._previews[-1]
        message |= {name: value for name, value in once.items() if value and self._sent.get(name) != value}
        self._sent |= once
        PromptServer.instance.send_sync(EVENT, message, PromptServer.instance.client_id)
        active.publish(message)

    def _message(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "workflow": self.workflow,
            "run": self.run,
            "phase": self.phase,
            "detail": self._detail,
            "actions": self.actions(),
            "pairs": self._pairs,
            "step": self._step,
            "total": self._total,
            "loss": self._losses[-1] if self._losses else None,
            "seconds_left": self._seconds_left(),
            "state": self._state or " ".join(filter(None, (self.remark, self._warning))),
        }

    def summary(self, previews: int = _MOST_PREVIEWS) -> dict[str, Any]:
        """Everything that was shown, as one message for a panel that was not open, with at most so many
        previews."""
        return {
            **self._message(),
            "first": 0,
            "losses": [round(loss, 6) for loss in self._losses],
            "pair": self.pair,
            "held_out": list(self.held_out),
            "advice": self.advice,
            "previews": thinned(self._previews, previews),
        }

    def result(self) -> dict[str, Any]:
        """As ``summary``, for the node's result."""
        return self.summary(_KEPT_PREVIEWS)

    def _seconds_left(self) -> float | None:
        steps = self._step - self._done_before
        if self.phase != "learning" or steps <= 0:
            return None
        return round((time.monotonic() - self._began) / steps * (self._total - self._step), 1)


def thinned(previews: list[tuple[int, str]], most: int) -> list[tuple[int, str]]:
    """Leaves out every second preview, but never the last one, until there are few enough."""
    while len(previews) > most:
        last = previews[-1]
        previews = previews[:-1:2]
        previews.append(last)
    return previews


def speed_advice(device: torch.device) -> dict[str, Any]:
    """Advice about an option of ComfyUI that learning needs for CUDA graphs (core/learning/cuda_graph.py).

    Returns:
        ``text`` for the panel; empty if the option would change nothing.
    """
    if device.type != "cuda" or torch.cuda.get_allocator_backend() == "native":
        return {}
    return {"text": "Learning can be twice as fast: start ComfyUI with --disable-cuda-malloc."}


def size_advice(images: list[tuple[int, int]], side: int, title: str) -> dict[str, Any]:
    """Advice about images that are far larger than those that the model was made for.

    Args:
        images: (width, height) of the images.
        side: of the model's training images, which are square.
        title: the model's name.

    Returns:
        ``text`` and ``size`` for the panel; empty if the images are of a suitable size.
    """
    width, height = max(images, key=lambda size: size[0] * size[1])
    times = width * height / side**2
    if times <= _MOST_TIMES:
        return {}
    text = (
        f"These images are {width} x {height} pixels. The {title} was made for {side} x {side}: larger "
        f"images are slower ({times:.0f} times as many pixels) and turn out worse."
    )
    return {"text": text, "size": side}


def check_interrupted() -> None:
    """Raises ComfyUI's exception if the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def data_url(image: Image.Image) -> str:
    """Encodes an image as a JPEG in a data URL."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
