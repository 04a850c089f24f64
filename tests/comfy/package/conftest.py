"""Fixtures for tests of start-up and of lists of files."""

import asyncio
import logging
import os

import pytest

from instructbrush.tests.support.node_names import NODES


@pytest.fixture
def schemas(comfy):
    """`schemas()` describes all nodes as GET /object_info does."""
    return lambda: {name: comfy.nodes[name].GET_NODE_INFO_V1() for name in NODES}


@pytest.fixture
def load_pack(comfy):
    """`load_pack()` asks the pack for its nodes, as ComfyUI does at start-up, and returns their ids."""

    def load():
        extension = asyncio.run(comfy.pack().comfy_entrypoint())
        asyncio.run(extension.on_load())
        return [node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())]

    return load


@pytest.fixture
def warnings(caplog):
    """`warnings()` returns the messages of all warnings and errors so far."""
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "root" and record.levelno >= logging.WARNING
    ]


@pytest.fixture
def listing(comfy):
    """The module that lists folders, without cached folders and earlier warnings."""
    module = comfy.pack("nodes.comfy.folders.listing")
    module._cache.clear()
    module._warned.clear()
    return module


@pytest.fixture
def paths(comfy):
    """The module that lists instructions and pairs."""
    return comfy.pack("nodes.comfy.folders.paths")


@pytest.fixture
def unreadable(monkeypatch):
    """A set of folder names that cannot be read, like folders of another user."""
    names = set()
    scandir = os.scandir

    def refuse(path="."):
        if os.path.basename(path) in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return names
