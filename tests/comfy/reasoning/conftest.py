"""A tiny MLLM and a connector in ComfyUI's model folders, and an empty cache of states."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from instructbrush.tests.comfy.graphs import make_image
from instructbrush.tests.comfy.reasoning.reasoning_graphs import ANSWER, CONNECTOR, WISH, make_connector
from instructbrush.tests.support import tiny_mllms


@dataclass(frozen=True)
class Models:
    """Where the models are."""

    mllm_folder: Path
    connector_file: Path


@pytest.fixture(scope="session")
def trained_mllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA that answers ``WISH`` for the image of seed 1."""
    folder = tmp_path_factory.mktemp("mllm") / "tiny"
    return tiny_mllms.train_llava(folder, [(make_image(1)[0], WISH, ANSWER)], 200)


@pytest.fixture(scope="module", autouse=True)
def models(comfy: Any, trained_mllm: Path) -> Iterator[Models]:
    """The MLLM and a connector for it, in ComfyUI's model folders."""
    root = Path(comfy.folder_paths.models_dir)
    folder = Path(shutil.copytree(trained_mllm, root / "mllm" / "tiny"))
    save_connector = comfy.pack("core.reasoning.connector").save_connector
    file = save_connector(make_connector(comfy, folder), root / "connectors" / CONNECTOR)
    yield Models(folder, file)
    shutil.rmtree(folder)
    file.unlink()


@pytest.fixture
def states_folder(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of states, used instead of the user's."""
    folder = tmp_path / "states"
    store = comfy.pack("core.reasoning.state_cache").StateStore(folder)
    monkeypatch.setattr(comfy.pack("nodes.comfy.encoders.mllms"), "store", lambda: store)
    return folder
