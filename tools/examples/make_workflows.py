"""Writes the example workflows: example_workflows/*.json, each with a preview image (.jpg).

    .venv/bin/python tools/examples/make_workflows.py       # the workflows
    .venv/bin/python tools/examples/make_workflows.py run   # also runs them and writes the preview images
    .venv/bin/python tools/examples/make_workflows.py NAME ... [run]    # only these

The preview images need make_examples.py and train_example_addons.py first. The front end itself creates the
nodes, so each file equals what a user would save. Run this again when the inputs of a node change.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from instructbrush.tools.browser import READY, launch, load_workflow, open_front_end
from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.examples.workflows.applying import algebra, chain
from instructbrush.tools.examples.workflows.apps import (
    PHOTO,
    edit_my_image,
    edit_only_there,
    learn_an_edit,
)
from instructbrush.tools.examples.workflows.comparing import sweep
from instructbrush.tools.examples.workflows.graph import Graph
from instructbrush.tools.examples.workflows.learning import clip_space, learning, phrases, retouching
from instructbrush.tools.examples.workflows.reasoning import (
    edited_object,
    encoded_wish,
    explained_wish,
    several_edits,
)
from instructbrush.tools.examples.workflows.regions import found_region, mask_model
from instructbrush.tools.get_comfyui import REPOSITORY, comfyui_root

EXAMPLES = REPOSITORY / "example_workflows"
PIXELS = 256
WORKFLOWS: tuple[Callable[[], Graph], ...] = (
    learning,
    chain,
    phrases,
    clip_space,
    algebra,
    found_region,
    mask_model,
    explained_wish,
    encoded_wish,
    several_edits,
    edited_object,
    sweep,
    retouching,
    learn_an_edit,
    edit_my_image,
    edit_only_there,
)

BUILD = """(graph) => {
  const GAP = 60;  // a title is 30 px tall
  app.graph.clear();
  const made = {};
  for (const [name, { type, at, size, title, widgets }] of Object.entries(graph.nodes)) {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = at;
    if (title) node.title = title;
    for (const [key, value] of Object.entries(widgets)) {
      const widget = node.widgets?.find((each) => each.name === key);
      if (!widget) throw new Error(`${type} has no widget ${key}`);
      widget.value = value;
    }
    const [wide, tall] = node.computeSize();
    node.setSize(size ? [Math.max(size[0], wide), Math.max(size[1], tall)] : [wide, tall]);
    made[name] = node;
  }
  // Nodes of a column that are taller than planned move the nodes below them down.
  const placed = [];
  for (const node of Object.values(made).sort((a, b) => a.pos[1] - b.pos[1])) {
    for (const above of placed) {
      const [left, right] = [node.pos[0], node.pos[0] + node.size[0]];
      const below = left < above.pos[0] + above.size[0] && above.pos[0] < right;
      const free = above.pos[1] + above.size[1] + GAP;
      if (below && node.pos[1] < free) node.pos = [left, free];
    }
    placed.push(node);
    placed.sort((a, b) => a.pos[1] - b.pos[1]);
  }
  for (const [from, output, to, input] of graph.links) {
    const a = made[from].findOutputSlot(output), b = made[to].findInputSlot(input);
    if (a < 0 || b < 0 || !made[from].connect(a, made[to], b))
      throw new Error(`cannot connect ${from}.${output} to ${to}.${input}`);
  }
  for (const [name, key, label] of graph.labels) {
    const node = made[name];
    node.widgets.find((each) => each.name === key).label = label;
    const input = node.inputs.find((each) => each.widget?.name === key);
    if (input) input.label = label;
  }
  const { nodes, links, last_node_id, last_link_id, version } = app.graph.serialize();
  return { last_node_id, last_link_id, nodes, links, groups: [], config: {}, extra: {}, version };
}"""


def build(page: Page, graph: Graph) -> dict[str, Any]:
    """Returns the workflow as the front end saves it. Node ids follow the order of `graph.nodes`."""
    # A fresh page: the front end keeps values by node id and name, also of nodes that are gone.
    page.reload()
    page.wait_for_selector("#splash-loader", state="detached", timeout=120_000)
    page.wait_for_function(READY, timeout=120_000)
    for node in graph.nodes.values():
        if node["type"] == "MarkdownNote":
            (text,) = node["widgets"].values()
            name = page.evaluate("() => LiteGraph.createNode('MarkdownNote').widgets[0].name")
            node["widgets"] = {name: text}
    labels = [entry for entry in graph.inputs if entry[2]]
    workflow = page.evaluate(BUILD, {"nodes": graph.nodes, "links": graph.links, "labels": labels})
    return {**workflow, "extra": graph.extra}


def preview(server: ComfyServer, page: Page, graph: Graph, workflow: dict[str, Any]) -> Image.Image:
    """Runs the workflow. Returns its images in a grid, with a column for each node in `graph.shown`.

    A single image keeps its aspect ratio.
    """
    result = server.run(load_workflow(page, workflow))
    node_ids = [str(graph.ids[name]) for name in graph.shown]
    columns = [
        [Image.open(io.BytesIO(server.view(image))).convert("RGB") for image in result.images(node)]
        for node in node_ids
    ]
    if len(columns) == len(columns[0]) == 1:
        (image,) = columns[0]
        least = max(PIXELS / min(image.size), 1)
        image = image.resize([round(least * side) for side in image.size], Image.Resampling.BICUBIC)
        image.thumbnail((4 * PIXELS, 4 * PIXELS))
        return image
    rows = list(zip(*columns, strict=True))
    sheet = Image.new("RGB", (PIXELS * len(node_ids), PIXELS * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), (x * PIXELS, y * PIXELS))
    return sheet


def main() -> None:
    """Writes every workflow, with `run` also its preview image."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(Path(folder), arguments=["--cpu"]) as server,
        sync_playwright() as playwright,
    ):
        # A page loads the image that ComfyUI brings.
        shutil.copy(comfyui_root() / "input" / PHOTO, Path(folder) / "input" / PHOTO)
        page = open_front_end(launch(playwright), server)
        chosen = {argument for argument in sys.argv[1:] if argument != "run"}
        for make_graph in WORKFLOWS:
            graph = make_graph()
            if chosen and graph.title not in chosen:
                continue
            workflow = build(page, graph)
            path = EXAMPLES / f"{graph.title}.json"
            path.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
            print(path)
            if "run" in sys.argv[1:]:
                preview(server, page, graph, workflow).save(path.with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
