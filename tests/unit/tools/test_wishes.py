"""Indirect wishes for the pocket reader, and the reader's tokenizer and batches."""

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
from instructbrush.tools.pocket.models.patch_labels import PatchClassifier, load_tower, patch_states
from instructbrush.tools.pocket.reasoning_stages import cache_reason, train_reader
from instructbrush.tools.pocket.wishes.explicit_edits import TONES, parse_instruction
from instructbrush.tools.pocket.wishes.kinds import DEPENDENT, INDEPENDENT, MAKERS
from instructbrush.tools.pocket.wishes.scene_questions import sample_question
from instructbrush.tools.pocket.wishes.wishes import DIRECT, holds_unseen, sample_direct, sample_wish
from instructbrush.tools.pocket.wishes.wordings import WORDS, every_wording, wordings
from instructbrush.tools.pocket.world.drawing import SHAPES

# Tokens of the pocket editor's text window without start and end.
CLIP_WORDS = 30


def words_in(texts: list[str]) -> set[str]:
    return set(re.findall(r"[a-z0-9'-]+", " ".join(texts).lower()))


@pytest.fixture(scope="module")
def samples():
    """Eight wishes of every kind."""
    rng = np.random.default_rng(1)
    return {kind: [sample_wish(rng, kind) for _ in range(8)] for kind in MAKERS}


def test_has_enough_kinds_and_wordings_of_wishes():
    assert len(MAKERS) >= 25
    assert len(DEPENDENT) >= 10
    assert set(MAKERS) == set(WORDS)
    for kind in WORDS:
        assert len(wordings(kind)) >= 3
        assert len(wordings(kind, held_out=True)) >= 1


def test_holds_out_wordings_but_no_words():
    trained, held_out = every_wording(), every_wording(held_out=True)
    assert not set(trained) & set(held_out)
    assert words_in(held_out) <= words_in(trained)
    assert len(set(trained)) == len(trained)  # no wording belongs to two kinds


def test_wishes_name_no_edit():
    assert not [text for text in every_wording() + every_wording(True) if parse_instruction(text) is not None]


def test_words_fit_the_text_window(samples):
    clip = tokenizer_from_folder(POCKET_FOLDER / "tokenizer")
    instructions = [wish.instruction for wishes in samples.values() for wish in wishes]
    texts = every_wording() + every_wording(True) + instructions
    assert max(len(clip(text, add_special_tokens=False).input_ids) for text in texts) <= CLIP_WORDS


def test_wishes_have_consistent_words_meaning_and_images(samples):
    for kind, wishes in samples.items():
        for wish in wishes:
            assert wish.kind == kind
            assert wish.words in every_wording()
            assert parse_instruction(wish.instruction) == wish.meaning
            assert json.loads(wish.answer) == {"instruction": wish.instruction, "reason": wish.reason}
            for image in (wish.before, wish.after):
                assert image.shape == (128, 128, 3)
                assert image.dtype == np.float32
                assert 0 <= image.min()
                assert image.max() <= 1
            assert np.abs(wish.after - wish.before).max() > 0.1
            assert not holds_unseen(wish.scene)


def test_instructions_name_exactly_one_thing(samples):
    wishes = [wish for kind in samples for wish in samples[kind] if wish.meaning[1] in SHAPES]
    assert len(wishes) > 50
    for wish in wishes:
        assert [thing.shape for thing in wish.scene.things].count(wish.meaning[1]) == 1


def test_instruction_varies_exactly_for_image_dependent_wishes(samples):
    rng = np.random.default_rng(2)
    for kind, wishes in samples.items():
        instructions = {wish.instruction for wish in wishes}
        for _ in range(12):
            if kind in DEPENDENT and len(instructions) < 2:
                instructions.add(sample_wish(rng, kind).instruction)
        assert (len(instructions) > 1) == (kind in DEPENDENT), kind
        assert all(wish.image_dependent == (kind in DEPENDENT) for wish in wishes)
    assert not set(DEPENDENT) & set(INDEPENDENT)


def test_odd_one_takes_color_or_shape_of_the_others():
    rng = np.random.default_rng(3)
    for _ in range(10):
        wish = sample_wish(rng, "odd_one")
        kind, target, value = wish.meaning
        others = [thing for thing in wish.scene.things if thing.shape != target]
        assert len(others) == 2
        assert {thing.colour_name if kind == "recolor" else thing.shape for thing in others} == {value}


def test_hours_passed_depends_on_the_place():
    rng = np.random.default_rng(4)
    by_place = defaultdict(set)
    for _ in range(40):
        wish = sample_wish(rng, "hours_passed")
        outside = "day" if wish.scene.sun is None else "noon"
        place = outside if wish.scene.background == "ground" else "inside"
        by_place[place].add(wish.meaning[0])
    assert by_place == {"inside": {"darker"}, "day": {"night"}, "noon": {"sunset"}}


def test_equal_seeds_give_equal_wishes():
    first = sample_wish(np.random.default_rng(5))
    second = sample_wish(np.random.default_rng(5))
    other = sample_wish(np.random.default_rng(6))
    assert (first.words, first.instruction, first.caption) == (
        second.words,
        second.instruction,
        second.caption,
    )
    assert np.array_equal(first.before, second.before)
    assert np.array_equal(first.after, second.after)
    assert not np.array_equal(first.before, other.before)


def test_held_out_wishes_use_held_out_wordings_and_combinations():
    rng = np.random.default_rng(7)
    wishes = [sample_wish(rng, held_out=True) for _ in range(60)]
    assert {wish.words for wish in wishes} <= set(every_wording(held_out=True))
    assert any(holds_unseen(wish.scene) for wish in wishes)


def test_direct_instruction_is_its_own_answer():
    wish = sample_direct(np.random.default_rng(8))
    assert wish.kind == DIRECT
    assert json.loads(wish.answer)["instruction"] == wish.words
    assert not wish.image_dependent


def test_parses_explicit_instructions_only():
    assert parse_instruction("make the star red") == ("recolor", "star", "red")
    assert parse_instruction("Make it smaller.") == ("smaller", "it", "")
    assert parse_instruction("add a red star on the left") == ("add", "left", "red star")
    assert parse_instruction("make the background white") == ("background", "", "white")
    assert parse_instruction("turn the oval into a ring") == ("reshape", "oval", "ring")
    assert all(parse_instruction(words) == (kind, "", "") for kind, (words, _, _) in TONES.items())
    for text in ("", "make the odd one match", "make the star heavy", "make the left red star"):
        assert parse_instruction(text) is None


def test_questions_have_correct_answers():
    rng = np.random.default_rng(9)
    answers = defaultdict(set)
    for _ in range(300):
        question, answer = sample_question(rng, sample_wish(rng, "odd_one").scene)
        assert answer
        answers[question].add(answer)
    assert len(answers) > 20
    assert answers["how many things are there"] == {"three"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A reader tokenizer, trained on fewer lines than the shipped one."""
    with pytest.MonkeyPatch.context() as patch:
        lines = pocket_reader.corpus(60)
        patch.setattr(pocket_reader, "corpus", lambda: lines)
        return pocket_reader.train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_tokenizer_decodes_what_it_encodes(tokenizer):
    answer = sample_wish(np.random.default_rng(10)).answer
    assert tokenizer.decode(tokenizer(answer).input_ids) == answer
    # unknown words and characters
    assert tokenizer.decode(tokenizer(" Zebras, naïve ones!").input_ids) == " zebras, naïve ones!"


def test_tokenizer_keeps_known_words_whole(tokenizer):
    lengths = [len(pocket_reader.prompt_ids(tokenizer, text)) for text in every_wording(True)]
    assert max(lengths) <= 20


def test_exported_folder_gives_the_states_and_answers_of_training(tokenizer, tmp_path):
    torch.manual_seed(2)
    model = pocket_reader.make_reader(tokenizer).half().float().eval()
    size = train_reader.write_reader(model, tokenizer, tmp_path / "reader")
    assert size < 6.5e6
    mllm = load_mllm(tmp_path / "reader")
    wish = sample_wish(np.random.default_rng(11))
    image, words = torch.from_numpy(wish.before), "it is freezing outside"
    ids = torch.tensor([pocket_reader.image_ids(tokenizer) + pocket_reader.prompt_ids(tokenizer, words)])
    pixels = pocket_reader.pixel_values(wish.before[None])
    with torch.no_grad():
        expected = model.model(input_ids=ids, pixel_values=pixels).last_hidden_state
    for task in ("", "Some task. The wish:"):  # the chat template drops the task
        states, mask = mllm.states([image], [words], task)
        assert mask.all()
        assert torch.allclose(states, expected, atol=1e-4)
    answer = pocket_reader.answers(model, tokenizer, wish.before[None], [words], most=8)[0]
    assert mllm.answer(image, words, 8) == answer.strip()


def test_states_of_the_image_do_not_depend_on_the_words(tokenizer):
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


def test_packed_chats_have_the_loss_of_separate_chats(tokenizer):
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
        from_patches = float(pocket_reader.answer_loss(model, together, projected))
    assert from_patches == pytest.approx(losses[3], rel=1e-5)
    counts = [int((batch.labels >= 0).sum()) for batch in alone]
    counts.append(counts[0])  # the second image of the batch has the first chat again
    total = sum(loss * count for loss, count in zip([*losses[:3], losses[0]], counts, strict=True))
    assert losses[3] == pytest.approx(total / sum(counts), rel=1e-4)


def test_batched_answers_equal_single_answers(tokenizer):
    torch.manual_seed(1)
    model = pocket_reader.make_reader(tokenizer).eval()
    rng = np.random.default_rng(13)
    wishes = [sample_wish(rng) for _ in range(3)]
    images = np.stack([wish.before for wish in wishes])
    words = [wish.words for wish in wishes]
    together = pocket_reader.answers(model, tokenizer, images, words, most=6)
    alone = [
        pocket_reader.answers(model, tokenizer, image[None], [text], most=6)[0]
        for image, text in zip(images, words, strict=True)
    ]
    assert together == alone


def test_reader_is_small_and_starts_with_the_given_tower(tokenizer):
    model = pocket_reader.make_reader(tokenizer)
    assert sum(parameter.numel() for parameter in model.parameters()) < 3.5e6
    tower = load_tower().state_dict()
    pocket_reader.start_vision(model, tower)
    loaded = model.model.vision_tower.state_dict()
    assert len(loaded) == len(tower)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, tower[name.removeprefix("vision_model.")]), name


def test_patch_loss_falls_along_the_gradient_of_the_projector(tokenizer):
    torch.manual_seed(2)
    trainee = train_reader.ReaderTrainee(tokenizer, PatchClassifier(load_tower()))
    assert len(set(trainee.names.tolist())) == len(trainee.names)  # each name is one token
    images, chats, labels = train_reader.draw(np.random.default_rng(15), 8)
    assert labels[0].shape == (8, pocket_reader.IMAGE_TOKENS)
    assert (labels[0] > 0).any()
    batch = pocket_reader.pack(tokenizer, images, chats)
    loss = trainee.loss(batch, labels)
    loss.backward()
    projector = trainee.reader.model.multi_modal_projector.linear_2.weight
    before = loss.item() - pocket_reader.answer_loss(trainee.reader, batch).item()
    with torch.no_grad():
        projector.sub_(0.1 * projector.grad / projector.grad.norm())
        after = trainee.loss(batch, labels) - pocket_reader.answer_loss(trainee.reader, batch)
    assert after.item() < before
