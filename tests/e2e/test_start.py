"""A real server whose folders are as they should not be: every node of the pack is there."""

import os
import shutil
from pathlib import Path

import pytest

from instructbrush.tests.comfy.package.test_nodes import NODES
from instructbrush.tools.comfy_server import ComfyServer


@pytest.fixture
def server(tmp_path: Path) -> ComfyServer:
    """Not started. Where this is root, the server runs without root's right to read and write everything, so that modes count as they do for others."""
    server = ComfyServer(tmp_path, arguments=["--cpu"])
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip(
                "root may read and write everything, and there is no setpriv (util-linux) to change that"
            )
        server.command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *server.command]
    return server


def nodes_of(server: ComfyServer) -> set[str]:
    return {name for name in server.object_info() if name.startswith("InstructBrush")}


def test_all_nodes_load_with_folders_that_cannot_be_used(server: ComfyServer) -> None:
    models, inputs, away = server.base / "models", server.base / "input", server.base / "away"
    (models / "mllm" / "private").mkdir(parents=True)
    (models / "LLM").symlink_to(server.base / "nowhere")
    (inputs / "lost+found").mkdir()
    (inputs / "ring").symlink_to(inputs)
    for folder in (models / "mllm" / "private", inputs / "lost+found"):
        folder.chmod(0)
    models.chmod(0o555)
    try:
        with server:
            assert nodes_of(server) == set(NODES)
            inputs.rename(away)
            # Another node would make a folder that is only missing.
            inputs.symlink_to(server.base / "nowhere")
            assert nodes_of(server) == nodes_of(server) == set(NODES)
        log = server.log.read_text(encoding="utf-8", errors="replace")
        for once in (
            f"InstructBrush: folder {models / 'instructions'} cannot be made (",
            f"InstructBrush: folder {models / 'mllm' / 'private'} cannot be read (",
            f"InstructBrush: folder {inputs / 'lost+found'} cannot be read (",
            f"InstructBrush: ComfyUI's input folder {inputs} is not there. Load Edit Pairs offers the pack's examples only.",
        ):
            assert log.count(once) == 1, once
    finally:
        models.chmod(0o755)
        for folder in (models / "mllm" / "private", away / "lost+found", inputs / "lost+found"):
            if folder.exists():
                folder.chmod(0o755)
