"""The cache of vision-language models' states."""

import os

import pytest
import torch

from instructbrush.core.encoders.mllm import Mllm, load_mllm
from instructbrush.core.encoders.mllm_chat import STATES_TASK
from instructbrush.core.reasoning.state_cache import StateStore, cached_states, padded, state_key
from instructbrush.tests.support import tiny_mllms
from instructbrush.tests.unit.storage.mapped_files import assert_not_mapped

WORDS = ["make it night", "she prefers a face mask to sunglasses", "hm"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models by name."""
    root = tmp_path_factory.mktemp("mllms")
    return {"left": tiny_mllms.llava(root / "left"), "qwen": tiny_mllms.qwen2_vl(root / "qwen")}


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(*size, 3, generator=generator) for size in ((40, 56), (64, 64), (32, 32))]


class CountingMllm(Mllm):
    """Counts the chats that are computed."""

    computed = 0

    def states(self, images, texts, task=STATES_TASK):
        self.computed += len(texts)
        return super().states(images, texts, task)


def test_cached_states_are_not_computed_again(folders, images, tmp_path):
    model = CountingMllm(folders["left"])
    expected, mask = load_mllm(folders["left"]).states(images, WORDS)
    readied = []
    seen = []
    store = StateStore(tmp_path)
    chats = list(zip(images, WORDS, strict=True))
    first = cached_states(
        model,
        [*chats, chats[0]],
        store,
        at_once=2,
        ready=lambda: readied.append(1),
        progress=lambda *at: seen.append(at),
    )
    assert model.computed == 3 and readied == [1] and seen[-1] == (4, 4)
    torch.testing.assert_close(first[0][:3], expected, rtol=0, atol=1e-5)
    assert torch.equal(first[1][:3], mask) and torch.equal(first[0][3], first[0][0])
    # Neither this process nor a new one loads the weights again.
    fresh = CountingMllm(folders["left"])
    for model, kept in ((fresh, store), (fresh, StateStore(tmp_path))):
        again = cached_states(model, chats, kept, ready=lambda: pytest.fail("the model is not needed"))
        assert torch.equal(again[0], first[0][:3]) and torch.equal(again[1], mask)
    assert not fresh.loaded and not fresh.computed
    for file in tmp_path.iterdir():
        assert_not_mapped(file)


def test_state_key_depends_on_everything_that_matters(folders, images):
    model = load_mllm(folders["left"], lazily=True)
    keys = [
        state_key(model, images[0], WORDS[0]),
        state_key(model, images[1], WORDS[0]),
        state_key(model, images[0], WORDS[1]),
        state_key(model, images[0], WORDS[0], "another task"),
        state_key(load_mllm(folders["left"], dtype=torch.bfloat16, lazily=True), images[0], WORDS[0]),
        state_key(load_mllm(folders["qwen"], lazily=True), images[0], WORDS[0]),
        state_key(model, images[0].transpose(0, 1), WORDS[0]),
    ]
    assert len(set(keys)) == len(keys)
    assert state_key(model, images[0].clone(), f" {WORDS[0]}\n") == keys[0]


def test_state_store_is_bounded_and_survives_damage(tmp_path, caplog):
    entry = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    keys = [f"{number:064d}"[::-1] for number in range(8)]
    store = StateStore(tmp_path, most_bytes=1000, most_memory=300)
    for number, key in enumerate(keys):
        store.put(key, entry + number)
        os.utime(tmp_path / f"{key[:40]}.safetensors", (number, number))
    assert (
        2 <= len(list(tmp_path.glob("*.safetensors"))) < 8
        and len(store._recent) == 2
        and store._memory_used == 256
    )
    assert all(torch.equal(store.get(keys[number]), entry + number) for number in (6, 7))
    fresh = StateStore(tmp_path)
    assert torch.equal(fresh.get(keys[7]), entry + 7) and fresh.get(keys[0]) is None
    last = tmp_path / f"{keys[7][:40]}.safetensors"
    assert last.stat().st_mtime > 1e9, "using an entry makes it the newest"
    whole = last.read_bytes()
    for damage in (whole[:-3], b"", b"nonsense", whole.replace(keys[7].encode(), keys[6].encode())):
        last.write_bytes(damage)
        assert StateStore(tmp_path).get(keys[7]) is None
    StateStore(tmp_path, most_bytes=10).put(keys[1], entry)
    assert StateStore(tmp_path).get(keys[1]) is None
    (tmp_path / "file").write_text("")
    blocked = StateStore(tmp_path / "file" / "in it")
    blocked.put(keys[2], entry)
    assert torch.equal(blocked.get(keys[2]), entry) and "States of an MLLM could not be kept" in caplog.text


def test_pads_cached_states():
    states, mask = padded([torch.ones(2, 3).half(), torch.ones(4, 3).half()])
    assert (
        states.dtype == torch.float32
        and mask.tolist() == [[True, True, False, False], [True] * 4]
        and states.sum() == 18
    )
