"""What connector and reasoning editor of the pocket world are trained on: the reader's states, kept once, and the text states of what wishes mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.reasoning.connector import config_for, new_connector
from instructbrush.tools.pocket.reasoning_stages import cache_reason, train_reason
from instructbrush.tools.pocket.reasoning_stages.train_reader import READER_TARGET
from instructbrush.tools.pocket.world.photos import SOURCES, Photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """One photograph, which the shards below do not use."""
    folder, source = tmp_path_factory.mktemp("photos"), next(source for source in SOURCES if not source.held)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)).save(
        folder / f"{Path(source.file).stem}.png"
    )
    return Photos(folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, photos):
    """Editor, reader and small shards: four images with their chats, four wishes."""
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
        editor, reader = load_editor(), load_mllm(READER_TARGET)
        cache_reason.make_shard(0, editor, reader, photos)
        cache_reason.make_wishes(0, reader)
        pairs = train_reason.ReasonPairs(editor, reader.fingerprint, [0])
        shard = cache_reason.load_shard(cache_reason.wishes_path(0), reader.fingerprint)
        with pytest.raises(ValueError, match="another reader's states. Delete .* and run cache_reason again"):
            cache_reason.load_shard(cache_reason.shard_path(0), "another")
        whole = torch.load(cache_reason.shard_path(0), weights_only=True)
    return editor, reader, pairs, shard, whole


def test_what_is_shipped_is_small_and_leaves_keys_and_values_alone():
    folders = (READER_TARGET, train_reason.REASON_TARGET)
    assert (
        sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) <= 20e6
    )
    with safe_open(train_reason.REASON_TARGET / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if ".attn2.to_k." in name or ".attn2.to_v." in name]  # noqa: SIM118


def test_a_wish_means_the_instruction_that_fulfils_it_and_an_instruction_itself(parts):
    editor, _, pairs, _, whole = parts
    assert len(pairs.indirect) == 4 and len(pairs.direct) == 4 * (1 + cache_reason.OTHERS)
    for chats, after in ((pairs.indirect, 1), (pairs.direct, 0)):
        before, wanted, (text, _, _, meant) = pairs.take(chats, "cpu")
        expected = editor.encode_text([whole["words"][chat + after] for chat in chats])
        assert torch.allclose(meant, expected, atol=2e-3) and torch.equal(text, meant) == (after == 0)
        fulfils = [pairs.rows[chat + after] for chat in chats]
        assert [pairs.rows[chat] for chat in chats] == fulfils
        assert torch.equal(before, pairs.latents[[row for row, _ in fulfils], 0].float()) and not torch.equal(
            before, wanted
        )


def test_kept_states_are_those_of_a_fresh_look(parts, photos, monkeypatch):
    monkeypatch.setattr(cache_reason, "PHOTO_SHARE", 0)
    _, reader, pairs, _, whole = parts
    chat = pairs.indirect[-1]
    _, _, (_, states, mask, _) = pairs.take([chat], "cpu")
    rng = np.random.default_rng((43, 0))  # the shard's; its last image is drawn again
    images, chats, _ = [cache_reason.draw(rng, photos) for _ in range(4)][-1]
    assert chats[0][0] == whole["words"][chat]
    fresh, own = reader.states([torch.from_numpy(images[0])], [chats[0][0]])
    assert bool(mask.all()) and states.shape[1] == int(own.sum())
    assert torch.allclose(states[0], fresh[0, : states.shape[1]], atol=0.02)


def test_the_connector_learns_what_is_meant(parts):
    """Untrained it gives the words' own states; a few steps bring it nearer to what is meant."""
    editor, reader, _, shard, _ = parts
    torch.manual_seed(0)
    connector = new_connector(config_for(editor.description.family, reader.width))
    wishes = train_reason.Wishes(editor, [shard])
    meaning = wishes.draw(np.random.default_rng(1), 4, "cpu")
    with torch.no_grad():
        before = float(train_reason.meant_error(connector, meaning))
    assert before == pytest.approx(float((meaning[0] - meaning[3]).square().mean()), rel=1e-5)
    optimizer = torch.optim.AdamW(connector.parameters(), lr=1e-3)
    for _ in range(20):
        loss = train_reason.meant_error(connector, meaning)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(train_reason.meant_error(connector, meaning)) < 0.7 * before
