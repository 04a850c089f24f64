"""The world of indirect wishes that the pocket reader is taught on, and the reader's tokenizer and batches."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import numpy as np
import pytest
import torch

from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.core.models.tokenizer import tokenizer_from_folder
from instructbrush.tools.pocket.models import reader as pocket_reader
from instructbrush.tools.pocket.models.patch_labels import Sight, load_tower, patch_states
from instructbrush.tools.pocket.reasoning_stages import cache_reason, train_reader
from instructbrush.tools.pocket.wishes.explicit_edits import TONES, understood
from instructbrush.tools.pocket.wishes.kinds import DEPENDENT, INDEPENDENT, MAKERS
from instructbrush.tools.pocket.wishes.scene_questions import sample_question
from instructbrush.tools.pocket.wishes.wishes import DIRECT, holds_unseen, sample_direct, sample_wish
from instructbrush.tools.pocket.wishes.wordings import WORDS, every_wording, wordings

CLIP_WORDS = 30
"""Tokens of the pocket editor's text window, start and end left out."""


def words_in(texts: list[str]) -> set[str]:
    return set(re.findall(r"[a-z0-9'-]+", " ".join(texts).lower()))


@pytest.fixture(scope="module")
def samples():
    """Some wishes of every kind."""
    rng = np.random.default_rng(1)
    return {kind: [sample_wish(rng, kind) for _ in range(8)] for kind in MAKERS}


def test_there_are_wishes_enough():
    assert len(MAKERS) >= 25
    assert len(DEPENDENT) >= 10
    assert set(MAKERS) == set(WORDS)
    for kind in WORDS:
        assert len(wordings(kind)) >= 3
        assert len(wordings(kind, held_out=True)) >= 1


def test_held_out_wordings_are_not_trained_on_but_their_words_are():
    trained, held_out = every_wording(), every_wording(held_out=True)
    assert not set(trained) & set(held_out)
    assert words_in(held_out) <= words_in(trained)
    assert len(set(trained)) == len(trained)  # no words ask for two kinds of edits


def test_wishes_name_no_edit():
    assert not [text for text in every_wording() + every_wording(True) if understood(text) is not None]


def test_the_words_fit_the_text_window(samples):
    clip = tokenizer_from_folder(POCKET_FOLDER / "tokenizer")
    texts = (
        every_wording()
        + every_wording(True)
        + [wish.instruction for several in samples.values() for wish in several]
    )
    assert max(len(clip(text, add_special_tokens=False).input_ids) for text in texts) <= CLIP_WORDS


def test_every_wish_is_consistent(samples):
    for kind, several in samples.items():
        for wish in several:
            assert wish.kind == kind
            assert wish.words in every_wording()
            assert understood(wish.instruction) == wish.meaning
            assert json.loads(wish.answer) == {"instruction": wish.instruction, "reason": wish.reason}
            for image in (wish.before, wish.after):
                assert image.shape == (128, 128, 3)
                assert image.dtype == np.float32
                assert 0 <= image.min()
                assert image.max() <= 1
            assert np.abs(wish.after - wish.before).max() > 0.1
            assert not holds_unseen(wish.scene)
            target = wish.meaning[1]
            if target not in ("", "it", "left", "right"):
                assert [thing.shape for thing in wish.scene.things].count(
                    target
                ) == 1  # the instruction names one thing


def test_the_image_decides_where_it_is_said_to(samples):
    rng = np.random.default_rng(2)
    for kind, several in samples.items():
        meant = {wish.instruction for wish in several}
        for _ in range(12):
            if kind in DEPENDENT and len(meant) < 2:
                meant.add(sample_wish(rng, kind).instruction)
        assert (len(meant) > 1) == (kind in DEPENDENT), kind
        assert all(wish.image_dependent == (kind in DEPENDENT) for wish in several)
    assert not set(DEPENDENT) & set(INDEPENDENT)


def test_the_odd_one_comes_to_match():
    rng = np.random.default_rng(3)
    for _ in range(10):
        wish = sample_wish(rng, "odd_one")
        kind, target, value = wish.meaning
        others = [thing for thing in wish.scene.things if thing.shape != target]
        assert len(others) == 2
        assert {thing.colour_name if kind == "recolor" else thing.shape for thing in others} == {value}


def test_hours_pass_differently_by_day_at_noon_and_inside():
    rng = np.random.default_rng(4)
    by_place = defaultdict(set)
    for _ in range(40):
        wish = sample_wish(rng, "hours_passed")
        place = "inside" if wish.scene.background != "ground" else "day" if wish.scene.sun is None else "noon"
        by_place[place].add(wish.meaning[0])
    assert by_place == {"inside": {"darker"}, "day": {"night"}, "noon": {"sunset"}}


def test_seeds_reproduce():
    first, second, other = (sample_wish(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert (first.words, first.instruction, first.caption) == (
        second.words,
        second.instruction,
        second.caption,
    )
    assert np.array_equal(first.before, second.before)
    assert np.array_equal(first.after, second.after)
    assert not np.array_equal(first.before, other.before)


def test_held_out_wishes_use_held_out_wordings():
    rng = np.random.default_rng(7)
    wishes = [sample_wish(rng, held_out=True) for _ in range(60)]
    assert {wish.words for wish in wishes} <= set(every_wording(held_out=True))
    assert any(holds_unseen(wish.scene) for wish in wishes)


def test_direct_instructions_are_their_own_answer():
    wish = sample_direct(np.random.default_rng(8))
    assert wish.kind == DIRECT
    assert json.loads(wish.answer)["instruction"] == wish.words
    assert not wish.image_dependent


def test_understood_reads_the_words_of_edits_only():
    assert understood("make the star red") == ("recolor", "star", "red")
    assert understood("Make it smaller.") == ("smaller", "it", "")
    assert understood("add a red star on the left") == ("add", "left", "red star")
    assert understood("make the background white") == ("background", "", "white")
    assert understood("turn the oval into a ring") == ("reshape", "oval", "ring")
    assert all(understood(words) == (kind, "", "") for kind, (words, _, _) in TONES.items())
    for text in ("", "make the odd one match", "make the star heavy", "make the left red star"):
        assert understood(text) is None


def test_questions_have_answers():
    rng = np.random.default_rng(9)
    asked = defaultdict(set)
    for _ in range(300):
        question, answer = sample_question(rng, sample_wish(rng, "odd_one").scene)
        assert answer
        asked[question].add(answer)
    assert len(asked) > 20
    assert asked["how many things are there"] == {"three"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Trained on fewer lines than the one that ships."""
    with pytest.MonkeyPatch.context() as patch:
        lines = pocket_reader.corpus(60)
        patch.setattr(pocket_reader, "corpus", lambda: lines)
        return pocket_reader.train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_the_tokenizer_gives_back_what_it_reads(tokenizer):
    said = sample_wish(np.random.default_rng(10)).answer
    assert tokenizer.decode(tokenizer(said).input_ids) == said
    assert (
        tokenizer.decode(tokenizer(" Zebras, naïve ones!").input_ids) == " zebras, naïve ones!"
    )  # refused is nothing
    every = [len(pocket_reader.prompt_ids(tokenizer, text)) for text in every_wording(True)]
    assert max(every) <= 20  # words are whole tokens


def test_the_written_folder_reads_a_chat_as_training_does(tokenizer, tmp_path):
    torch.manual_seed(2)
    model = pocket_reader.make_reader(tokenizer).half().float().eval()
    size = train_reader.write_reader(model, tokenizer, tmp_path / "reader")
    assert size < 6.5e6
    mllm = load_mllm(tmp_path / "reader")
    wish = sample_wish(np.random.default_rng(11))
    image, words = torch.from_numpy(wish.before), "it is freezing outside"
    ids = torch.tensor([pocket_reader.image_ids(tokenizer) + pocket_reader.prompt_ids(tokenizer, words)])
    with torch.no_grad():
        wanted = model.model(
            input_ids=ids, pixel_values=pocket_reader.pixel_values(wish.before[None])
        ).last_hidden_state
    for task in ("", "Some task. The wish:"):  # the reader's chat leaves it out
        states, mask = mllm.states([image], [words], task)
        assert mask.all()
        assert torch.allclose(states, wanted, atol=1e-4)
    said = pocket_reader.answers(model, tokenizer, wish.before[None], [words], most=8)[0]
    assert mllm.answer(image, words, 8) == said.strip()


def test_what_training_keeps_of_a_image_is_the_same_before_all_words(tokenizer):
    torch.manual_seed(3)
    model = pocket_reader.make_reader(tokenizer).eval()
    pixels = pocket_reader.pixel_values(sample_wish(np.random.default_rng(14)).before[None])
    start = pocket_reader.image_ids(tokenizer)
    assert len(start) == cache_reason.START
    with torch.no_grad():
        states = [
            model.model(
                input_ids=torch.tensor([start + pocket_reader.prompt_ids(tokenizer, words)]),
                pixel_values=pixels,
            ).last_hidden_state
            for words in ("make it night", "one of them cannot see anything")
        ]
    assert torch.allclose(states[0][:, : len(start)], states[1][:, : len(start)], atol=1e-5)


def test_chats_packed_beside_one_another_are_as_if_each_were_alone(tokenizer):
    torch.manual_seed(0)
    model = pocket_reader.make_reader(tokenizer).eval()
    wish = sample_wish(np.random.default_rng(12))
    chats = [
        (wish.words, wish.answer),
        ("make it night", "yes"),
        ("how many things are there", "two of them"),
    ]
    with torch.no_grad():
        alone = [pocket_reader.pack(tokenizer, wish.before[None], [[chat]]) for chat in chats]
        together = pocket_reader.pack(tokenizer, wish.before[None].repeat(2, 0), [chats, chats[:1]])
        losses = [float(pocket_reader.answer_loss(model, batch)) for batch in [*alone, together]]
        projected = model.model.multi_modal_projector(patch_states(model.model.vision_tower, together.pixels))
        assert float(pocket_reader.answer_loss(model, together, projected)) == pytest.approx(
            losses[3], rel=1e-5
        )
    counts = [int((batch.labels >= 0).sum()) for batch in alone]
    expected = sum(
        loss * count for loss, count in zip([*losses[:3], losses[0]], [*counts, counts[0]], strict=True)
    ) / (sum(counts) + counts[0])
    assert losses[3] == pytest.approx(expected, rel=1e-4)


def test_answers_are_what_a_chat_alone_would_give(tokenizer):
    torch.manual_seed(1)
    model = pocket_reader.make_reader(tokenizer).eval()
    rng = np.random.default_rng(13)
    wishes = [sample_wish(rng) for _ in range(3)]
    images, words = np.stack([wish.before for wish in wishes]), [wish.words for wish in wishes]
    together = pocket_reader.answers(model, tokenizer, images, words, most=6)
    alone = [
        pocket_reader.answers(model, tokenizer, image[None], [text], most=6)[0]
        for image, text in zip(images, words, strict=True)
    ]
    assert together == alone


def test_the_reader_is_small_and_its_tower_begins_as_one_that_sees(tokenizer):
    model = pocket_reader.make_reader(tokenizer)
    before = {name: tensor.clone() for name, tensor in model.model.vision_tower.state_dict().items()}
    pocket_reader.start_vision(model, load_tower().state_dict())
    after = model.model.vision_tower.state_dict()
    assert sum(parameter.numel() for parameter in model.parameters()) < 3.5e6
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("patch_embedding" in name for name in changed)


def test_patches_become_the_words_for_what_is_there(tokenizer):
    """A step down the loss tells more of the patches by the words of the language model itself; a blank image is background everywhere."""
    torch.manual_seed(2)
    pupil = train_reader.Pupil(tokenizer, Sight(load_tower()))
    images, chats, told = train_reader.draw(np.random.default_rng(15), 8)
    assert (
        len(set(pupil.names.tolist())) == len(pupil.names)
        and told[0].shape == (8, pocket_reader.IMAGE_TOKENS)
        and bool((told[0] > 0).any())
    )
    batch = pocket_reader.pack(tokenizer, images, chats)
    loss = pupil.loss(batch, told)
    loss.backward()
    projector = pupil.reader.model.multi_modal_projector.linear_2.weight
    apart = loss.item() - pocket_reader.answer_loss(pupil.reader, batch).item()
    with torch.no_grad():
        projector.sub_(0.1 * projector.grad / projector.grad.norm())
        assert pupil.loss(batch, told).item() - pocket_reader.answer_loss(pupil.reader, batch).item() < apart
