"""Scripted endpoints on this machine, and models that ask them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instructbrush.core.generation.language.endpoint import EndpointSettings
from instructbrush.tools.build_demo.scripted_endpoint import ScriptedEndpoint


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedEndpoint]]:
    """`serve(answer, faults, ...)` starts a ScriptedEndpoint until the end of the test."""
    started: list[ScriptedEndpoint] = []

    def start(answer=lambda request: f"answer to {request.text}", *arguments, **options):
        started.append(ScriptedEndpoint(answer, *arguments, **options).__enter__())
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.__exit__(None, None, None)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., object]:
    """`model(endpoint, ...)` opens the model of an endpoint, with its answers in `tmp_path/answers`."""

    def open_model(endpoint: "ScriptedEndpoint | str", folder: Path = tmp_path / "answers", **options):
        address = endpoint if isinstance(endpoint, str) else endpoint.address
        settings = {"timeout": 5.0, "first_wait": 0.01, "tries": 3, **options}
        return EndpointSettings(address, settings.pop("model", "scripted"), **settings).open(folder)

    return open_model
