"""A real server over HTTP and a real browser in front of it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from instructbrush.tools.browser import launch, open_front_end
from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.get_browser import find_browser
from instructbrush.tools.torture.server import ADDON


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with this pack on the CPU, in a base directory of its own."""
    base = tmp_path_factory.mktemp("server")
    (base / "custom_nodes").mkdir()
    shutil.copy(ADDON, base / "custom_nodes" / ADDON.name)
    with ComfyServer(base, arguments=["--cpu"]) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests (a playwright Browser)."""
    if find_browser() is None:
        pytest.skip(
            "NO CHROMIUM: browser tests were skipped; apt-get install chromium, or set CHROMIUM=/path"
        )
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shots(repository: Path) -> Path:
    """Where screenshots go, for a person to look at: build/screenshots (ignored by git)."""
    folder = repository / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def open_page(browser: Any, server: ComfyServer) -> Iterator[Callable[..., Any]]:
    """`open_page(vue=False, language="en")`: the front end, ready, with an empty graph. Errors thrown in the page fail the test."""
    pages, complaints = [], []

    def open_it(vue: bool = False, language: str = "en") -> Any:
        page = open_front_end(browser, server, vue=vue, language=language)
        pages.append(page)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield open_it
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def load_workflow() -> Callable[[Any, Path], dict[str, Any]]:
    """`load_workflow(page, path)`: opens a UI workflow on the canvas and returns the browser's own conversion to API format."""

    def load(page: Any, path: Path) -> dict[str, Any]:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        return page.evaluate(
            "async (workflow) => { await app.loadGraphData(workflow); return (await app.graphToPrompt()).output }",
            workflow,
        )

    return load
