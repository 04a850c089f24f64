"""Worker processes that end with the process that started them. Imports no torch, so that they start fast."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def exit_with_parent() -> None:
    """Ends this process when the one that started it ends, also when that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A killed parent cannot end its workers, so each worker watches the parent.
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(parent_sentinel: int) -> None:
    wait([parent_sentinel])
    os._exit(1)
