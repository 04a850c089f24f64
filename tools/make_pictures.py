"""Makes the pictures of the README and of the help pages from the running ComfyUI (`make pictures`).

    .venv/bin/python tools/make_pictures.py [NAME ...] [--light] [--classic] [--all] [--out FOLDER] [--no-run]

Each example workflow is opened and run, and each kind of node that a picture is missing for is pictured with
its result. docs/pictures gets the pictures of the README, web/docs/pictures one for each node. NAME is a node
or a picture of the README. --light and --classic choose the other theme and renderer, to look at;
--all makes those of both themes and renderers, and of each workflow as it opens and after its run, each in a
folder of its own. With them, --out is needed. Workflows for models that have to be downloaded are opened and
not run.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from instructbrush.tools.browser import launch, open_front_end
from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.get_comfyui import REPOSITORY

EXAMPLES = REPOSITORY / "example_workflows"
PHOTO = "example.png"
"""The image of the pages. In the pictures it is a drawing, which the pocket editor handles."""
DRAWING = EXAMPLES / "pairs" / "light_from_the_right_new" / "0_0.png"
NODES = re.compile(r'"(InstructBrush\w+)"')
MARGIN = 14
CORNER = (400, 120)
"""Where a pictured node lies in the window."""
SETTLE_MILLISECONDS = 900
"""Panels follow the canvas with a delay."""

WINDOWS = {
    "canvas": ("01 Learn an edit from pairs", "graph"),
    "page": ("Page - Edit my image.app", "page"),
    "gallery": ("Page - Edit my image.app", "gallery"),
}
"""Picture of the README -> its workflow, and what is shown of it after a run."""

RUN = """async () => {
  const { api } = await import("/scripts/api.js");
  const ended = new Promise((resolve) => {
    api.addEventListener("execution_success", () => resolve(""), { once: true });
    const failed = ({ detail }) => resolve(detail.exception_message);
    api.addEventListener("execution_error", failed, { once: true });
  });
  return (await app.queuePrompt(0)) ? await ended : "ComfyUI did not take the workflow";
}"""
KINDS = """() => {
  const found = [];
  const visit = (graph, path) => {
    for (const node of graph.nodes) {
      if (node.comfyClass?.startsWith("InstructBrush")) found.push([node.comfyClass, path, node.id]);
      if (node.subgraph) visit(node.subgraph, [...path, node.id]);
    }
  };
  visit(app.rootGraph ?? app.graph, []);
  return found;
}"""
SHOW = """([path, id, x, y]) => {
  let graph = app.rootGraph ?? app.graph;
  for (const step of path) graph = graph.getNodeById(step).subgraph;
  if (app.canvas.graph !== graph) app.canvas.setGraph(graph);
  const node = graph.getNodeById(id);
  // Each node stands alone.
  for (const [place, each] of graph.nodes.entries()) each.pos = [place * 4000, 0];
  for (const group of [...graph.groups]) graph.remove(group);
  if (node.flags.collapsed) node.collapse();
  for (const [place, input] of node.inputs.entries()) {
    // A widget that the subgraph's node shows is blank inside.
    const from = graph.getLink?.(input.link)?.origin_id;
    if (input.widget && from !== undefined && from === graph.inputNode?.id) node.disconnectInput(place);
  }
  app.canvas.deselectAll();
  app.canvas.links_render_mode = LiteGraph.HIDDEN_LINK;
  app.canvas.bringToFront(node);
  const { ds } = app.canvas;
  ds.scale = 1;
  ds.offset[0] = x - node.pos[0];
  ds.offset[1] = y - node.pos[1];
  app.canvas.setDirty(true, true);
}"""
PLACE = """([path, id, x, y]) => {
  const drawn = document.querySelector(`[data-node-id="${id}"]`);
  if (drawn) {
    const { left, top, width, height } = drawn.getBoundingClientRect();
    return { x: left, y: top, width, height };
  }
  let graph = app.rootGraph ?? app.graph;
  for (const step of path) graph = graph.getNodeById(step).subgraph;
  const { size } = graph.getNodeById(id);
  const title = LiteGraph.NODE_TITLE_HEIGHT;
  const { left, top } = app.canvas.canvas.getBoundingClientRect();
  return { x: left + x, y: top + y - title, width: size[0], height: size[1] + title };
}"""
FIT = """() => {
  app.canvas.setGraph(app.rootGraph ?? app.graph);
  app.canvas.deselectAll();
  app.canvas.fitViewToSelectionAnimated?.({ duration: 1 });
  app.canvas.setDirty(true, true);
}"""

LEAVE_PAGE = "() => app.extensionManager.command.execute('Comfy.ToggleLinear')"


@dataclass
class Pictures:
    """What is to be made.

    names: the wanted pictures; all if empty.
    windows, nodes: folders of the README's pictures and of those of the nodes.
    light, classic: ComfyUI's other theme and renderer.
    whole: folder of pictures of each workflow before and after its run.
    done: names of the pictures that are made.
    """

    names: set[str]
    windows: Path
    nodes: Path
    light: bool = False
    classic: bool = False
    whole: Path | None = None
    done: set[str] = field(default_factory=set)

    def wants(self, name: str) -> bool:
        return name not in self.done and (not self.names or name in self.names)

    def needs(self, name: str, text: str) -> bool:
        """Whether a wanted picture may come from the workflow with this name and text."""
        if self.whole:
            return True
        windows = [picture for picture, (own, _) in WINDOWS.items() if own == name]
        return any(self.wants(picture) for picture in (*windows, *NODES.findall(text)))

    def take(self, browser: Browser, server: ComfyServer, name: str, text: str, run: bool) -> None:
        """Opens a workflow, runs it and makes the pictures that are wanted of it.

        Raises:
            RuntimeError: the run fails.
        """
        workflow = json.loads(text)
        server.post("/settings", {"Comfy.ColorPalette": "light" if self.light else "dark"})
        page = open_front_end(browser, server, vue=not self.classic)
        page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
        page.wait_for_timeout(2 * SETTLE_MILLISECONDS)
        if self.whole:
            save(page.screenshot(), self.whole / f"{name}.webp")
        if run and runs_here(workflow) and (failure := page.evaluate(RUN)):
            raise RuntimeError(f"{name}: {failure}")
        page.wait_for_timeout(2 * SETTLE_MILLISECONDS)
        if self.whole:
            save(page.screenshot(), self.whole / f"{name} (run).webp")
        self.make(page, name, workflow)
        page.close()

    def make(self, page: Page, name: str, workflow: dict[str, Any]) -> None:
        """Makes the pictures that the open workflow `name` is there for."""
        own = [picture for picture, (kept, _) in WINDOWS.items() if kept == name and self.wants(picture)]
        # A page is left after its picture.
        own.sort(key=lambda picture: WINDOWS[picture][1] != "page")
        is_page = workflow.get("extra", {}).get("linearMode")
        for picture in own:
            shown = WINDOWS[picture][1]
            if is_page and shown != "page":
                page.evaluate(LEAVE_PAGE)
                is_page = False
            picture_window(page, shown, self.windows / f"{picture}.webp")
            self.done.add(picture)
        if is_page:
            page.evaluate(LEAVE_PAGE)
        page.set_viewport_size({"width": 1600, "height": 1600})
        for kind, path, node in page.evaluate(KINDS):
            if self.wants(kind):
                picture_node(page, path, node, self.nodes / f"{kind}.webp")
                self.done.add(kind)


def runs_here(workflow: dict[str, Any]) -> bool:
    """Whether no node of a workflow asks for a model that has to be downloaded."""
    return '"models": [' not in json.dumps(workflow)


def save(picture: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(picture)).convert("RGB").save(path, quality=82, method=6)
    print(path, f"{path.stat().st_size // 1000} kB", flush=True)


def picture_node(page: Page, path: list[int], node: int, file: Path) -> None:
    """Makes the picture of a node at 100 %. `path` has the ids of the subgraphs that it is in."""
    asked = [path, node, *CORNER]
    # A subgraph that opens fits its nodes into the window, after a moment.
    for _ in range(2):
        page.evaluate(SHOW, asked)
        page.wait_for_timeout(SETTLE_MILLISECONDS)
    place = page.evaluate(PLACE, asked)
    clip: Any = {
        "x": place["x"] - MARGIN,
        "y": place["y"] - MARGIN,
        "width": place["width"] + 2 * MARGIN,
        "height": place["height"] + 2 * MARGIN,
    }
    save(page.screenshot(clip=clip), file)


def picture_window(page: Page, shown: str, file: Path) -> None:
    """Makes a picture of the whole window: the graph, the page (App Mode), or the graph with the gallery."""
    if shown != "page":
        page.evaluate(FIT)
    if shown == "gallery":
        page.locator(".instructbrush-gallery-tab-button").click()
        page.wait_for_selector(".ibg-card")
    page.wait_for_timeout(2 * SETTLE_MILLISECONDS)
    save(page.screenshot(), file)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--light", action="store_true", help="ComfyUI's light theme")
    parser.add_argument("--classic", action="store_true", help="ComfyUI's older renderer of nodes")
    parser.add_argument("--no-run", action="store_true", help="picture the workflows as they open")
    parser.add_argument("--out", type=Path, help="folder for all pictures (default: the pack's own)")
    parser.add_argument("--all", action="store_true", help="both themes and renderers, and whole workflows")
    options = parser.parse_args(argv)
    if (options.light or options.classic or options.all or options.no_run) and not options.out:
        parser.error("the pack keeps pictures in ComfyUI's dark theme and newer renderer; choose --out")
    names, out = set(options.names), options.out
    if options.all:
        looks = [looked(names, out, light, classic) for light in (False, True) for classic in (False, True)]
    else:
        own = (
            (out, out)
            if out
            else (REPOSITORY / "docs" / "pictures", REPOSITORY / "web" / "docs" / "pictures")
        )
        looks = [Pictures(names, *own, options.light, options.classic)]
    with (
        tempfile.TemporaryDirectory(prefix="ComfyUI_") as folder,
        ComfyServer(Path(folder), arguments=["--cpu"]) as server,
        sync_playwright() as playwright,
    ):
        shutil.copy(DRAWING, Path(folder) / "input" / PHOTO)
        browser = launch(playwright)
        for path in sorted(EXAMPLES.glob("*.json")):
            text = path.read_text(encoding="utf-8")
            # ComfyUI keeps the results of a run: the next look of a workflow costs little.
            for pictures in looks:
                if pictures.needs(path.stem, text):
                    pictures.take(browser, server, path.stem, text, not options.no_run)


def looked(names: set[str], out: Path, light: bool, classic: bool) -> Pictures:
    folder = out / f"{'light' if light else 'dark'} {'classic' if classic else 'newer'}"
    return Pictures(names, folder, folder, light, classic, whole=folder / "workflows")


if __name__ == "__main__":
    main(sys.argv[1:])
