"""Judge Preference on a real ComfyUI: data for the panel, judgements in the prompt, runs without images."""

import json

import pytest
import trueskill
from PIL import Image

from instructbrush.tests.comfy.graphs import make_image


def judging(comfy, study, first=None, second=None, **more):
    graph = comfy.graph()
    images = {
        "first": first,
        "second": second,
        **{key: more.pop(key) for key in ("third", "fourth", "source") if key in more},
    }
    inputs = {key: comfy.give(graph, value) for key, value in images.items() if value is not None}
    return graph, graph.node("InstructBrushPreference", study=study, **inputs, **more)


def ask(comfy, study, first=None, second=None, **more):
    """Runs the node. Returns its five outputs and the data of the panel."""
    graph, node = judging(comfy, study, first, second, **more)
    run = comfy.run(graph, *(node.out(index) for index in range(5)))
    shown = [
        data["output"]["preference"]
        for data in run.data("executed")
        if "preference" in (data["output"] or {})
    ]
    assert [len(each) for each in shown] == [1]
    return run.values, json.loads(json.dumps(shown[0][0]))


def sent(data, *events):
    return json.dumps({"key": data["key"], "events": list(events)})


def side_of(comfy, data, number, given):
    """Returns the side of a comparison that shows an image, by comparing pixels."""
    folder = comfy.base / "output" / data["folder"]
    _, left, right = data["comparisons"][number]["images"]
    wanted = [tuple(round(float(value) * 255) for value in given[index, 0, 0]) for index in range(len(given))]
    with Image.open(folder / left) as one, Image.open(folder / right) as other:
        found = [one.getpixel((0, 0)) in wanted, other.getpixel((0, 0)) in wanted]
    assert sum(found) == 1
    return ("left", "right")[found.index(True)]


def test_study_is_judged_resumed_and_rated(comfy):
    first, second = make_image(1, 3), make_image(2, 3)
    given = {
        "first_name": "words",
        "second_name": "learned",
        "instructions": "one\ntwo\nthree",
        "source": make_image(3, 1),
        "seed": 4,
    }
    (report, *figures), data = ask(comfy, "deep/rated", first, second, **given)
    assert figures == pytest.approx([25, 25 / 3] * 2) and "0 of 3 judged" in report
    assert (
        data["study"] == "deep/rated"
        and data["folder"] == "instructbrush_studies/deep/rated"
        and data["judged"] == []
        and data["ratings"] is None
    )
    assert sorted(each["instruction"] for each in data["comparisons"]) == ["one", "three", "two"]
    # The data of the panel names no method, and all images exist.
    assert "words" not in json.dumps(data) and "learned" not in json.dumps(data)
    folder = comfy.base / "output" / data["folder"]
    assert all((folder / name).is_file() for each in data["comparisons"] for name in each["images"])
    choices = [side_of(comfy, data, 0, second), "tie", side_of(comfy, data, 2, second)]
    events = [
        {"id": f"e{number}", "number": number, "choice": choice} for number, choice in enumerate(choices)
    ]
    # The same judgements come with two prompts and count once.
    _, half = ask(comfy, "deep/rated", first, second, **given, judgements=sent(data, *events[:2]))
    assert (
        [each["id"] for each in half["judged"]] == ["e0", "e1"]
        and half["known"] == ["e0", "e1"]
        and half["ratings"] is None
    )
    # The node stores the rest without connected images.
    (report, *figures), done = ask(comfy, "deep/rated", judgements=sent(data, *events))
    words, learned = trueskill.Rating(), trueskill.Rating()
    for drawn in (False, True, False):
        learned, words = trueskill.rate_1vs1(learned, words, drawn=drawn)
    assert figures == pytest.approx([words.mu, words.sigma, learned.mu, learned.sigma])
    assert [(each["method"], each["won"], each["tied"], each["lost"]) for each in done["ratings"]] == [
        ("words", 0, 1, 2),
        ("learned", 2, 1, 0),
    ]
    assert "3 of 3 judged" in report and report.splitlines()[2].startswith("learned")
    # A run with images gives the new ratings, although its inputs are those of the first run.
    (report, *again), whole = ask(comfy, "deep/rated", first, second, **given)
    assert again == figures and whole["ratings"] == done["ratings"]


def test_asks_again_after_undo(comfy):
    first, second = make_image(1, 2), make_image(2, 2)
    _, data = ask(comfy, "undone", first, second)
    events = [
        {"id": "a", "number": 0, "choice": "left"},
        {"id": "b", "number": 1, "choice": "tie"},
        {"id": "c", "undo": "b"},
    ]
    _, after = ask(comfy, "undone", judgements=sent(data, *events))
    assert (
        [each["id"] for each in after["judged"]] == ["a"]
        and after["known"] == ["a", "b", "c"]
        and after["ratings"] is None
    )
    late = {"id": "d", "number": 0, "choice": "right"}
    (report, *_), late_shown = ask(comfy, "undone", judgements=sent(data, late))
    assert (
        "1 judgements were left out: comparison 0 is judged already." in report
        and "d" in late_shown["known"]
        and len(late_shown["judged"]) == 1
    )
    (report, *_), _ = ask(comfy, "undone", judgements=json.dumps({"key": "another", "events": [late]}))
    assert report.endswith("1 judgements of another study were left out.")


def test_compares_three_methods_in_pairs(comfy):
    (report, *_), data = ask(
        comfy, "three", make_image(1, 2), make_image(2, 2), third=make_image(3, 2), third_name="other"
    )
    assert (
        len(data["comparisons"]) == 6
        and "other" in report
        and all(each["images"][0] is None for each in data["comparisons"])
    )


def test_best_of_four_counts_how_often_each_method_is_picked(comfy):
    one, two, three, four = (make_image(seed, 4) for seed in (1, 2, 3, 4))
    given = {"third": three, "fourth": four, "third_name": "c", "fourth_name": "d", "vote": "best"}
    given |= {"first_name": "a", "second_name": "b"}
    (report, *_), data = ask(comfy, "best", one, two, **given)
    assert data["vote"] == "best" and "0 of 4 judged" in report
    assert all(len(each["images"]) == 5 and len(set(each["images"])) == 5 for each in data["comparisons"])
    folder = comfy.base / "output" / data["folder"]
    wanted = {tuple(round(float(value) * 255) for value in three[index, 0, 0]) for index in range(4)}
    events = []
    for number, comparison in enumerate(data["comparisons"]):
        found = []
        for place, name in enumerate(comparison["images"][1:], start=1):
            with Image.open(folder / name) as image:
                found += [place] if image.getpixel((0, 0)) in wanted else []
        (place,) = found
        events.append({"id": f"e{number}", "number": number, "choice": str(place)})
    (report, *figures), done = ask(comfy, "best", judgements=sent(data, *events))
    shares = {each["method"]: each["share"] for each in done["ratings"]}
    assert shares == {"a": 0, "b": 0, "c": 1, "d": 0}
    assert report.splitlines()[2].split()[:3] == ["c", "4", "100.0%"]
    # The first two methods lost every match.
    assert figures[0] < 25 and figures[2] < 25


def test_criteria_are_asked_and_rated_one_by_one(comfy):
    one, two = make_image(1, 1), make_image(2, 1)
    names = "consistency, instruction alignment , my own"
    _, data = ask(comfy, "criteria", one, two, criteria=names)
    assert [each["criterion"] for each in data["comparisons"]] == [
        "consistency",
        "instruction alignment",
        "my own",
    ]
    assert data["questions"]["consistency"].endswith("?") and data["questions"]["my own"] == ""
    side = side_of(comfy, data, 0, one)
    other = "right" if side == "left" else "left"
    events = [
        {"id": str(number), "number": number, "choice": choice}
        for number, choice in enumerate((side, other, "tie"))
    ]
    (report, *figures), done = ask(comfy, "criteria", judgements=sent(data, *events))
    won = {name: [each["won"] for each in ratings] for name, ratings in done["by_criterion"].items()}
    assert won == {"consistency": [1, 0], "instruction alignment": [0, 1], "my own": [0, 0]}
    assert "By my own:" in report and "By all criteria:" in report
    graph, node = judging(comfy, "criteria", one, two)
    assert "its criteria are 'consistency', 'instruction alignment', 'my own', not none" in comfy.error(
        graph, node.out(0)
    )


def test_rejects_invalid_inputs(comfy):
    def refusal(study, *images, **more):
        graph, node = judging(comfy, study, *images, **more)
        return comfy.error(graph, node.out(0))

    one, two = make_image(1, 2), make_image(2, 2)
    assert refusal("nothing").startswith("Study 'nothing' has not been started: ")
    assert (
        refusal("x", one)
        == "Judge Preference: connect both first and second, or connect no images to continue a study that "
        "was started before."
    )
    assert "2 of 'method A', 3 of 'method B'" in refusal("x", one, make_image(2, 3))
    assert "two methods have the same name (a, a)" in refusal("x", one, two, first_name="a", second_name=" a")
    assert "3 lines of instructions do not fit 2 images" in refusal("x", one, two, instructions="a\nb\nc")
    assert "3 source images do not fit 2 results" in refusal("x", one, two, source=make_image(3, 3))
    assert "differ in size (64 x 64 of 'method A', 32 x 32 of 'method B')" in refusal(
        "x", one, make_image(2, 2, 32, 32)
    )
    assert "the judgements cannot be read" in refusal("x", one, two, judgements="[1]")
    assert not (comfy.base / "output" / "instructbrush_studies" / "nothing").exists()
    ask(comfy, "begun", one, two)
    assert "was started with other contents: the image of 'method B' of item '0' has changed" in refusal(
        "begun", one, make_image(5, 2)
    )


@pytest.mark.parametrize("name", ["../outside", "/etc", "", "a/../../b", "..", "c:\\x"])
def test_rejects_names_that_leave_the_folder(comfy, name):
    graph, node = judging(comfy, name, make_image(1, 1), make_image(2, 1))
    message = comfy.error(graph, node.out(0))
    assert message.startswith(f"Name {name!r} cannot be used: it ") and message.endswith(
        ". Use a plain name such as 'snow' or 'weather/snow'."
    )


def test_lists_are_one_study(comfy):
    """Load Edit Pairs gives its images as lists."""
    graph = comfy.graph()
    lists = []
    for images in (make_image(1, 3), make_image(2, 3)):
        inputs = {f"inputs.input{index}": comfy.give(graph, images[index][None]) for index in range(3)}
        lists.append(graph.node("CreateList", **inputs).out(0))
    node = graph.node("InstructBrushPreference", study="of lists", first=lists[0], second=lists[1])
    run = comfy.run(graph, node.out(0))
    (shown,) = [
        data["output"]["preference"]
        for data in run.data("executed")
        if "preference" in (data["output"] or {})
    ]
    assert len(shown) == 1 and len(shown[0]["comparisons"]) == 3
