"""Stage III: tags, edited objects and masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.images import as_png, read_cell
from instructbrush.core.generation.ultraedit.prompts import objects_prompt
from instructbrush.core.generation.ultraedit.regions import (
    FREE_FORM,
    REGION,
    MaskStage,
    ObjectStage,
    limits_for,
    parse_edited,
    region_mask,
)
from instructbrush.core.generation.ultraedit.tags import CaptionTags, ModelTags, parse_tags, things_of
from instructbrush.core.regions.boxes import Box
from instructbrush.core.regions.finder import FoundObject
from instructbrush.core.regions.finder_loading import load_finder
from instructbrush.tests.unit.generation.ultraedit.scripted import Scenes, Scripted, cell
from instructbrush.tools.build_demo.ultraedit_answers import answer

LIMITS = limits_for(64, 0.01, 0.5, 3)

MALFORMED = {
    "": "it is empty",
    "<think>the circle": "it only holds thoughts",
    "hat, circle, star": "names 3 objects",
    "The object that is most likely to change here is certainly the circle on the left": "is no name",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_objects_say_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=MALFORMED[text]):
        parse_edited(text)


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("NONE", []),
        ("none.", []),
        ("the image", []),
        ("The red hat, the dog", ["red hat", "dog"]),
        ("Response: circle", ["circle"]),
    ],
)
def test_reads_edited_objects(text: str, objects: list[str]) -> None:
    assert parse_edited(text) == objects


def row(instruction: str, data_type: str = REGION) -> dict:
    (scene,) = Scenes(1).rows(0, 1)
    words = {"source_caption": "a red circle on grass", "target_caption": "a blue circle on grass"}
    return {**cell(scene), **words, "edit_prompt": instruction, "data_type": data_type}


def test_asks_the_language_model_for_objects() -> None:
    model = Scripted()
    function = ObjectStage(model, CaptionTags(), False, 3)()
    (made,) = function(row("make the circle blue"))
    assert made == {"tags": ["red circle", "grass"], "edited_objects": ["red circle"]}
    assert function(row("make it night"))[0]["edited_objects"] == []
    expected = objects_prompt(
        "make the circle blue", "a red circle on grass", "a blue circle on grass", ["red circle", "grass"]
    )
    assert model.asked[0].text == expected
    assert answer(expected) == "red circle"


def test_free_form_rows_ask_nothing_and_get_no_mask() -> None:
    model = Scripted()
    free = row("make the circle blue", FREE_FORM)
    assert ObjectStage(model, CaptionTags(), True, 3)()(free) == [{"tags": [], "edited_objects": []}]
    assert not model.asked
    (made,) = MaskStage(load_finder, LIMITS, (0.2, 0.8))()({**free, "edited_objects": []})
    assert made == {"mask": None, "mask_softness": None, "mask_area": None}


def test_edits_without_an_object_are_of_the_whole_image_or_refused_beside_their_free_form_row() -> None:
    night = row("make it night")
    (made,) = ObjectStage(None, CaptionTags(), False, 3)()(night)
    (mask,) = MaskStage(load_finder, LIMITS, (0.2, 0.8))()({**night, **made})
    assert mask["mask_area"] == 1
    assert mask["mask"] == as_png(torch.ones(128, 128))
    with pytest.raises(Refused, match="has no object"):
        ObjectStage(None, CaptionTags(), True, 3)()(night)


@dataclass
class Found:
    """A finder of given objects."""

    objects: Sequence[FoundObject]
    known_nouns: Sequence[str] = ()
    name: str = "given"

    def find(self, image: Tensor, phrases: Sequence[str], *limits: object) -> list[FoundObject]:
        return [each for each in self.objects if each.phrase in phrases]


def finder(objects: Sequence[FoundObject]) -> Any:
    return Found(objects)


def found(phrase: str, top: int, left: int, bottom: int, right: int, step: int = 1) -> FoundObject:
    mask = torch.zeros(64, 64)
    mask[top:bottom:step, left:right:step] = 1
    return FoundObject(phrase, 0.9, Box(left, top, right, bottom), mask)


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([], "no edited object is found in the image"),
        ([found("ball", 10, 10, 14, 14)], "the mask is too small"),
        ([found("ball", 0, 0, 60, 60)], "the mask is too large"),
        ([found("ball", 0, 0, 64, 64, step=7)], "the mask is fragmented"),
        ([found("ball", 0, 0, 60, 60, step=15)], "the mask is fragmented"),
    ],
)
def test_refuses_masks_that_cannot_be_edited(objects: list[FoundObject], reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        region_mask(finder(objects), torch.zeros(64, 64, 3), ("ball",), LIMITS, 0.5)
    assert refusal.value.reason == reason
    assert "ball" in refusal.value.detail


def test_the_soft_mask_is_s_between_contour_and_box() -> None:
    thing = found("ball", 20, 20, 40, 40)
    thing.mask[20:30, 30:40] = 0
    speck = found("ball", 60, 60, 62, 62)
    mask, area = region_mask(finder([thing, speck]), torch.zeros(64, 64, 3), ("ball",), LIMITS, 0.3)
    assert area == pytest.approx(300 / 4096, rel=0.05)
    assert mask[35, 35] == mask[32, 22] == mask[24, 24] == 1
    # The contour is the hull of the L, two pixels wider, so the box's empty corner is soft.
    assert mask[21, 38] == pytest.approx(0.3)
    assert mask[45, 45] == mask[61, 61] == 0
    # Eq. 2: M_f inside, s on the rest of M_b, 0 elsewhere.
    assert {round(value, 6) for value in mask.unique().tolist()} == {0, 0.3, 1}


def test_parts_of_an_object_are_joined() -> None:
    parts = [found("ball", 20, 20, 40, 29), found("ball", 20, 31, 40, 40)]
    mask, _ = region_mask(finder(parts), torch.zeros(64, 64, 3), ("ball",), LIMITS, 0.3)
    assert (mask[20:40, 20:40] == 1).all()


def test_things_that_a_small_finder_confuses_are_left_out() -> None:
    ball = found("ball", 10, 10, 30, 30)
    other = replace(found("ball", 10, 44, 30, 60), score=0.8)
    image = torch.zeros(64, 64, 3)
    small: Any = Found([ball, other], known_nouns=("ball",))
    assert region_mask(small, image, ("ball",), LIMITS, 0.3)[0][20, 50] == 0
    assert region_mask(finder([ball, other]), image, ("ball",), LIMITS, 0.3)[0][20, 50] == 1


def test_softness_is_drawn_within_its_range_by_row() -> None:
    function = MaskStage(lambda: finder([found("ball", 10, 10, 40, 40)]), LIMITS, (0.2, 0.8))()
    image = as_png(torch.zeros(64, 64, 3))
    drawn = [
        function({"id": f"r{n}", "anchor": image, "data_type": REGION, "edited_objects": ["ball"]})[0][
            "mask_softness"
        ]
        for n in range(20)
    ]
    assert all(0.2 <= s <= 0.8 for s in drawn)
    assert max(drawn) - min(drawn) > 0.3


def test_names_things_of_captions() -> None:
    assert things_of("A brown dog sleeping on the old wooden porch, and two cats with a red ball") == [
        "brown dog",
        "old wooden porch",
        "cats",
        "red ball",
    ]
    assert things_of("a brick building in the evening") == ["brick building", "evening"]


def test_tags_name_what_the_finder_sees_once() -> None:
    (scene,) = Scenes(1, seed=3).rows(0, 1)
    tags = CaptionTags(load_finder)().tags(read_cell(scene["image"], "scene"), b"", "a picture")
    assert tags[0] == "picture"
    assert 1 < len(tags) < 9
    assert len(set(tags)) == len(tags)


def test_tags_leave_out_whole_words_of_the_caption_only() -> None:
    (scene,) = Scenes(1, seed=3).rows(0, 1)
    image, tagger = read_cell(scene["image"], "scene"), CaptionTags(load_finder)()
    assert "ground" in tagger.tags(image, b"", "a background")
    assert tagger.tags(image, b"", "green grass").count("grass") == 0


def test_vision_models_name_tags_and_their_answers_are_checked() -> None:
    model = Scripted(bad=9, text="The dog, a red Ball, dog", sees_images=True)
    assert ModelTags(model)().tags(torch.zeros(8, 8, 3), b"png", "") == ["dog", "red ball"]
    assert model.asked[0].image == b"png"
    for text in ("", "I can see a very beautiful brown dog in this image"):
        with pytest.raises(ValueError, match=r"empty|no name"):
            parse_tags(text)
