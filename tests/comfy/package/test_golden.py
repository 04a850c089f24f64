"""Compares ids, inputs and outputs of nodes, on which saved workflows rely, with tests/golden/nodes.json.

INSTRUCTBRUSH_RECORD=1 records an intended change of the interface.
"""

import json
import os
from typing import Any

# Inputs whose choices are the user's files.
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
TEXTS = {"tooltip", "options", "placeholder"}


def contract(node: Any) -> dict[str, Any]:
    """Returns the parts of a node on which saved workflows rely: all but texts and lists of files."""
    inputs = {}
    for group, members in node["input"].items():
        for name, spec in members.items():
            details = spec[1] if len(spec) > 1 else {}
            inputs[name] = {
                "group": group,
                "type": spec[0],
                **{key: value for key, value in details.items() if key not in TEXTS},
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
