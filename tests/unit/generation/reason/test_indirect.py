import pytest

from instructbrush.core.generation.reason.indirect import check_indirect, different, same_thing

FACE_MASK = "turn the sunglasses into a face mask"


@pytest.mark.parametrize(
    ("text", "direct"),
    [
        ("she prefers a face mask to sunglasses", FACE_MASK),
        ("a dusty wind is coming up and she has to breathe", FACE_MASK),
        ("A company has planned a new project on clean energy.", "turn the factory into a wind turbine"),
        ("winter has come", "make it winter"),
        ("make sure that nobody catches her cold", FACE_MASK),
        ("he has a formal meeting to attend", "make him wear a suit"),
    ],
)
def test_accepts_indirect_instructions(text: str, direct: str) -> None:
    assert check_indirect(text, direct) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 words"),
        ("a mask", "2 words"),
        ("Turn the sunglasses into a face mask.", "repeats"),
        ("The sunglasses turn into a face mask", "repeats"),
        ("Please replace these with a mask for the face", "in a command"),
        ("Could you add a face mask, please", "in a command"),
        ("I would like you to make it a face mask", "in a command"),
        ("I'm sorry, but I cannot help with that", "talk"),
        ("Here is the instruction you asked for", "talk"),
        ("Indirect instruction: she has to breathe", "talk"),
        ("she has to breathe " * 20, "characters"),
        ("Sure! {{ %%% ]] As a model I", "code or markup"),
        ("<b>she has to breathe</b>", "code or markup"),
    ],
)
def test_refuses_direct_instructions_and_talk(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_indirect(text, FACE_MASK, "a woman with sunglasses")


def test_knows_what_is_new_from_the_caption() -> None:
    command = "add something yellow to the dog"
    assert check_indirect(command, "put a hat on the dog", "a dog") == command
    with pytest.raises(ValueError, match="in a command"):
        check_indirect("give him a nice hat", "put a hat on the dog", "a dog")


def test_a_command_to_remove_something_is_direct_whatever_it_calls_the_thing() -> None:
    with pytest.raises(ValueError, match="in a command"):
        check_indirect("take away what he has on his head", "remove the hat")
    assert check_indirect("his head should feel the wind", "remove the hat")


def test_leaves_out_candidates_that_say_the_same() -> None:
    candidates = ["The sun goes down.", "the sun goes down", "Sun goes down!", "The stars come out."]
    assert different(candidates) == ["The sun goes down.", "The stars come out."]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("the red circle", "Red Circle", True),
        ("a butterfly", "butterflies", False),
        ("flowers", "the flower", True),
        ("boxes", "box", True),
        ("grass", "gras", False),
    ],
)
def test_compares_names_of_things(first: str, second: str, same: bool) -> None:
    assert same_thing(first, second) is same
