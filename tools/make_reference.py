"""Writes locales/en/nodeDefs.json and the tables of the help pages in web/docs from the schemas of the nodes.

    .venv/bin/python tools/make_reference.py

A test compares the files with the schemas. Translators copy the keys of locales/en. The text of a help page
above its tables is written by hand.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.get_comfyui import REPOSITORY

DEFINITIONS = REPOSITORY / "locales" / "en" / "nodeDefs.json"
PAGES = REPOSITORY / "web" / "docs"
TABLES = "\n## Inputs\n"


def inputs_of(node: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Returns name -> (type or list of choices, options) of every input, required inputs first."""
    found = {}
    for group in ("required", "optional"):
        for key, (kind, *rest) in node["input"].get(group, {}).items():
            found[key] = (kind, rest[0] if rest else {})
    return found


def ours(object_info: dict[str, Any]) -> dict[str, Any]:
    """Returns this pack's nodes, sorted by id."""
    return {name: node for name, node in sorted(object_info.items()) if name.startswith("InstructBrush")}


def definitions(object_info: dict[str, Any]) -> dict[str, Any]:
    """Returns the front end's translation keys for every node, with the English text of its schema."""
    found = {}
    for name, node in ours(object_info).items():
        inputs = {}
        for key, (_, options) in inputs_of(node).items():
            texts = {"name": options.get("display_name") or key, "tooltip": options.get("tooltip")}
            inputs[key] = {field: text for field, text in texts.items() if text}
        outputs = {
            str(index): {"name": label, "tooltip": tooltip}
            for index, (label, tooltip) in enumerate(
                zip(node["output_name"], node["output_tooltips"], strict=True)
            )
        }
        found[name] = {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": inputs,
            "outputs": outputs,
        }
    return found


def tables(node: dict[str, Any]) -> str:
    """Returns the inputs and outputs of a node as Markdown tables."""
    lines = [TABLES, "| Input | Type | Default | |", "| --- | --- | --- | --- |"]
    for key, (kind, options) in inputs_of(node).items():
        choices = kind if isinstance(kind, list) else options.get("options")
        # Lists of files differ between machines, so they have no default here.
        default = options.get("default", "" if key in ("folder", "name") or not choices else choices[0])
        title = "choice" if choices is not None else str(kind).removeprefix("INSTRUCTBRUSH_")
        shown = "*empty*" if default == "" and kind == "STRING" else str(default)
        if "auto" in options and default == options["auto"]:
            shown = f"auto ({default})"
        label = options.get("display_name") or key
        named = f"`{key}`" if label == key else f"{label} (`{key}`)"
        lines.append(f"| {named} | {title} | {shown} | {options.get('tooltip', '')} |")
    lines += ["\n## Outputs\n", "| Output | |", "| --- | --- |"]
    lines += [
        f"| `{label}` | {tooltip} |"
        for label, tooltip in zip(node["output_name"], node["output_tooltips"], strict=True)
    ]
    return "\n".join(lines) + "\n"


def page(text: str, node: dict[str, Any]) -> str:
    """Returns a help page with new tables below its text."""
    return text.split(TABLES)[0].rstrip("\n") + "\n" + tables(node)


def write(object_info: dict[str, Any]) -> None:
    """Writes the definitions and all pages. A node without a page gets one with its description."""
    DEFINITIONS.parent.mkdir(parents=True, exist_ok=True)
    DEFINITIONS.write_text(
        json.dumps(definitions(object_info), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for name, node in ours(object_info).items():
        path = PAGES / f"{name}.md"
        text = (
            path.read_text(encoding="utf-8")
            if path.exists()
            else f"# {node['display_name']}\n\n{node['description']}\n"
        )
        path.write_text(page(text, node), encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), arguments=["--cpu"]) as server:
        write(server.object_info())
