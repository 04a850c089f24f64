"""Write locales/en/nodeDefs.json from the nodes' own schemas, so that English never drifts from the code. Translators copy its keys.

.venv/bin/python tools/make_locales.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.get_comfyui import REPOSITORY

TARGET = REPOSITORY / "locales" / "en" / "nodeDefs.json"


def definitions(object_info: dict[str, Any]) -> dict[str, Any]:
    """The front end's translation keys for every node of this pack, with the English text of its schema."""
    found = {}
    for name, node in sorted(object_info.items()):
        if not name.startswith("InstructBrush"):
            continue
        inputs = {}
        for group in ("required", "optional"):
            for key, (_, *rest) in node["input"].get(group, {}).items():
                options = rest[0] if rest else {}
                words = {"name": options.get("display_name") or key, "tooltip": options.get("tooltip")}
                inputs[key] = {word: text for word, text in words.items() if text}
        outputs = {
            str(index): {"name": label, "tooltip": tooltip}
            for index, (label, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
        }
        found[name] = {"display_name": node["display_name"], "description": node["description"], "inputs": inputs, "outputs": outputs}
    return found


def write(object_info: dict[str, Any], target: Path = TARGET) -> None:
    """Write the English definitions."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(definitions(object_info), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), arguments=["--cpu"]) as server:
        write(server.object_info())
