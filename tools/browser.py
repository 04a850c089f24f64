"""Opens ComfyUI's front end in Chromium, for the browser tests and for make_workflows.py."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, Playwright

from .comfy_server import ComfyServer
from .get_browser import find_browser

WINDOW: Any = {"width": 1600, "height": 1000}
# --no-sandbox: Chromium runs as root in containers. The last flags stop its own requests at every start.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
READY = (
    "() => window.app?.extensionManager && window.app.graph"
    " && window.LiteGraph?.registered_node_types?.InstructBrushApply"
)
TO_PROMPT = (
    "async (workflow) => { await app.loadGraphData(workflow); return (await app.graphToPrompt()).output }"
)


def launch(playwright: Playwright) -> Browser:
    """Starts the installed browser.

    Raises:
        FileNotFoundError: no Chromium is installed.
    """
    path = find_browser()
    if path is None:
        raise FileNotFoundError("no Chromium: apt-get install chromium, or set CHROMIUM=/path")
    return playwright.chromium.launch(executable_path=path, args=FLAGS)


def open_front_end(browser: Browser, server: ComfyServer, *, vue: bool = False, language: str = "en") -> Page:
    """Opens ComfyUI's page and waits until it is ready. `vue` chooses the newer renderer of nodes."""
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": vue,
        "Comfy.Locale": language,
        "Comfy.Workflow.Persist": False,
    }
    server.post("/settings", settings)
    page = browser.new_page(viewport=WINDOW)
    page.goto(server.url)
    page.wait_for_selector("#splash-loader", state="detached", timeout=120_000)
    page.wait_for_function(READY, timeout=120_000)
    return page


def load_workflow(page: Page, workflow: dict[str, Any]) -> dict[str, Any]:
    """Opens a workflow in the page. Returns the prompt (API format) that the front end makes of it."""
    return page.evaluate(TO_PROMPT, workflow)
