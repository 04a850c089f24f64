"""ComfyUI's setting for metadata in files, and the graph that files can carry."""

import json
from collections.abc import Mapping
from typing import Any

from comfy.cli_args import args
from server import PromptServer


def entries(prompt: Any, workflow: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns a graph as header entries; none if the server was started with ``--disable-metadata``.

    Args:
        prompt: the API format.
        workflow: ``extra_pnginfo``.
    """
    if args.disable_metadata:
        return {}
    found = {**({"prompt": prompt} if prompt else {}), **(workflow or {})}
    return {key: json.dumps(value) for key, value in found.items()}


def running_graph() -> dict[str, str]:
    """As ``entries``, of the graph that runs now; none if no graph runs from the queue."""
    running = PromptServer.instance.prompt_queue.get_current_queue_volatile()[0]
    if not running:
        return {}
    prompt, extra_data = running[0][2:4]
    return entries(prompt, extra_data.get("extra_pnginfo"))
