"""The nodes' contract with saved workflows: ids, inputs and outputs stay as tests/golden/nodes.json records them.

A deliberate change of the interface is recorded with INSTRUCTBRUSH_RECORD=1.
"""

import json
import os
from typing import Any

FOLDER_LISTS = {
    "name",
    "folder",
    "model_name",
    "mllm_name",
    "connector_name",
    "clip_name",
    "finder_name",
    "sam_name",
}
"""Inputs whose choices are the user's files."""
TEXTS = {"tooltip", "options", "placeholder"}


def contract(node: Any) -> dict[str, Any]:
    """What saved workflows rely on: everything but texts for people and lists of files."""
    inputs = {}
    for group, members in node["input"].items():
        for name, spec in members.items():
            kind, details = spec[0], spec[1] if len(spec) > 1 else {}
            inputs[name] = {
                "group": group,
                "type": kind,
                **{k: v for k, v in details.items() if k not in TEXTS},
            }
            if "options" in details and name not in FOLDER_LISTS:
                inputs[name]["choices"] = details["options"]
            if name in FOLDER_LISTS:
                inputs[name].pop("default", None)
    outputs = list(zip(node["output"], node["output_name"], node["output_is_list"], strict=True))
    flags = {
        flag: node[flag]
        for flag in ("display_name", "category", "output_node", "is_input_list", "has_intermediate_output")
    }
    return {**flags, "inputs": inputs, "outputs": outputs}


def test_nodes_keep_their_contract(comfy, repository):
    info = {
        name: cls.GET_NODE_INFO_V1() for name, cls in comfy.nodes.items() if name.startswith("InstructBrush")
    }
    found = json.loads(json.dumps({name: contract(node) for name, node in sorted(info.items())}, default=str))
    record = repository / "tests" / "golden" / "nodes.json"
    if os.environ.get("INSTRUCTBRUSH_RECORD"):
        record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(record.read_text(encoding="utf-8"))
