"""Captions, compared with an independent PEZ loop, and settings that are rejected."""

import re

import pytest
import torch
from torch.nn import functional

from instructbrush.core.encoders.clip_loading import open_clip_model
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import LearningError
from instructbrush.core.learning.init_text import captions
from instructbrush.core.learning.init_text.captions import (
    Caption,
    CaptionSettings,
    caption_images,
    default_steps,
)
from instructbrush.tests.support import tiny_clip


@pytest.fixture(scope="module")
def clip():
    return pocket_clip()


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    return open_clip_model(tiny_clip.NAME, tiny_clip.write(tmp_path_factory.mktemp("captions")))


@pytest.fixture(scope="module")
def circles():
    """Red circles on blue."""
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    images = []
    for radius in (20, 30):
        inside = ((x - 64) ** 2 + (y - 64) ** 2 < radius**2)[..., None]
        images.append(torch.where(inside, torch.tensor([0.85, 0.12, 0.12]), torch.tensor([0.12, 0.25, 0.85])))
    return images


def images_of(count, seed=0):
    return list(torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(seed)))


def independent_loop(clip, frames, tokens, steps, rate, decay, seed):
    """PEZ as in algorithm 1 of its paper, with the distance to every token. Returns the tokens of every
    iteration."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        images = torch.stack([clip.encode_images(frame[None])[0] for frame in frames])
        images = images / images.norm(dim=1, keepdim=True)
    vocabulary = clip.token_embedding
    usable = [index for index in range(len(vocabulary)) if index not in (clip.start_id, clip.end_id)]
    unit = vocabulary[usable] / vocabulary[usable].norm(dim=1, keepdim=True)
    soft = torch.nn.Parameter(
        vocabulary[[usable[i] for i in torch.randint(len(usable), (tokens,), generator=generator)]].clone()
    )
    optimizer = torch.optim.AdamW([soft], lr=rate, weight_decay=decay)
    history = []
    for _ in range(steps):
        with torch.no_grad():
            distances = 1 - (soft / soft.norm(dim=1, keepdim=True)) @ unit.T
            ids = [usable[int(place)] for place in distances.argmin(1)]
        history.append(tuple(ids))
        # Straight through: the value is the projection, the gradient goes to the free embedding.
        hard = soft + (vocabulary[ids] - soft).detach()
        sentence = torch.cat([vocabulary[[clip.start_id]], hard, vocabulary[[clip.end_id]]])[None]
        text = clip.encode_embeddings(sentence, tokens + 1)[0]
        image = images[int(torch.randperm(len(images), generator=generator)[0])]
        optimizer.zero_grad()
        (1 - torch.cosine_similarity(text, image, dim=0)).backward()
        optimizer.step()
    return history


@pytest.mark.parametrize("which", ["clip", "seeded"])
def test_matches_an_independent_loop(which, request, monkeypatch):
    model = request.getfixturevalue(which)
    images = images_of(3)
    looked_at = []
    read = captions.read_caption
    monkeypatch.setattr(
        captions, "read_caption", lambda clip, ids, targets: looked_at.append(ids) or read(clip, ids, targets)
    )
    found = caption_images(model, images, CaptionSettings(tokens=4, steps=25, seed=3))
    history = independent_loop(model, images, 4, 25, 0.1, 0.1, 3)
    assert len(set(history)) > 3, "nothing moved, so nothing was compared"
    # The texts that were judged are iterations of the loop, in its order, starting with the first.
    places = [history.index(ids) for ids in looked_at]
    assert places[0] == 0 and places == sorted(places) and found.ids in looked_at


def test_improves_on_its_first_text(clip, circles):
    seen = []
    found = caption_images(
        clip, circles, CaptionSettings(steps=120), lambda done, total, text: seen.append((done, total, text))
    )
    assert (
        [done for done, _, _ in seen] == list(range(1, 121))
        and {total for _, total, _ in seen} == {120}
        and seen[-1][2] == found.text
    )
    first = caption_images(clip, circles, CaptionSettings(steps=1))
    assert found.similarity > first.similarity + 0.2 and len(found.ids) == 10


def test_judges_a_text_as_the_tokenizer_reads_it(clip, circles):
    for seed in range(3):
        found = caption_images(clip, circles, CaptionSettings(steps=40, seed=seed))
        targets = functional.normalize(
            torch.cat([clip.encode_images(image[None]) for image in circles]), dim=-1
        )
        read = functional.normalize(clip.encode_texts([found.text]), dim=-1)[0]
        assert found.similarity == pytest.approx(float((targets @ read).mean()), abs=1e-6)
        assert found.exact == (tuple(clip.tokenize(found.text)) == found.ids)
        assert clip.start_id not in found.ids and clip.end_id not in found.ids


def test_reports_tokens_that_the_tokenizer_reads_otherwise(clip):
    vocabulary = clip._tokenizer._tokenizer.get_vocab()
    ids = tuple(vocabulary[piece] for piece in ("m", "a", "k", "e</w>"))
    targets = torch.ones(1, clip.text_projection.shape[1]) / clip.text_projection.shape[1] ** 0.5
    read = captions.read_caption(clip, ids, targets)
    assert (
        read.text == "make"
        and read.ids == ids
        and not read.exact
        and clip.tokenize("make") == [vocabulary["make</w>"]]
    )
    assert read.similarity == pytest.approx(
        float(targets[0] @ functional.normalize(clip.encode_texts(["make"]), dim=-1)[0])
    )
    whole = captions.read_caption(clip, tuple(clip.tokenize("make it night")), targets)
    assert whole.exact and whole.text == "make it night"
    assert Caption("ab", (1, 2), 0.5, True).describe() == "ab\nmean cosine 0.5000, 2 tokens"
    assert Caption("ab", (1, 2), 0.5, False).describe() == (
        "ab\nmean cosine 0.5000, 2 tokens; the tokenizer reads the text as other tokens than were found; "
        "the cosine is that of the text"
    )


def test_finds_the_same_words_with_the_same_seed(clip):
    images = images_of(2)
    one = caption_images(clip, images, CaptionSettings(steps=15, seed=5))
    two = caption_images(clip, images, CaptionSettings(steps=15, seed=5))
    other = caption_images(clip, images, CaptionSettings(steps=15, seed=6))
    assert one == two and one.ids != other.ids
    before = torch.get_rng_state()
    caption_images(clip, images, CaptionSettings(steps=2))
    assert torch.equal(before, torch.get_rng_state())


def test_accepts_images_of_several_sizes_and_batches(clip):
    images = [torch.rand(60, 90, 3), torch.rand(128, 128, 3), torch.rand(40, 40, 3)]
    for batch in (1, 2, 50):
        assert caption_images(clip, images, CaptionSettings(steps=3, batch=batch)).text


def test_can_fill_the_whole_window(clip):
    assert len(caption_images(clip, images_of(1), CaptionSettings(tokens=30, steps=2)).ids) == 30


def test_stops_when_the_user_cancels(clip):
    class CancelledError(Exception):
        pass

    def cancel(done, total, text):
        if done == 3:
            raise CancelledError

    with pytest.raises(CancelledError):
        caption_images(clip, images_of(1), CaptionSettings(steps=10), cancel)


def test_takes_the_default_steps_of_the_model(clip, seeded):
    assert (default_steps(clip), default_steps(seeded)) == (300, 3000)
    assert CaptionSettings() == CaptionSettings(
        tokens=10, steps=3000, learning_rate=0.1, weight_decay=0.1, batch=1
    )


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (0, {}, "Caption Init: there is no image. Give at least one pair."),
        (
            1,
            {"tokens": 0},
            "Caption Init: 0 tokens do not fit. Choose 1 to 30, the text window of this CLIP.",
        ),
        (
            1,
            {"tokens": 31},
            "Caption Init: 31 tokens do not fit. Choose 1 to 30, the text window of this CLIP.",
        ),
        (1, {"steps": 0}, "Caption Init: 0 steps are too few. Choose at least 1; 300 suit this CLIP."),
        (1, {"batch": 0}, "Caption Init: a batch of 0 images is too small. Choose at least 1."),
        (
            1,
            {"learning_rate": -1.0},
            "Caption Init: the learning rate -1.0 is out of range. Choose a number that is not negative; "
            "0.1 is Visii's.",
        ),
        (
            1,
            {"weight_decay": float("nan")},
            "Caption Init: the weight decay nan is out of range. Choose a number that is not negative; 0.1 "
            "is Visii's.",
        ),
    ],
)
def test_rejects_invalid_settings(clip, images, settings, message):
    with pytest.raises(LearningError, match="^" + re.escape(message) + "$"):
        caption_images(clip, images_of(images) if images else [], CaptionSettings(**settings))
