"""A node's progress bar for computations in core."""

import comfy.utils

from ....core.progress import Progress
from ..learning.progress import check_interrupted


def node_progress(node: str | None = None) -> Progress:
    """Returns a callback that moves a node's progress bar, and raises ComfyUI's exception after Cancel.

    Args:
        node: its id; None for the node that runs.
    """
    bar = comfy.utils.ProgressBar(100, node_id=node)

    def show(done: int, total: int) -> None:
        check_interrupted()
        bar.update_absolute(done, total)

    return show
