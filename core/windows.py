"""What Windows does otherwise with files."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

# Seconds after which a file is asked for again.
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)


def is_windows() -> bool:
    """Whether this is Windows. A function, so that tests can take its part."""
    return os.name == "nt"


def patiently(action: Callable[[], Answer]) -> Answer:
    """Runs an action that replaces, renames or deletes a file. Windows refuses it as long as a virus scanner
    or a reader has the file open, so it is tried again for a moment there.

    Raises:
        OSError: the action's own.
    """
    for pause in _PAUSES if is_windows() else ():
        try:
            return action()
        except PermissionError:
            time.sleep(pause)
    return action()
