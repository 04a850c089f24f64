"""Which objects an instruction edits: the grammar, answers of models, the region, and the pocket models."""

import numpy as np
import pytest
import torch

from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.errors import InstructionError, RegionError
from instructbrush.core.models.builtin import POCKET_FINDER_FOLDER, POCKET_READER_FOLDER
from instructbrush.core.reasoning.edited_objects import edited_objects, named_objects, parse_objects
from instructbrush.core.reasoning.edited_region import edited_region
from instructbrush.core.reasoning.object_grammar import objects_of
from instructbrush.core.regions.clipseg import ClipSegFinder
from instructbrush.tools.pocket.wishes.explicit_edits import TONES
from instructbrush.tools.pocket.wishes.wishes import sample_wish

IMAGE = torch.full((32, 48, 3), 0.5)


class Scripted:
    """A model that reads tasks and gives prepared answers."""

    name = "scripted"
    reads_task = True

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def answer(self, image, words, max_new_tokens=200, task="", progress=None):
        self.asked.append((words, max_new_tokens, task))
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("instruction", "objects"),
    [
        ("make the star yellow", ["star"]),
        ("Make the red star light blue.", ["red star"]),
        ("make the star on the left bigger", ["star"]),
        ("make the old man look younger", ["old man"]),
        ("make the sky look like a sunset", ["sky"]),
        ("make the traffic light green", ["traffic light"]),
        ("make the background white", ["background"]),
        ("turn the sunglasses into a face mask", ["sunglasses"]),
        ("change the color of the hat to red", ["hat"]),
        ("replace the sky with a sunset", ["sky"]),
        ("please remove the hat from the star", ["hat"]),
        ("swap the dog and the cat", ["dog", "cat"]),
        ("paint the wall on the left blue", ["wall"]),
        ("paint stripes on the wall", ["wall"]),
        ("paint a smile on the star", ["star"]),
        ("paint a star on the left red", ["star"]),
        ("paint the flower on the wall", ["flower"]),
        ("paint walls in a warm tone", ["walls"]),
        ("add red stripes to the star", ["star"]),
        ("give the star a smile", ["star"]),
        ("let the man smile", ["man"]),
        ("tidy up the desk", ["desk"]),
        ("make the hat red and the star blue", ["hat", "star"]),
        ("make the star and the circle blue", ["star", "circle"]),
        ("make the star red and blue", ["star"]),
        ("make the star a big circle", ["star"]),
        ("make it a charcoal drawing", []),
        ("remove the hat and make the star blue", ["hat", "star"]),
        ("remove the clothes, the shoes and the books from the floor", ["clothes", "shoes", "books"]),
        ("remove the hat,", ["hat"]),
        ("remove the hat, please", ["hat"]),
        ("replace the cat, with a dog", ["cat"]),
        ("remove the 猫", ["猫"]),
        # Of the whole image, of no named object, or something is added or moved.
        ("make it night", []),
        ("make the whole picture warmer", []),
        ("invert the colors", []),
        ("increase the contrast of the image", []),
        ("make the light brighter", []),
        ("add a red hat to the star", []),
        ("give the star a hat", []),
        ("paint a flower on the wall", []),
        ("paint some clouds in the sky", []),
        ("paint flowers on the wall", []),
        ("paint a big red flower next to the dog", []),
        ("draw a flower on the wall", []),
        ("move the star to the left", []),
        ("make it night and remove the star", []),
        ("remove everything but the star", []),
        ("add eyes to the left", []),
        ("it should look like winter", []),
        ("asdf", []),
    ],
)
def test_grammar_finds_the_edited_objects(instruction, objects):
    assert objects_of(instruction) == objects


def test_grammar_agrees_with_the_targets_of_the_pocket_world():
    rng = np.random.default_rng(3)
    for kind in ("odd_one", "traffic_light", "equal_sizes", "too_crowded", "cheer_up", "cannot_see", "hide"):
        wish = sample_wish(rng, kind)
        assert wish.meaning is not None
        assert objects_of(wish.instruction) == [wish.meaning[1]]
    for kind in ("forgot_hat", "company", "framed", "sun_on_head"):
        assert objects_of(sample_wish(rng, kind).instruction) == []
    assert all(objects_of(words) == [] for words, _, _ in TONES.values())


@pytest.mark.parametrize(
    "answer",
    [
        "red hat, star",
        "the red hat, the star",
        "Red hat and star.".lower(),
        "Response: red hat, star",
        "The objects to be edited are: red hat, star.",
        "1. red hat\n2. star",
        "- the red hat\n- the star",
        '["red hat", "star"]',
        '{"objects": ["red hat", "star"]}',
        '{"objects": "red hat, star"}',
        "<think>the sky, the ground</think> red hat, star",
        "red hat, star, red hat",
    ],
)
def test_reads_objects_in_answers(answer):
    assert parse_objects(answer) == ["red hat", "star"]


@pytest.mark.parametrize(
    "answer", ["NONE", '"NONE"', "None.", "the whole image", "N/A", "Response: NONE", "[]"]
)
def test_reads_none_in_answers(answer):
    assert parse_objects(answer) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "it is empty"),
        ("...", "it is empty"),
        ("<think>hat", "it reached the token limit before it answered: allow more tokens"),
        (
            "I am sorry but I cannot tell which object this instruction is about",
            "'I am sorry but I cannot tell which object this instruction i' is no name of an object",
        ),
    ],
)
def test_rejects_answers_without_objects(answer, message):
    with pytest.raises(InstructionError) as caught:
        parse_objects(answer)
    assert str(caught.value) == message


def test_asks_the_model_with_ultraedits_prompt():
    model = Scripted("hat, star, circle")
    found = edited_objects("make the hat red", IMAGE, model, 50)
    assert found.objects == ("hat", "star")
    assert found.decision == "Edited: hat, star (decided by scripted)."
    assert found.remarks == ("Only the first 2 objects are used, without circle.",)
    ((words, tokens, task),) = model.asked
    assert (words, tokens) == ("make the hat red", 50)
    assert 'please respond with "NONE"' in task and "should not exceed 2" in task


def test_the_grammar_decides_without_a_usable_answer():
    found = edited_objects("make the hat red", IMAGE, Scripted(""))
    assert found.objects == ("hat",)
    assert found.decision == "Edited: hat (decided by the grammar)."
    assert found.remarks == ("scripted gave no usable answer (it is empty), so the grammar decides.",)


def test_says_that_the_whole_image_is_edited():
    found = edited_objects("make it night", IMAGE)
    assert (found.objects, found.remarks) == ((), ())
    assert found.decision == "The whole image: no object is named (decided by the grammar)."
    assert edited_objects("make the hat red", IMAGE, Scripted("NONE")).objects == ()


def test_objects_that_the_user_names_all_count():
    assert named_objects("the hat; red star, a sun, hat").objects == ("hat", "red star", "sun")


@pytest.mark.parametrize("instruction", ["", " \n"])
def test_rejects_an_empty_instruction(instruction):
    with pytest.raises(InstructionError, match="Find Edited Object: the instruction is empty. Write one"):
        edited_objects(instruction, IMAGE)


@pytest.fixture(scope="module")
def finder():
    return ClipSegFinder(POCKET_FINDER_FOLDER, name="pocket finder", thresholds=(0.5, 0.5))


def test_the_whole_image_is_white_and_needs_no_finder():
    region = edited_region(None, IMAGE, edited_objects("make it night", IMAGE))  # type: ignore[arg-type]
    assert region.mask.shape == region.box_mask.shape == (32, 48)
    assert region.mask.min() == region.box_mask.min() == 1
    assert region.objects == ()


@pytest.mark.parametrize(("when_missing", "value"), [("whole image", 1.0), ("empty", 0.0)])
def test_says_when_nothing_is_found(finder, when_missing, value):
    decided = named_objects("hat, star")
    region = edited_region(finder, IMAGE, decided, when_missing, (1.0, None))
    assert (region.mask == value).all() and (region.box_mask == value).all()
    colour = "white" if value else "empty"
    assert region.report.endswith(f"Nothing was found for hat and star, so the mask is {colour}.")


def test_stops_when_nothing_is_found(finder):
    with pytest.raises(
        RegionError, match="Find Edited Object: nothing was found for hat. Name the object in"
    ):
        edited_region(finder, IMAGE, named_objects("hat"), "stop", (1.0, None))


def test_pocket_models_find_the_object_that_a_wish_means(finder):
    reader = load_mllm(POCKET_READER_FOLDER)
    rng = np.random.default_rng(8)
    overlaps = []
    for _ in range(4):
        wish = sample_wish(rng, "traffic_light")
        image = torch.from_numpy(wish.before)
        decided = edited_objects(wish.words, image, reader)
        assert f"decided by the grammar from '{wish.instruction}'" in decided.decision
        region = edited_region(finder, image, decided)
        changed = np.abs(wish.after - wish.before).max(-1) > 0.02
        found = region.mask.numpy() > 0.5
        overlaps.append((found & changed).sum() / (found | changed).sum())
    assert np.mean(overlaps) > 0.4
