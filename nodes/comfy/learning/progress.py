"""What a user sees while an instruction is learned: the node's progress bar, and messages with losses and
previews to the panel."""

import base64
import io
import logging
import time
from typing import Any

import comfy.model_management
import comfy.utils
from PIL import Image
from server import PromptServer

EVENT = "instructbrush.learn"
_INTERVAL = 0.5
"""Seconds between messages: reading losses waits for the device."""

Interrupted = comfy.model_management.InterruptProcessingException


class LearningProgress:
    """Progress of one learning run.

    Args:
        node: the node's id.
        total: steps in all.
        done: steps done before, in a resumed run.
        remark: shown with every message.
    """

    def __init__(self, node: str, total: int, done: int = 0, remark: str = "") -> None:
        self.node = node
        self.total = total
        self.remark = remark
        self._bar = comfy.utils.ProgressBar(total, node_id=node)
        self._began = time.monotonic()
        self._done_before = done
        self._next = 0.0
        self._sent = 0
        self._preview = ""

    def due(self) -> bool:
        """Whether it is time for another message."""
        return time.monotonic() >= self._next

    def warn(self, text: str) -> None:
        """Writes to the log, and shows the text with every further message."""
        logging.warning("InstructBrush: %s", text)
        self.remark = text

    def add_remark(self, text: str) -> None:
        """Shows the text with every further message, after what is shown already."""
        self.remark = " ".join(part for part in (self.remark, text) if part)

    def show(
        self, step: int, losses: list[float], preview: Image.Image | None = None, state: str = ""
    ) -> None:
        """Sends a message to the panel.

        Args:
            step: steps done.
            losses: of every step so far. Only the new ones are sent.
            preview: an image to show, or None to keep the last one.
            state: a remark for this message, such as where a cancelled run is kept.
        """
        self._next = time.monotonic() + _INTERVAL
        # Without the preview, which ComfyUI would show a second time, under the node's widgets.
        self._bar.update_absolute(step, self.total)
        message: dict[str, Any] = {
            "node": self.node,
            "step": step,
            "total": self.total,
            "loss": losses[-1] if losses else None,
            "losses": losses[self._sent :],
            "first": self._sent,
            "seconds_left": self._seconds_left(step),
            "state": state or self.remark,
        }
        if preview is not None:
            self._preview = message["preview"] = data_url(preview)
        self._sent = len(losses)
        PromptServer.instance.send_sync(EVENT, message, PromptServer.instance.client_id)

    def summary(self, losses: list[float]) -> dict[str, Any]:
        """Everything that was shown, as one message for a panel that was not open; ``losses`` are those of
        every step."""
        message: dict[str, Any] = {
            "step": len(losses),
            "total": self.total,
            "losses": [round(loss, 6) for loss in losses],
            "seconds_left": 0,
            "state": self.remark,
        }
        if self._preview:
            message["preview"] = self._preview
        return message

    def _seconds_left(self, step: int) -> float | None:
        steps = step - self._done_before
        return round((time.monotonic() - self._began) / steps * (self.total - step), 1) if steps > 0 else None


def check_interrupted() -> None:
    """Raises ComfyUI's exception if the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def data_url(image: Image.Image) -> str:
    """Encodes an image as a JPEG in a data URL."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
