"""Which found objects are kept: by score, by number, and by a user's clicks."""

import pytest
import torch

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.boxes import Box
from instructbrush.core.regions.finder import FoundObject, ObjectChoice, chosen_objects, object_key


def found(phrase: str, score: float, left: float) -> FoundObject:
    return FoundObject(phrase, score, Box(left, 0, left + 10.4, 20), torch.ones(4, 4))


OBJECTS = [found("hat", 0.9, 0), found("hat", 0.7, 30), found("ball", 0.6, 60), found("ball", 0.4, 80)]
KEYS = [object_key(0, each) for each in OBJECTS]


def kept(threshold=0.5, most=20, out=(), included=(), image=0):
    choice = ObjectChoice(frozenset(out), frozenset(included))
    return [OBJECTS.index(each) for each in chosen_objects(OBJECTS, threshold, most, choice, image)]


def test_keys_name_image_words_and_box():
    assert KEYS[1] == "0|hat|30,0,40,20" and object_key(3, OBJECTS[0]) == "3|hat|0,0,10,20"


def test_keeps_the_best_above_the_threshold():
    assert kept() == [0, 1, 2] and kept(0.6) == [0, 1] and kept(0.0) == [0, 1, 2, 3] and kept(1.0) == []
    assert kept(most=2) == [0, 1]


def test_leaves_out_and_includes_what_the_user_clicked():
    assert kept(out=[KEYS[0]]) == [1, 2]
    # The place of an object that is left out stays empty.
    assert kept(out=[KEYS[0]], most=2) == [1]
    assert kept(included=[KEYS[3]]) == [0, 1, 2, 3] and kept(0.95, included=[KEYS[3]]) == [3]
    assert kept(out=[KEYS[0]], image=1) == [0, 1, 2] and kept(included=["0|hat|1,1,2,2"]) == [0, 1, 2]


def test_reads_a_selection():
    assert ObjectChoice.parse("") == ObjectChoice.parse("{}") == ObjectChoice()
    read = ObjectChoice.parse('{"out": ["a"], "in": ["b", "c"]}')
    assert (read.left_out, read.included) == ({"a"}, {"b", "c"})


@pytest.mark.parametrize("text", ["[]", "{", '{"out": "a"}', '{"in": [1]}', "[" * 9000, "x" * 2_000_000])
def test_rejects_what_is_no_selection(text):
    with pytest.raises(RegionError, match="the chosen boxes cannot be read"):
        ObjectChoice.parse(text)
