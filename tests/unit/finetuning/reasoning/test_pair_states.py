"""States of an MLLM for all pairs: computed once, kept, and checked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from instructbrush.core.encoders import mllm as mllms
from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.errors import LearningError
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.finetuning.reasoning.pair_states import INDEX, PairStates
from instructbrush.core.finetuning.reasoning.text_selection import TextSelection
from instructbrush.core.finetuning.reasoning.with_connector import ConnectorStream
from instructbrush.tests.support import tiny_edits, tiny_mllms


def test_computes_states_from_the_whole_image_for_any_crop(
    mllm_folder: Path, reasoning_data: Path, states: PairStates, connector_stream: ConnectorStream
) -> None:
    mllm = load_mllm(mllm_folder)
    wide = find_blocks([reasoning_data])[0].records()[0]
    texts = TextSelection(0.5).of(wide)
    assert len(texts) == 3
    for words in texts:
        hidden, mask = mllm.states([wide.read().before], [words])
        assert mask.all()
        torch.testing.assert_close(states.of(wide, words).float(), hidden[0], rtol=0, atol=1e-5)
    indices = [
        index for index in range(12 * len(connector_stream)) if connector_stream.locate(index) == (0, 0)
    ]
    samples = [connector_stream.sample(index, connector_stream.record(index)) for index in indices]
    assert {sample.words for sample in samples} == set(texts)
    for sample in samples:
        assert sample.before.shape == (64, 64, 3)
        assert torch.equal(sample.states, states.of(wide, sample.words))
    assert len({sample.before.numpy().tobytes() for sample in samples}) > 3, "crops differ"


def test_draws_the_same_text_at_an_index_in_any_process(
    reasoning_data: Path, states: PairStates, connector_stream: ConnectorStream
) -> None:
    again = ConnectorStream(find_blocks([reasoning_data]), 64, 0, TextSelection(0.5), states)
    batches = again.batches(0, 2, process=1, processes=2)
    found = [sample for _ in range(4) for sample in next(batches)]
    batches.close()
    assert [sample.index for sample in found] == list(range(1, 16, 2))
    for sample in found:
        expected = connector_stream.sample(sample.index, connector_stream.record(sample.index))
        assert sample.words == expected.words
        assert torch.equal(sample.before, expected.before)


def test_loads_the_model_only_if_states_are_missing(
    mllm_folder: Path,
    reasoning_data: Path,
    states: PairStates,
    states_copy: Path,
    compute_states: Callable[..., PairStates],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[str] = []
    load_network = mllms.load_network

    def count_load(source: Any, *arguments: Any) -> Any:
        loads.append(source.name)
        return load_network(source, *arguments)

    monkeypatch.setattr(mllms, "load_network", count_load)
    assert compute_states(states_copy, mllm_folder, reasoning_data).keys == states.keys
    (states_copy / INDEX).unlink()  # As if the first run had been stopped early.
    assert compute_states(states_copy, mllm_folder, reasoning_data).keys == states.keys
    assert loads == []

    next(states_copy.glob("*.safetensors")).unlink()
    assert compute_states(states_copy, mllm_folder, reasoning_data).keys == states.keys
    assert loads == ["tiny-llava"]
    assert {file.name for file in states_copy.iterdir()} == {file.name for file in states.folder.iterdir()}

    more = tiny_edits.write_folder(tmp_path / "more", 2)
    both = compute_states(states_copy, mllm_folder, more)
    assert len(both.keys) == len(states.keys) + 1, "the second pair is in both data sets"
    assert both.data == (*states.data, TextSelection(0.5).digest(find_blocks([more])))
    assert compute_states(states_copy, mllm_folder, reasoning_data).keys == both.keys
    assert len(loads) == 2


def test_replaces_a_damaged_list_or_one_of_another_version(
    mllm_folder: Path,
    reasoning_data: Path,
    states: PairStates,
    states_copy: Path,
    compute_states: Callable[..., PairStates],
) -> None:
    index = states_copy / INDEX
    whole = json.loads(index.read_text())
    other_version = json.dumps({**whole, "version": "0"})
    incomplete = json.dumps({**whole, "reader": {"name": "x"}})
    for content in (other_version, "{", "[]", incomplete):
        index.write_text(content)
        assert PairStates.read(states_copy) is None
        assert compute_states(states_copy, mllm_folder, reasoning_data).keys == states.keys
    assert json.loads(index.read_text()) == whole


def test_rejects_states_of_another_model(
    reasoning_data: Path, states: PairStates, compute_states: Callable[..., PairStates], tmp_path: Path
) -> None:
    other = tiny_mllms.llava(tmp_path / "other", seed=1)
    message = (
        r"are those of 'tiny-llava' in float32 \(asked '.*'\), not of 'other' in float32 .*"
        r"a connector reads one MLLM\. Give --mllm and"
    )
    with pytest.raises(LearningError, match=message):
        compute_states(states.folder, other, reasoning_data)


def test_names_a_pair_whose_image_has_changed(states: PairStates, reasoning_data: Path) -> None:
    record = find_blocks([reasoning_data])[0].records()[0]
    other_image = tiny_edits.png(tiny_edits.images(9)[0])["bytes"]
    changed = replace(record, before=replace(record.before, content=other_image))
    message = (
        "^Pair 'a.parquet row 0': its states are no longer in '.*', or its image has changed. "
        "Delete .*states.json"
    )
    with pytest.raises(LearningError, match=message):
        states.of(changed, record.words)


def test_rejects_a_folder_that_cannot_be_written_to(
    mllm_folder: Path, reasoning_data: Path, compute_states: Callable[..., PairStates], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    message = "^States of the MLLM could not be kept in '.*file'. Check that the disk has room"
    with pytest.raises(LearningError, match=message):
        compute_states(tmp_path / "file", mllm_folder, reasoning_data)
