"""Load Region Finder and Find Region in a real ComfyUI: folders, outputs, memory, progress and caching."""

import gc
import json
import shutil
import sys
import weakref
from pathlib import Path

import pytest
import torch

from instructbrush.tests.comfy.graphs import make_image
from instructbrush.tests.support import tiny_finders

DINO = "grounding_dino/tiny"
SAM = "tiny"
CLIPSEG = "clipseg/tiny"
WORDS = "red ball, cat. dog"
PHRASES = ["red ball", "cat", "dog"]


@pytest.fixture(scope="module", autouse=True)
def models(comfy):
    """Writes tiny models to the model folders."""
    root = Path(comfy.folder_paths.models_dir)
    folders = [root / "grounding_dino" / "tiny", root / "sam" / "tiny", root / "clipseg" / "tiny"]
    for folder, make in zip(
        folders, (tiny_finders.grounding_dino, tiny_finders.sam, tiny_finders.clipseg), strict=True
    ):
        folder.mkdir(parents=True)
        make(folder)
    yield folders
    for folder in folders:
        shutil.rmtree(folder)


def load(graph, finder=DINO, sam=SAM):
    return graph.node("InstructBrushLoadRegionFinder", finder_name=finder, sam_name=sam).out(0)


def find(comfy, graph, image, finder=None, **changes):
    settings = {"words": WORDS, "box_threshold": 0.3, "text_threshold": 0.2, **changes}
    return graph.node(
        "InstructBrushFindRegion", image=comfy.give(graph, image), finder=finder or load(graph), **settings
    )


@pytest.mark.parametrize("finder", [DINO, CLIPSEG])
def test_outputs_match_core(comfy, models, finder):
    if finder == DINO:
        core_finder = comfy.pack("core.regions.grounded_sam").GroundedSam(*models[:2])
        limits = (0.3, 0.2)
    else:
        core_finder = comfy.pack("core.regions.clipseg").ClipSegFinder(models[2])
        limits = (0.55, 0.5)
    image = make_image(1, 1, 48, 80)
    expected = core_finder.find(image[0], PHRASES, *limits)
    graph = comfy.graph()
    node = find(comfy, graph, image, load(graph, finder), box_threshold=limits[0], text_threshold=limits[1])
    run = comfy.run(graph, *(node.out(index) for index in range(5)))
    mask, masks, boxes, bboxes, report = run.values
    assert expected and mask.shape == boxes.shape == (1, 48, 80) and masks.shape == (len(expected), 48, 80)
    for each, ours, box in zip(expected, masks, bboxes[0], strict=True):
        torch.testing.assert_close(ours, each.mask)
        assert box["label"] == each.phrase and box["score"] == pytest.approx(each.score, abs=1e-5)
        assert (box["x"], box["y"]) == pytest.approx((each.box.left, each.box.top), abs=1e-3)
        assert (box["x"] + box["width"], box["y"] + box["height"]) == pytest.approx(
            (each.box.right, each.box.bottom), abs=1e-3
        )
        rows = slice(int(each.box.top), int(each.box.bottom))
        columns = slice(int(each.box.left), int(each.box.right))
        assert boxes[0, rows, columns].all()
    assert torch.equal(mask[0], masks.amax(0))
    assert report == comfy.pack("core.regions.finder").report_table(expected, PHRASES)
    shown = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert shown == [[report]]


def test_searches_a_batch_image_by_image(comfy):
    image = make_image(2, 3, 40, 64)
    graph = comfy.graph()
    node = find(comfy, graph, image)
    run = comfy.run(graph, *(node.out(index) for index in range(5)))
    mask, masks, boxes, bboxes, report = run.values
    assert (
        mask.shape == boxes.shape == (3, 40, 64) and len(bboxes) == 3 and sum(map(len, bboxes)) == len(masks)
    )
    assert [line for line in report.splitlines() if line.startswith("Image")] == [
        "Image 1",
        "Image 2",
        "Image 3",
    ]
    assert [step["value"] for step in run.data("progress")][-1] == 3
    graph = comfy.graph()
    single = find(comfy, graph, image[1:2])
    torch.testing.assert_close(comfy.values(graph, single.out(0))[0][0], mask[1])


def test_returns_empty_masks_when_nothing_is_found(comfy):
    graph = comfy.graph()
    node = find(comfy, graph, make_image(1, 2, 48, 80), box_threshold=1.0)
    mask, masks, boxes, bboxes, report = comfy.values(graph, *(node.out(index) for index in range(5)))
    assert mask.shape == boxes.shape == (2, 48, 80) and masks.shape == (1, 48, 80) and bboxes == [[], []]
    assert not mask.any() and not masks.any() and not boxes.any()
    assert report == "\n\n".join(
        f"Image {number}\nNothing was found for red ball, cat, dog. Lower the least object score, or use "
        "other words."
        for number in (1, 2)
    )


def test_uses_default_thresholds_and_keeps_the_best_objects(comfy, models):
    core_finder = comfy.pack("core.regions.grounded_sam").GroundedSam(*models[:2])
    expected = core_finder.find(make_image(1, 1, 48, 80)[0], PHRASES, most=1)
    graph = comfy.graph()
    node = find(
        comfy, graph, make_image(1, 1, 48, 80), box_threshold=-1.0, text_threshold=-1.0, max_objects=1
    )
    (bboxes,) = comfy.values(graph, node.out(3))
    assert len(expected) == len(bboxes[0]) == 1
    assert bboxes[0][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)


def test_other_nodes_accept_boxes_and_masks(comfy):
    image = make_image(1, 1, 48, 80)
    graph = comfy.graph()
    node = find(comfy, graph, image)
    drawn = graph.node("DrawBBoxes", image=comfy.give(graph, image), bboxes=node.out(3)).out(0)
    by_boxes = graph.node("InstructBrushSoftRegion", mask=node.out(0), s=0.5, boxes=node.out(3)).out(0)
    by_mask = graph.node("InstructBrushSoftRegion", mask=node.out(0), s=0.5, box_mask=node.out(2)).out(0)
    shown, first, second, mask = comfy.values(graph, drawn, by_boxes, by_mask, node.out(0))
    assert shown.shape == image.shape and not torch.equal(shown, image)
    torch.testing.assert_close(first, second)
    assert torch.equal(first == 1, mask == 1) and set(first.unique().tolist()) <= {0.0, 0.5, 1.0}


def test_accepts_images_with_alpha(comfy):
    graph = comfy.graph()
    image = torch.cat([make_image(1, 1, 48, 80), torch.ones(1, 48, 80, 1)], dim=-1)
    assert comfy.values(graph, find(comfy, graph, image).out(0))[0].shape == (1, 48, 80)


def test_comfyui_manages_the_finder_and_frees_it(comfy):
    import comfy.model_management as management

    graph = comfy.graph()
    link = load(graph)
    (finder,) = comfy.values(graph, link)
    residency = comfy.pack("nodes.comfy.encoders.residency")
    assert not any(
        parameter.is_inference() or parameter.requires_grad for parameter in finder.module.parameters()
    )
    with torch.inference_mode():
        residency.prepare(finder)
        residency.prepare(finder)
    assert (
        sum(
            each.model is not None and each.model.model is finder.module
            for each in management.current_loaded_models
        )
        == 1
    )
    held = weakref.ref(residency.patchers[finder])
    management.unload_all_models()
    graph = comfy.graph()
    assert comfy.values(
        graph, find(comfy, graph, make_image(1, 1, 48, 80), comfy.give(graph, finder)).out(0)
    )[0].any()
    del finder
    management.unload_all_models()
    comfy.forget()
    sys.modules[type(comfy).__module__].SHELF.clear()
    gc.collect()
    assert held() is None


def test_cancel_interrupts_the_node(comfy, monkeypatch):
    import comfy.model_management as management

    progress = comfy.pack("nodes.comfy.encoders.progress")
    original = progress.check_interrupted
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 2:
            management.interrupt_current_processing(True)
        original()

    monkeypatch.setattr(progress, "check_interrupted", check)
    graph = comfy.graph()
    run = comfy.attempt(graph, find(comfy, graph, make_image(5, 3, 48, 80)).out(0))
    assert run.error["exception_type"] == "interrupted"


def test_lists_folders_or_the_name_of_a_public_model(comfy, models):
    finders = comfy.pack("nodes.comfy.encoders.finders")
    assert {DINO, CLIPSEG} <= set(finders.finder_names()) and finders.sam_names() == [SAM]
    inside = models[1].parent / "facebook" / "other"
    shutil.copytree(models[1], inside)
    try:
        assert finders.sam_names() == ["facebook/other", SAM]
        graph = comfy.graph()
        assert comfy.values(graph, load(graph, sam="facebook/other"))[0].name == "tiny + other"
        away = models[1].parent.parent / "away"
        models[1].parent.rename(away)
        try:
            assert finders.sam_names() == ["sam-vit-base"]
        finally:
            away.rename(models[1].parent)
    finally:
        shutil.rmtree(inside.parent)
    built_in = comfy.pack("core.models.builtin").POCKET_FINDER_FOLDER.is_dir()
    assert (finders.POCKET_TITLE in finders.finder_names()) == built_in


def test_keeps_another_packs_registration_of_a_folder(comfy):
    paths = comfy.folder_paths
    model_folders = comfy.pack("nodes.comfy.folders.model_folders")
    before = paths.folder_names_and_paths["sam"]
    paths.folder_names_and_paths["sam"] = ([str(Path(paths.models_dir) / "sam")], {".pth"})
    try:
        model_folders.register_folders("sam")
        folders, suffixes = paths.folder_names_and_paths["sam"]
        assert suffixes == {".pth"} and len(folders) == 1
    finally:
        paths.folder_names_and_paths["sam"] = before


def test_reloads_a_changed_folder(comfy, models):
    graph = comfy.graph()
    (first,) = comfy.values(graph, load(graph))
    graph = comfy.graph()
    assert comfy.values(graph, load(graph))[0] is first
    file = models[0] / "preprocessor_config.json"
    text = file.read_text()
    file.write_text(json.dumps({**json.loads(text), "size": {"shortest_edge": 32, "longest_edge": 64}}))
    try:
        graph = comfy.graph()
        assert comfy.values(graph, load(graph))[0] is not first
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    ("finder", "sam", "message"),
    [
        ("grounding_dino/none", SAM, "Grounding DINO 'none': there is no folder "),
        (DINO, "none", "SAM 'none': there is no folder "),
        ("clipseg/none", SAM, "CLIPSeg 'none': there is no folder "),
        ("nonsense", SAM, "Put IDEA-Research/grounding-dino-tiny, or another model of its kind, into "),
        (
            "clipseg/../../output",
            SAM,
            "Name '../../output' cannot be used: it starts with a slash, or a part of it is empty or made of "
            "dots.",
        ),
        ("clipseg/..", SAM, "Name '..' cannot be used: "),
        (DINO, "..", "Name '..' cannot be used: "),
    ],
)
def test_rejects_missing_folders_before_the_run(comfy, finder, sam, message):
    graph = comfy.graph()
    assert message in comfy.error(graph, load(graph, finder, sam))


def test_rejects_a_damaged_folder(comfy, models):
    file = models[2] / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    try:
        graph = comfy.graph()
        assert "model.safetensors: the file is cut short" in comfy.error(graph, load(graph, CLIPSEG))
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"words": " , ."},
            "Find Region: there are no words in ', .'. Name what to look for, such as: red ball, hat.",
        ),
        (
            {"box_threshold": -0.5},
            "Find Region: box_threshold -0.5 is not between 0 and 1. 0.3 suits tiny + tiny.",
        ),
        ({"words": "red " * 80}, "Grounding DINO reads 64. Look for fewer things at a time."),
    ],
)
def test_rejects_invalid_input(comfy, changes, message):
    graph = comfy.graph()
    assert message in comfy.error(graph, find(comfy, graph, make_image(1, 1, 48, 80), **changes).out(0))


def test_the_built_in_finder_says_what_it_cannot_know(comfy):
    graph = comfy.graph()
    finder = load(graph, "pocket finder (built in)")
    node = find(comfy, graph, make_image(0, 1, 128, 128), finder, words="unicorn")
    mask, report = comfy.values(graph, node.out(0), node.out(4))
    assert not mask.any() and "The pocket finder does not know unicorn. It knows circle, " in report
