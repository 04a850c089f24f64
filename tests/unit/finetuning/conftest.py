"""Fixtures of the fine-tuning tests: accelerate on the CPU, small data sets, runs, and a tiny MLLM."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.encoders.mllm_chat import STATES_TASK
from instructbrush.core.finetuning.accelerator import make_accelerator
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.finetuning.objective import DenoisingLoss, EditInputs
from instructbrush.core.finetuning.reasoning.pair_states import (
    LazyMllm,
    NeededStates,
    PairStates,
    load_or_compute_states,
)
from instructbrush.core.finetuning.reasoning.text_selection import TextSelection
from instructbrush.core.finetuning.reasoning.with_connector import ConnectorStream
from instructbrush.core.finetuning.settings import FineTuningSettings
from instructbrush.core.finetuning.stream import EditStream
from instructbrush.core.finetuning.trainer import FineTuning
from instructbrush.core.reasoning.connector import Connector, config_for, new_connector
from instructbrush.tests.support import seeded, tiny_edits, tiny_mllms, tuning

SMALL = FineTuningSettings(steps=4, batch=2, accumulation=2, learning_rate=3e-4, warmup=2, average_decay=0.9)
REASONING_PAIRS = 6


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from tuning.on_the_cpu(monkeypatch)


@pytest.fixture(scope="session")
def region_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of pairs with masks."""
    return tiny_edits.write_tables(tmp_path_factory.mktemp("ultra"))


@pytest.fixture(scope="session")
def wide_editor() -> DiffusersEditor:
    """The pocket editor with untrained input channels for a mask."""
    return load_editor(in_channels=12)


@pytest.fixture(scope="session")
def write_plain_model() -> Callable[..., Path]:
    """Writes a model with Stable Diffusion 1.5's layout and few channels."""

    def write(folder: Path, in_channels: int = 4) -> Path:
        config = {**seeded.SMALL_SD15, "in_channels": in_channels}
        seeded.write_folder(folder, 3, config, text={**seeded.SMALL_CLIP, "vocab_size": 49408})
        seeded.write_tokenizer(folder / "tokenizer")
        return folder

    return write


@pytest.fixture(scope="session")
def small_settings() -> FineTuningSettings:
    return SMALL


@pytest.fixture
def make_run(region_data: Path) -> Callable[..., FineTuning]:
    """Makes a run on the pocket editor with a mask."""

    def make(settings: FineTuningSettings = SMALL, checkpointing: bool = False) -> FineTuning:
        editor = load_editor(in_channels=12)
        unet = editor.denoiser.unet.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        return FineTuning(
            make_accelerator("no", settings.accumulation),
            DenoisingLoss(unet),
            EditInputs(editor, settings.seed, settings.dropout),
            EditStream(find_blocks([region_data]), 64, settings.seed),
            settings,
            {"model": "pocket"},
        )

    return make


@pytest.fixture(scope="session")
def mllm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny LLaVA."""
    return tiny_mllms.llava(tmp_path_factory.mktemp("mllm") / "tiny-llava")


@pytest.fixture(scope="session")
def reasoning_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables of pairs with two, one or no indirect instructions. The first pair is wider than high."""
    folder = tmp_path_factory.mktemp("pairs")
    content = tiny_edits.with_reasoning(tiny_edits.rows(REASONING_PAIRS))
    before, after, _ = tiny_edits.images(0, 64, 96)
    content[0].update(
        source_image=tiny_edits.png(before), edited_image=tiny_edits.png(after), mask_image=None
    )
    tiny_edits.write_table(folder / "a.parquet", content[:4])
    tiny_edits.write_table(folder / "b.parquet", content[4:])
    return folder


@pytest.fixture(scope="session")
def compute_states() -> Callable[..., PairStates]:
    """Returns the states of all pairs of a data set; computes missing ones."""

    def compute(folder: Path, mllm_folder: Path, data: Path, indirect: float = 0.5) -> PairStates:
        source = LazyMllm(mllm_folder.name, STATES_TASK, lambda: load_mllm(mllm_folder, lazily=True), 3)
        needed = NeededStates(TextSelection(indirect), find_blocks([data]), [])
        return load_or_compute_states(folder, source, needed, make_accelerator("no", 1))

    return compute


@pytest.fixture(scope="session")
def states(
    tmp_path_factory: pytest.TempPathFactory,
    mllm_folder: Path,
    reasoning_data: Path,
    compute_states: Callable[..., PairStates],
) -> PairStates:
    """The states of all pairs of ``reasoning_data``. Tests must not change the folder."""
    with pytest.MonkeyPatch.context() as patch:
        on_the_cpu = tuning.on_the_cpu(patch)
        next(on_the_cpu)
        found = compute_states(tmp_path_factory.mktemp("states"), mllm_folder, reasoning_data)
        next(on_the_cpu, None)
    return found


@pytest.fixture
def states_copy(states: PairStates, tmp_path: Path) -> Path:
    """A folder with the states of ``reasoning_data`` that the test may change."""
    return Path(shutil.copytree(states.folder, tmp_path / "states"))


@pytest.fixture
def connector_stream(reasoning_data: Path, states: PairStates) -> ConnectorStream:
    return ConnectorStream(find_blocks([reasoning_data]), 64, 0, TextSelection(0.5), states)


@pytest.fixture
def trained_connector(editor: DiffusersEditor, mllm_folder: Path) -> Connector:
    """A connector that changes the text states."""
    mllm = load_mllm(mllm_folder, lazily=True)
    config = config_for(
        editor.description.family, mllm.width, mllm_name=mllm.name, mllm_fingerprint=mllm.fingerprint
    )
    connector = new_connector(config)
    torch.nn.init.normal_(connector.project_out.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return connector


@pytest.fixture
def write_pair(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder below ``tmp_path`` with one pair, whose list entry has some changes."""

    def write(name: str, **changes: Any) -> Path:
        folder = tiny_edits.write_folder(tmp_path / name, 1)
        (entry,) = json.loads((folder / "pairs.json").read_text())
        (folder / "pairs.json").write_text(json.dumps([{**entry, **changes}]))
        return folder

    return write
