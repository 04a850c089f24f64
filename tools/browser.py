"""A Chromium in front of a ComfyServer: for the browser tests and for the tools that build workflows and take images."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, Playwright

from .comfy_server import ComfyServer
from .get_browser import find_browser

WINDOW: Any = {"width": 1600, "height": 1000}
# Debian's Chromium as root in a container; the last flags keep it from looking up its maker's hosts at every start.
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
READY = "() => window.app?.extensionManager && window.app.graph && window.LiteGraph?.registered_node_types?.InstructBrushApply"


def launch(playwright: Playwright) -> Browser:
    """Start the browser that is installed. Raises FileNotFoundError when there is none."""
    path = find_browser()
    if path is None:
        raise FileNotFoundError("no Chromium: apt-get install chromium, or set CHROMIUM=/path")
    return playwright.chromium.launch(executable_path=path, args=FLAGS)


def open_front_end(browser: Browser, server: ComfyServer, *, vue: bool = False, language: str = "en") -> Page:
    """ComfyUI's page, ready for use. `vue`: the newer renderer of nodes."""
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
