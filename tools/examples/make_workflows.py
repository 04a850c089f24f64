"""Writes the blueprints (subgraphs/*.json) and the example workflows (example_workflows/*.json and *.jpg).

    .venv/bin/python tools/examples/make_workflows.py       # the blueprints and workflows
    .venv/bin/python tools/examples/make_workflows.py run   # also runs the workflows: preview images
    .venv/bin/python tools/examples/make_workflows.py 01 14 [run]    # only workflows whose names begin so

The preview images need make_examples.py and train_example_addons.py first. The front end itself makes nodes
and subgraphs (build_graphs.js), so each file equals what a user would save. Run this again when the inputs of
a node or the height of a panel change: places follow from their sizes in both renderers.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from instructbrush.tools.browser import launch, load_workflow, open_front_end
from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.examples.retouched_pairs import RETOUCHED
from instructbrush.tools.examples.workflows import applying, comparing, learning, reasoning, regions
from instructbrush.tools.examples.workflows.apps import (
    PHOTO,
    edit_my_image,
    edit_only_there,
    learn_an_edit,
)
from instructbrush.tools.examples.workflows.graph import Graph
from instructbrush.tools.examples.workflows.parts import BLUEPRINTS
from instructbrush.tools.get_comfyui import REPOSITORY, comfyui_root

EXAMPLES = REPOSITORY / "example_workflows"
LIBRARY = REPOSITORY / "subgraphs"
JAVASCRIPT = (Path(__file__).parent / "build_graphs.js").read_text(encoding="utf-8")
PIXELS = 256
ROWS = 2
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
WORKFLOWS: tuple[Callable[[], Graph], ...] = (
    learning.learning,
    learning.own_photos,
    learning.retouching,
    learning.phrases,
    learning.clip_space,
    learning.adapter,
    applying.edit_images,
    applying.slider,
    applying.strengths,
    applying.when,
    applying.second,
    applying.algebra,
    applying.chain,
    regions.found_region,
    regions.two_regions,
    regions.mask_model,
    reasoning.explained_wish,
    reasoning.several_edits,
    reasoning.edited_object,
    reasoning.encoded_wish,
    comparing.measured,
    comparing.judged,
    learn_an_edit,
    edit_my_image,
    edit_only_there,
)


def call(page: Page, function: str, argument: Any = None) -> Any:
    """Calls a function of build_graphs.js."""
    return page.evaluate(f"(argument) => {JAVASCRIPT}.{function}(argument)", argument)


def write(path: Path, made: dict[str, Any]) -> None:
    """Writes a file. Ids that the front end draws at random are replaced: they follow from name and order."""
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    found = dict.fromkeys(UUID.findall(text))
    for number, drawn in enumerate(found):
        text = text.replace(drawn, str(uuid.uuid5(uuid.NAMESPACE_URL, f"instructbrush/{path.stem}/{number}")))
    path.write_text(text, encoding="utf-8")
    print(path)


def make_blueprints(page: Page, vue: Page, graphs: list[Graph]) -> dict[str, dict[str, Any]]:
    """Writes the blueprints of the library that the workflows use, or all. Returns the made ones by title."""
    LIBRARY.mkdir(exist_ok=True)
    used = {node["type"] for graph in graphs for node in graph.nodes.values()}
    made = {}
    for blueprint in (describe() for describe in BLUEPRINTS):
        if len(graphs) < len(WORKFLOWS) and blueprint.title not in used:
            continue
        described = {**blueprint.described, "measured": {}}
        heights = [measure(each, call(page, "blueprint", described), "enter") for each in (page, vue)]
        first = described["first"]
        described["measured"] = {
            name: max(each[str(number)] for each in heights)
            for number, name in enumerate(described["nodes"], first)
        }
        made[blueprint.title] = call(page, "blueprint", described)
        if blueprint.public:
            write(LIBRARY / f"{blueprint.title}.json", made[blueprint.title])
    return made


def build(page: Page, vue: Page, graph: Graph, blueprints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the workflow as the front end saves it. Node ids follow the order of `graph.nodes`."""
    described = {
        "nodes": graph.nodes,
        "links": graph.links,
        "columns": graph.columns,
        "labels": [entry for entry in graph.inputs if entry[2]],
        "blueprints": {
            title: blueprints[title]
            for title in {node["type"] for node in graph.nodes.values()} & blueprints.keys()
        },
        "measured": {},
    }
    workflow = call(page, "workflow", described)
    for _ in range(2):  # a panel may appear only when a node is loaded with its links
        heights = [measure(each, workflow) for each in (page, vue)]
        described["measured"] = {
            name: max(each[str(number)] for each in heights) for name, number in graph.ids.items()
        }
        workflow = call(page, "workflow", described)
    return {**workflow, "extra": graph.extra}


def measure(page: Page, workflow: dict[str, Any], enter: str = "") -> dict[str, float]:
    """Returns the height that each node has once the workflow, or the subgraph in it, is open."""
    load_workflow(page, workflow)
    if enter:
        call(page, enter)
    page.wait_for_timeout(1200)
    return call(page, "heights")


def preview(server: ComfyServer, page: Page, graph: Graph, workflow: dict[str, Any]) -> Image.Image:
    """Runs the workflow. Returns its images in a grid, with a column for each entry of `graph.shown`.

    A single image keeps its aspect ratio.
    """
    prompt = load_workflow(page, workflow)
    for node, name in graph.shown:
        number = str(graph.ids[node])
        inputs = prompt[number]["inputs"]
        images = inputs[name] if name in inputs else [number, output_place(workflow, int(number), name)]
        prompt[f"{node}.{name}"] = {"class_type": "PreviewImage", "inputs": {"images": images}}
    result = server.run(prompt)
    columns = [
        [
            Image.open(io.BytesIO(server.view(image))).convert("RGB")
            for image in result.images(f"{node}.{name}")[:ROWS]
        ]
        for node, name in graph.shown
    ]
    if len(columns) == len(columns[0]) == 1:
        (image,) = columns[0]
        least = max(PIXELS / min(image.size), 1)
        image = image.resize([round(least * side) for side in image.size], Image.Resampling.BICUBIC)
        image.thumbnail((4 * PIXELS, 4 * PIXELS))
        return image
    return grid(columns)


def output_place(workflow: dict[str, Any], number: int, name: str) -> int:
    """Returns the place of a node's output."""
    (node,) = [node for node in workflow["nodes"] if node["id"] == number]
    return [output["name"] for output in node["outputs"]].index(name)


def grid(columns: list[list[Image.Image]]) -> Image.Image:
    """Returns an image with equal squares."""
    rows = list(zip(*columns, strict=True))
    sheet = Image.new("RGB", (PIXELS * len(columns), PIXELS * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), (x * PIXELS, y * PIXELS))
    return sheet


def photographs() -> Image.Image:
    """Returns the preview of a workflow that needs a full-size model: photographs before and after."""
    sides = [[RETOUCHED / f"{pair}_{side}.jpg" for pair in (0, 4)] for side in (0, 1)]
    return grid([[Image.open(path).convert("RGB") for path in side] for side in sides])


def pages(browser: Browser, server: ComfyServer) -> tuple[Page, Page]:
    """Opens the front end with the classic renderer and with the newer one."""
    vue = open_front_end(browser, server, vue=True)
    return open_front_end(browser, server), vue


def main() -> None:
    """Writes every blueprint and workflow, with `run` also the workflows' preview images."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(Path(folder), arguments=["--cpu"]) as server,
        sync_playwright() as playwright,
    ):
        # A page loads the image that ComfyUI brings.
        shutil.copy(comfyui_root() / "input" / PHOTO, Path(folder) / "input" / PHOTO)
        page, vue = pages(launch(playwright), server)
        chosen = tuple(argument for argument in sys.argv[1:] if argument != "run") or ("",)
        graphs = [graph for describe in WORKFLOWS if (graph := describe()).title.startswith(chosen)]
        blueprints = make_blueprints(page, vue, graphs)
        for graph in graphs:
            workflow = build(page, vue, graph, blueprints)
            path = EXAMPLES / f"{graph.title}.json"
            write(path, workflow)
            if "run" in sys.argv[1:]:
                shown = preview(server, page, graph, workflow) if graph.runs else photographs()
                shown.save(path.with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
