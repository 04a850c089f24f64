"""Types of instructions."""

import pytest

from instructbrush.core.generation.ultraedit.edit_types import EDIT_TYPES, edit_type
from instructbrush.core.generation.ultraedit.examples import seed_examples

CASES = {
    "change color": (
        "Change the color of the frisbee to blue",
        "make the sofa bright red",
        "paint the wall",
        "change the jersey to a dark green",
        "Make the image black and white",
    ),
    "change global": (
        "Change the background to a bustling cityscape at night",
        "Make it a snowy winter landscape",
        "make it look like a sketch",
        "change the season to winter",
        "let it snow",
    ),
    "change local": (
        "change the car to a red truck",
        "change the forest to a field of lavender",
        "give the cat a hat",
        "make the bubbles glow in the dark",
        "make the star bigger and paint the sky red",
    ),
    "transform global": ("Transform the scene into a painting", "convert the photo into a mosaic"),
    "transform local": ("Transform the slipper into a glass one", "transform the field into a lake"),
    "add": ("Add a warm, inviting atmosphere to the image", "put a hat on the dog", "Please add rain"),
    "replace": ("replace the background with a city skyline", "swap the dog for a cat"),
    "turn": ("Turn the skateboard into a flying carpet", "turn it into night", "turn the sky red"),
    "others": ("Remove the bed", "blur the image", "", "a red circle", "¿?"),
}


@pytest.mark.parametrize("kind", EDIT_TYPES)
def test_names_the_type_by_verb_and_object(kind: str) -> None:
    assert {words: edit_type(words) for words in CASES[kind]} == dict.fromkeys(CASES[kind], kind)


def test_every_type_has_hand_written_examples() -> None:
    assert {edit_type(example.instruction) for example in seed_examples()} == set(EDIT_TYPES)
