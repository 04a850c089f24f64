"""Writes locales/en/nodeDefs.json and the tables of the help pages in web/docs from the schemas of the nodes.

    .venv/bin/python tools/make_reference.py

A test compares the files with the schemas. Translators copy the keys of locales/en. The text of a help page
above its tables is written by hand. web/docs/<NodeId>.md is English; web/docs/<NodeId>/zh.md is Chinese and
gets its tables from locales/zh/nodeDefs.json.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.get_comfyui import REPOSITORY

LOCALES = REPOSITORY / "locales"
DEFINITIONS = LOCALES / "en" / "nodeDefs.json"
PAGES = REPOSITORY / "web" / "docs"


@dataclass(frozen=True)
class Words:
    """The words of the tables in one language."""

    inputs: str = "Inputs"
    columns: str = "| Input | Type | Default | |"
    outputs: str = "Outputs"
    output_columns: str = "| Output | |"
    choice: str = "choice"
    empty: str = "*empty*"


ENGLISH = Words()
TRANSLATED = {"zh": Words("输入", "| 输入 | 类型 | 默认值 | |", "输出", "| 输出 | |", "选项", "*空*")}


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


def tables(node: dict[str, Any], texts: dict[str, Any], words: Words = ENGLISH) -> str:
    """Returns the inputs and outputs of a node as Markdown tables.

    Args:
        node: its entry of object_info.
        texts: its names and tooltips in one language, see ``definitions``.
        words: of the same language.
    """
    lines = [f"\n## {words.inputs}\n", words.columns, "| --- | --- | --- | --- |"]
    for key, (kind, options) in inputs_of(node).items():
        choices = kind if isinstance(kind, list) else options.get("options")
        # Lists of files differ between machines, so they have no default here.
        default = options.get("default", "" if key in ("folder", "name") or not choices else choices[0])
        title = words.choice if choices is not None else str(kind).removeprefix("INSTRUCTBRUSH_")
        shown = words.empty if default == "" and kind == "STRING" else str(default)
        if "auto" in options and default == options["auto"]:
            shown = f"auto ({default})"
        own = texts["inputs"][key]
        lines.append(f"| {_named(own['name'], key)} | {title} | {shown} | {own.get('tooltip', '')} |")
    lines += [f"\n## {words.outputs}\n", words.output_columns, "| --- | --- |"]
    for index, label in enumerate(node["output_name"]):
        own = texts["outputs"][str(index)]
        lines.append(f"| {_named(own['name'], label)} | {own['tooltip']} |")
    return "\n".join(lines) + "\n"


def _named(label: str, key: str) -> str:
    return f"`{key}`" if label == key else f"{label} (`{key}`)"


def page(text: str, node: dict[str, Any], texts: dict[str, Any], words: Words = ENGLISH) -> str:
    """Returns a help page with new tables below its text. The arguments are those of ``tables``."""
    return text.split(f"\n## {words.inputs}\n")[0].rstrip("\n") + "\n" + tables(node, texts, words)


def pages(object_info: dict[str, Any]) -> dict[Path, str]:
    """Returns the path and the text of every help page in every language, with tables of the present schemas.

    A node without an English page gets one with its description. Other languages have the pages that were
    written.
    """
    found = {}
    english = definitions(object_info)
    for name, node in ours(object_info).items():
        path = PAGES / f"{name}.md"
        new = f"# {node['display_name']}\n\n{node['description']}\n"
        text = path.read_text(encoding="utf-8") if path.exists() else new
        found[path] = page(text, node, english[name])
    for language, words in TRANSLATED.items():
        translated = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
        for name, node in ours(object_info).items():
            path = PAGES / name / f"{language}.md"
            if path.exists():
                # A new input is English until it is translated.
                texts = {key: english[name][key] | translated[name][key] for key in ("inputs", "outputs")}
                found[path] = page(path.read_text(encoding="utf-8"), node, texts, words)
    return found


def write(object_info: dict[str, Any]) -> None:
    """Writes the definitions and all pages."""
    DEFINITIONS.parent.mkdir(parents=True, exist_ok=True)
    DEFINITIONS.write_text(
        json.dumps(definitions(object_info), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for path, text in pages(object_info).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), arguments=["--cpu"]) as server:
        write(server.object_info())
