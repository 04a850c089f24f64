"""Fixtures: a ComfyUI server over HTTP, and a browser."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from instructbrush.tests.e2e.workflows import WORKFLOWS, shortened
from instructbrush.tools import browser as front_end
from instructbrush.tools.comfy_server import ComfyServer, PromptResult
from instructbrush.tools.get_browser import find_browser
from instructbrush.tools.get_comfyui import comfyui_root
from instructbrush.tools.torture.server import ADDON


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with this pack on the CPU, shared by all tests."""
    base = tmp_path_factory.mktemp("server")
    (base / "custom_nodes").mkdir()
    shutil.copy(ADDON, base / "custom_nodes" / ADDON.name)
    # The image that every ComfyUI has in its input folder.
    (base / "input").mkdir(exist_ok=True)
    shutil.copy(comfyui_root() / "input" / "example.png", base / "input" / "example.png")
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
        chromium = front_end.launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shots(repository: Path) -> Path:
    """Folder for screenshots that people look at: build/screenshots (ignored by git)."""
    folder = repository / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def held_page(browser: Any, server: ComfyServer) -> Callable[..., AbstractContextManager[Any]]:
    """`with held_page(vue=False, language="en") as page` opens the front end. Errors in the page fail."""

    @contextmanager
    def hold(vue: bool = False, language: str = "en") -> Iterator[Any]:
        errors = []
        page = front_end.open_front_end(browser, server, vue=vue, language=language)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        page.close()
        assert errors == []

    return hold


@pytest.fixture
def open_page(held_page: Callable[..., AbstractContextManager[Any]]) -> Iterator[Callable[..., Any]]:
    """`open_page(vue=False, language="en")` opens a page of one test."""
    with ExitStack() as pages:
        yield lambda **given: pages.enter_context(held_page(**given))


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "vue"])
def vue(request: pytest.FixtureRequest) -> bool:
    """Whether the newer renderer of nodes is on."""
    return request.param


@pytest.fixture(scope="session")
def load_example(repository: Path) -> Callable[[Any, str], dict[str, Any]]:
    """`load_example(page, name)` opens an example workflow and returns its prompt (API format)."""

    def load(page: Any, name: str) -> dict[str, Any]:
        path = repository / "example_workflows" / f"{name}.json"
        return front_end.load_workflow(page, json.loads(path.read_text(encoding="utf-8")))

    return load


@pytest.fixture(scope="session")
def prompts(browser: Any, server: ComfyServer, load_example: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Name of each example workflow -> prompt that the front end makes of it."""
    page = front_end.open_front_end(browser, server)
    found = {}
    for name in WORKFLOWS:
        page.wait_for_function(front_end.READY)
        found[name] = load_example(page, name)
    page.close()
    return found


@pytest.fixture(scope="session")
def ran(server: ComfyServer, prompts: dict[str, dict[str, Any]]) -> Callable[[str], PromptResult]:
    """`ran(name)` runs an example workflow, once for all tests, shorter where quality is not tested."""
    results: dict[str, PromptResult] = {}

    def run(name: str) -> PromptResult:
        if name not in results:
            results[name] = server.run(shortened(name, prompts[name]))
        return results[name]

    return run
