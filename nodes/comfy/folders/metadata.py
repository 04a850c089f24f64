"""ComfyUI's setting for metadata in files, and the graph that files can carry."""

import json

from comfy.cli_args import args
from server import PromptServer


def disabled() -> bool:
    """Whether the server was started with ``--disable-metadata``."""
    return bool(args.disable_metadata)


def running_graph() -> dict[str, str]:
    """Returns prompt and workflow of the graph that runs now, as header entries.

    Empty if no graph runs from the queue, or the server was started with ``--disable-metadata``.
    """
    running = PromptServer.instance.prompt_queue.get_current_queue_volatile()[0]
    if disabled() or not running:
        return {}
    prompt, extra_data = running[0][2:4]
    entries = {"prompt": prompt, **(extra_data.get("extra_pnginfo") or {})}
    return {key: json.dumps(value) for key, value in entries.items()}
