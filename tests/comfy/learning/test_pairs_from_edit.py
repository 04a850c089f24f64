"""Make Pairs From Edit: pairs of finished images and their edit, and folders of them."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, learning, make_image


def grey(images):
    return images.mean(dim=-1, keepdim=True).expand_as(images).contiguous()


@pytest.fixture
def finished():
    """Three images of colors, the second of which is grey already."""
    images = make_image(5, 3)
    images[1] = grey(images[1])
    return images


def made(comfy, graph, images, edited, **changes):
    node = graph.node(
        "InstructBrushMakePairsFromEdit",
        images=comfy.give(graph, images),
        edited=comfy.give(graph, edited),
        **{"drop": "below least change", "least_change": 0.0001, "share": 0.1, "folder": "", **changes},
    )
    return node.out(0), node.out(1)


def test_finished_images_become_after_and_unchanged_ones_are_dropped(comfy, finished):
    graph = comfy.graph()
    pairs, report = comfy.values(graph, *made(comfy, graph, finished, grey(finished)))
    assert [pair.name for pair in pairs] == ["0", "2"]
    for pair, number in zip(pairs, (0, 2), strict=True):
        assert torch.equal(pair.after, finished[number])
        assert torch.equal(pair.before, grey(finished)[number]) and pair.mask is None
    change = (finished - grey(finished)).double().square().mean(dim=(1, 2, 3))
    assert report.splitlines() == [
        "2 of 3 pairs are kept.",
        f"Pair 0: mean squared difference {change[0]:.3g}.",
        "Pair 1: mean squared difference 0. It changed too little, so it is dropped.",
        f"Pair 2: mean squared difference {change[2]:.3g}.",
    ]


def test_drops_the_lowest_share_or_nothing(comfy):
    images = make_image(6, 4)
    edited = images.clone()
    for number, offset in enumerate((0.2, 0.05, 0.1, 0.15)):
        edited[number] = images[number] * (1 - offset)
    for drop, share, names in (
        ("nothing", 0.5, ["0", "1", "2", "3"]),
        ("lowest share", 0.5, ["0", "3"]),
        ("lowest share", 0.2, ["0", "1", "2", "3"]),
        ("lowest share", 0.25, ["0", "2", "3"]),
    ):
        graph = comfy.graph()
        node = made(comfy, graph, images, edited, drop=drop, least_change=1.0, share=share)
        (pairs,) = comfy.values(graph, node[0])
        assert [pair.name for pair in pairs] == names


def test_saves_a_folder_that_load_edit_pairs_opens(comfy, finished):
    mask = torch.zeros(3, 64, 64)
    mask[:, :32] = 1
    folders = []
    for _ in range(2):
        graph = comfy.graph()
        given = {"masks": comfy.give(graph, mask), "folder": "sets/colored"}
        pairs, report = comfy.values(graph, *made(comfy, graph, finished, grey(finished), **given))
        line = report.splitlines()[1]
        folders.append(line.removeprefix("Saved as input/").partition(",")[0])
        graph = comfy.graph()
        loaded = graph.node("InstructBrushLoadPairs", folder=folders[-1], size=0)
        (again,) = comfy.values(graph, loaded.out(0))
        assert [pair.name for pair in again] == ["0", "2"]
        for one, other in zip(pairs, again, strict=True):
            assert (one.before - other.before).abs().max() <= 0.5 / 255 + 1e-6
            assert (one.after - other.after).abs().max() <= 0.5 / 255 + 1e-6
            assert torch.equal(one.mask, other.mask) and torch.equal(other.mask, mask[0])
    assert folders == ["sets/colored", "sets/colored_2"]
    files = {path.name for path in (comfy.base / "input" / "sets" / "colored").iterdir()}
    assert files == {f"{number}_{part}.png" for number in (0, 2) for part in ("0", "1", "mask")}
    assert {path.name for path in (comfy.base / "input" / "sets").iterdir()} == {"colored", "colored_2"}


def test_runs_without_a_node_behind_it_and_shows_its_report(comfy, finished):
    graph = comfy.graph()
    made(comfy, graph, finished, grey(finished))
    run = comfy.run(graph)
    (output,) = [data["output"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert output["text"][0].startswith("2 of 3 pairs are kept.") and len(output["images"]) == 2


def test_drops_pairs_with_a_black_mask(comfy, finished):
    mask = torch.ones(3, 64, 64)
    mask[2] = 0
    graph = comfy.graph()
    node = made(comfy, graph, finished, grey(finished), masks=comfy.give(graph, mask))
    pairs, report = comfy.values(graph, *node)
    assert [pair.name for pair in pairs] == ["0"]
    assert report.endswith("Its mask is black everywhere, so it is dropped.")


def test_learn_instruction_takes_the_pairs(comfy, finished):
    graph = comfy.graph()
    pairs, _ = made(comfy, graph, finished, grey(finished))
    (learned,) = comfy.values(graph, learning(graph, comfy, Parts(graph), pairs=pairs, steps=2).out(0))
    assert learned.info.steps == 2


@pytest.mark.parametrize(
    ("images", "edited", "changes", "message"),
    [
        (make_image(0, 2), make_image(1, 3), {}, "Pairs: 3 images before but 2 after. Every image needs its"),
        (
            make_image(0, 2),
            make_image(0, 2),
            {},
            "Make Pairs From Edit: none of the 2 pairs is left. Pair 0: mean squared difference 0. It "
            "changed too little, so it is dropped. Use an edit that removes more of the effect, or drop "
            "fewer pairs.",
        ),
        (make_image(0, 2), make_image(1, 2), {"folder": "../x"}, "Name '../x' cannot be used: it starts"),
        (make_image(0, 2), make_image(1, 2), {"masks": torch.ones(3, 64, 64)}, "Mask: 3 masks do not fit 2"),
        (make_image(0, 2), make_image(1, 2), {"masks": torch.ones(2, 64, 32)}, "Mask: "),
        (
            make_image(0, 1),
            make_image(1, 1, 64, 32),
            {},
            "Pair '0': before is 32 x 64, after is 64 x 64, which",
        ),
    ],
)
def test_says_why_images_are_no_pairs(comfy, images, edited, changes, message):
    graph = comfy.graph()
    if "masks" in changes:
        changes = {"masks": comfy.give(graph, changes["masks"])}
    assert comfy.error(graph, made(comfy, graph, images, edited, **changes)[0]).startswith(message)


def test_leaves_nothing_behind_when_the_folder_cannot_be_written(comfy, finished, monkeypatch):
    module = comfy.pack("core.pairs.from_edit")
    storage_error = comfy.pack("core.errors").StorageError

    def fail(*_rest, **_more):
        raise storage_error("'0_0.png' cannot be written: no space is left there.")

    monkeypatch.setattr(module, "save_image", fail)
    graph = comfy.graph()
    pairs, _ = made(comfy, graph, finished, grey(finished), folder="full/disk")
    assert "no space is left there" in comfy.error(graph, pairs)
    assert list((comfy.base / "input" / "full").iterdir()) == []
