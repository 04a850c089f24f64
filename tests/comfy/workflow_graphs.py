"""Runs the descriptions of example workflows (tools/examples/workflows) in the ComfyUI of these tests."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tools.examples.workflows.graph import Graph


def prompt_of(comfy: Any, graph: Graph) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns a workflow in API format, and name in the description -> node id.

    Widgets that the description leaves out have their defaults, as in the front end.
    """
    names = [name for name, node in graph.nodes.items() if node["type"] != "MarkdownNote"]
    ids = {name: str(number) for number, name in enumerate(names, 1)}
    prompt: dict[str, Any] = {}
    for name in names:
        kind = graph.nodes[name]["type"]
        inputs = {**_defaults(comfy.nodes[kind]), **graph.nodes[name]["widgets"]}
        inputs.pop("control_after_generate", None)
        prompt[ids[name]] = {"class_type": kind, "inputs": inputs}
    for source, output, target, socket in graph.links:
        node = comfy.nodes[graph.nodes[source]["type"]]
        outputs = list(getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES)
        prompt[ids[target]]["inputs"][socket] = [ids[source], outputs.index(output)]
    return prompt, ids


def shown_images(comfy: Any, run: Any, node: str) -> list[torch.Tensor]:
    """Returns the images [H, W, 3] in 0..1 that a node saved or previewed."""
    found = []
    for image in run.outputs[node]["images"]:
        folder = Path(comfy.folder_paths.get_directory_by_type(image["type"]))
        with Image.open(folder / image["subfolder"] / image["filename"]) as opened:
            found.append(from_image(opened))
    return found


def _defaults(node: Any) -> dict[str, Any]:
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in node.INPUT_TYPES().get(group, {}).items():
            options = rest[0] if rest else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            if "default" in options:
                found[name] = options["default"]
            elif choices:
                found[name] = choices[0]
    return found
