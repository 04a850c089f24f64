"""Training data of the pocket connector and reasoning editor: cached reader states and meant text states."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.mllm import Mllm, load_mllm
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.finetuning.reasoning.first_stage import check_meanings
from instructbrush.core.reasoning.connector import config_for, new_connector
from instructbrush.tools.pocket.reasoning_stages import cache_reason, train_reason, write_pairs
from instructbrush.tools.pocket.reasoning_stages.train_reader import READER_TARGET
from instructbrush.tools.pocket.world.photos import SOURCES, Photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """One photograph. The shards of these tests do not use it."""
    folder = tmp_path_factory.mktemp("photos")
    source = next(source for source in SOURCES if not source.held)
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / f"{Path(source.file).stem}.png")
    return Photos(folder)


@dataclass
class Cache:
    """Editor, reader and small shards: four images with their chats, and four wishes."""

    editor: DiffusersEditor
    reader: Mllm
    pairs: train_reason.CachedChats
    path: Path
    shard: dict
    wishes: dict


@pytest.fixture(scope="module")
def cache(tmp_path_factory, photos):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "WORK": tmp_path_factory.mktemp("work"),
            "IMAGES": 4,
            "BATCH": 2,
            "WISHES": 4,
            "WISH_BATCH": 2,
            "PHOTO_SHARE": 0,
        }.items():
            patch.setattr(cache_reason, name, value)
        editor = load_editor()
        reader = load_mllm(READER_TARGET)
        cache_reason.make_shard(0, editor, reader, photos)
        cache_reason.make_wishes(0, reader)
        pairs = train_reason.CachedChats(editor, reader.fingerprint, [0])
        path = cache_reason.shard_path(0)
        shard = cache_reason.load_shard(path, reader.fingerprint)
        wishes = cache_reason.load_shard(cache_reason.wishes_path(0), reader.fingerprint)
    return Cache(editor, reader, pairs, path, shard, wishes)


def test_rejects_shards_of_another_reader(cache):
    with pytest.raises(ValueError, match="made with another reader. Delete .* and run cache_reason again"):
        cache_reason.load_shard(cache.path, "another")


def test_shipped_models_are_small_and_share_keys_and_values():
    folders = (READER_TARGET, train_reason.REASON_TARGET)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert 1e6 < sum(path.stat().st_size for path in files) <= 20e6
    with safe_open(train_reason.REASON_TARGET / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names
    assert not [name for name in names if ".attn2.to_k." in name or ".attn2.to_v." in name]


def test_meant_states_of_wishes_are_those_of_the_fulfilling_instruction(cache):
    pairs = cache.pairs
    assert len(pairs.indirect) == 4 and len(pairs.direct) == 4 * (1 + cache_reason.OTHERS)
    for chats, after in ((pairs.indirect, 1), (pairs.direct, 0)):
        before, result, (text, _, _, meant) = pairs.take(chats, "cpu")
        expected = cache.editor.encode_text([cache.shard["words"][chat + after] for chat in chats])
        assert torch.allclose(meant, expected, atol=2e-3)
        assert torch.equal(text, meant) == (after == 0)
        rows = [pairs.rows[chat + after] for chat in chats]
        assert [pairs.rows[chat] for chat in chats] == rows
        assert torch.equal(before, pairs.latents[[image for image, _ in rows], 0].float())
        assert not torch.equal(before, result)


def test_cached_states_equal_fresh_states(cache, photos, monkeypatch):
    monkeypatch.setattr(cache_reason, "PHOTO_SHARE", 0)
    chat = cache.pairs.indirect[-1]
    _, _, (_, states, mask, _) = cache.pairs.take([chat], "cpu")
    rng = np.random.default_rng((43, 0))  # the shard's seed: draws its last image again
    images, chats, _ = [cache_reason.draw(rng, photos) for _ in range(4)][-1]
    assert chats[0][0] == cache.shard["words"][chat]
    fresh, fresh_mask = cache.reader.states([torch.from_numpy(images[0])], [chats[0][0]])
    assert mask.all()
    assert states.shape[1] == int(fresh_mask.sum())
    assert torch.allclose(states[0], fresh[0, : states.shape[1]], atol=0.02)


def test_connector_learns_the_meant_states(cache):
    torch.manual_seed(0)
    connector = new_connector(config_for(cache.editor.description.family, cache.reader.width))
    wishes = train_reason.CachedWishes(cache.editor, [cache.wishes])
    meaning = wishes.draw(np.random.default_rng(1), 4, "cpu")
    with torch.no_grad():
        before = float(train_reason.meant_error(connector, meaning))
    # An untrained connector returns the states of the words.
    assert before == pytest.approx(float((meaning[0] - meaning[3]).square().mean()), rel=1e-5)
    optimizer = torch.optim.AdamW(connector.parameters(), lr=1e-3)
    for _ in range(20):
        loss = train_reason.meant_error(connector, meaning)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(train_reason.meant_error(connector, meaning)) < 0.7 * before


def test_written_pairs_can_train_a_connector(tmp_path: Path) -> None:
    write_pairs.write_tables(tmp_path / "pairs", write_pairs.Rows(1, wishes=0.5), 8)
    write_pairs.write_tables(tmp_path / "wishes", write_pairs.Rows(2, vary=True), 3)
    pairs, wishes = (
        [record for block in find_blocks([tmp_path / name]) for record in block.records()]
        for name in ("pairs", "wishes")
    )
    assert len(pairs) == 8
    assert 0 < sum(bool(record.reasoning) for record in pairs) < 8
    assert all(record.words and record.reasoning for record in wishes)
    check_meanings(find_blocks([tmp_path / "wishes"]))
    for record in (*pairs, *wishes):
        pair = record.read()
        assert pair.before.shape == (128, 128, 3)
        assert not torch.equal(pair.before, pair.after)
