"""A server whose folders cannot be read or written still offers every node."""

import os
import shutil
from pathlib import Path

import pytest

from instructbrush.tests.support.node_names import NODES
from instructbrush.tools.comfy_server import ComfyServer


@pytest.fixture
def server(tmp_path: Path) -> ComfyServer:
    """A server that is not started yet, and that has no root rights: file modes apply to it."""
    server = ComfyServer(tmp_path, arguments=["--cpu"])
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip(
                "file modes do not apply to root, and setpriv (util-linux) is missing to drop root's rights"
            )
        server.command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *server.command]
    return server


def nodes_of(server: ComfyServer) -> set[str]:
    return {name for name in server.object_info() if name.startswith("InstructBrush")}


def test_all_nodes_load_with_folders_that_cannot_be_used(server: ComfyServer) -> None:
    models = server.base / "models"
    inputs = server.base / "input"
    away = server.base / "away"
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
            # A dangling link, because other nodes create the input folder if it is missing.
            inputs.symlink_to(server.base / "nowhere")
            assert nodes_of(server) == nodes_of(server) == set(NODES)
        log = server.log.read_text(encoding="utf-8", errors="replace")
        for message in (
            f"InstructBrush: folder {models / 'instructions'} cannot be made (",
            f"InstructBrush: folder {models / 'mllm' / 'private'} cannot be read (",
            f"InstructBrush: folder {inputs / 'lost+found'} cannot be read (",
            f"InstructBrush: ComfyUI's input folder {inputs} does not exist."
            " Load Edit Pairs lists only the pack's examples.",
        ):
            assert log.count(message) == 1, message
    finally:
        models.chmod(0o755)
        for folder in (models / "mllm" / "private", away / "lost+found", inputs / "lost+found"):
            if folder.exists():
                folder.chmod(0o755)
