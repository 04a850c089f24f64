"""Every node of the pack is shown in a template or a blueprint."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instructbrush.tests.support.node_names import NODES


def types_in(workflow: dict[str, Any]) -> Iterator[str]:
    """The types of all nodes of a workflow, also of those in subgraphs."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    for graph in graphs:
        yield from (node["type"] for node in graph["nodes"])


def test_every_node_is_in_a_template_or_blueprint(repository: Path):
    files = [
        path for folder in ("example_workflows", "subgraphs") for path in (repository / folder).glob("*.json")
    ]
    assert files
    shown = {kind for path in files for kind in types_in(json.loads(path.read_text(encoding="utf-8")))}
    assert sorted(set(NODES) - shown) == []
