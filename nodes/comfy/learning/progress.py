"""What a user sees while an instruction is learned: the node's progress bar, and messages with losses and previews to the panel."""

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
        done: steps done before, in a run that goes on.
        remark: what the user should know all along.
    """

    def __init__(self, node: str, total: int, done: int = 0, remark: str = "") -> None:
        self.node, self.total, self.remark = node, total, remark
        self._bar = comfy.utils.ProgressBar(total, node_id=node)
        self._began, self._done_before = time.monotonic(), done
        self._next = 0.0
        self._sent = 0
        self._preview = ""

    def due(self) -> bool:
        """Whether it is time for a message again."""
        return time.monotonic() >= self._next

    def warn(self, text: str) -> None:
        """Write to the log, and remark it from the next message on."""
        logging.warning("InstructBrush: %s", text)
        self.remark = text

    def show(
        self, step: int, losses: list[float], preview: Image.Image | None = None, state: str = ""
    ) -> None:
        """Tell how far it is.

        Args:
            step: steps done.
            losses: of every step so far; those not yet sent are sent.
            preview: an image to show, or None to leave the last one.
            state: a remark for this message, such as where a cancelled run was kept.
        """
        self._next = time.monotonic() + _INTERVAL
        # The preview goes to the panel alone: ComfyUI would show it a second time under the node's widgets.
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
        """Everything that was shown, as one message for a panel that was not open; ``losses`` are those of every step."""
        told = {
            "step": len(losses),
            "total": self.total,
            "losses": [round(loss, 6) for loss in losses],
            "seconds_left": 0,
            "state": self.remark,
        }
        return {**told, "preview": self._preview} if self._preview else told

    def _seconds_left(self, step: int) -> float | None:
        steps = step - self._done_before
        return round((time.monotonic() - self._began) / steps * (self.total - step), 1) if steps > 0 else None


def check_interrupted() -> None:
    """Raise ComfyUI's own exception when the user pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def data_url(image: Image.Image) -> str:
    """An image as a JPEG in a data URL."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
