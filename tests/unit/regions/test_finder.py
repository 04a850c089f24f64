"""Finding regions by words: boxes and masks equal those of transformers; phrases and thresholds."""

import json
import re

import pytest
import torch

from instructbrush.core.errors import ModelError, RegionError
from instructbrush.core.regions import finder_loading, grounded_sam
from instructbrush.core.regions.boxes import Box
from instructbrush.core.regions.clipseg import ClipSegFinder
from instructbrush.core.regions.finder import (
    FoundObject,
    knows,
    report_table,
    split_phrases,
    union_mask,
    unknown_remark,
)
from instructbrush.core.regions.finder_folders import SAM, load_folder
from instructbrush.core.regions.finder_loading import load_finder
from instructbrush.core.regions.grounded_sam import GroundedSam
from instructbrush.tests.support import tiny_finders

PHRASES = ["red ball", "cat", "dog"]
TENSORS = {"do_rescale": False, "return_tensors": "pt"}


def noise(height=48, width=80):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny models by name."""
    root = tmp_path_factory.mktemp("finders")
    made = {"dino": tiny_finders.grounding_dino, "sam": tiny_finders.sam, "clipseg": tiny_finders.clipseg}
    for name in made:
        (root / name).mkdir()
    return {name: make(root / name) for name, make in made.items()}


@pytest.fixture(scope="module")
def grounded(models):
    return GroundedSam(models["dino"], models["sam"])


@pytest.fixture(scope="module")
def clipseg(models):
    return ClipSegFinder(models["clipseg"])


def transformers_boxes(models, image, box_threshold, text_threshold):
    """Boxes, scores and labels from transformers' processor, and the phrase of each box's best word."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    model = GroundingDinoForObjectDetection.from_pretrained(models["dino"], local_files_only=True).eval()
    processor = GroundingDinoProcessor.from_pretrained(models["dino"], local_files_only=True)
    inputs = processor(images=image.movedim(2, 0), text=[PHRASES], **TENSORS)
    with torch.no_grad():
        outputs = model(**inputs)
    results = processor.post_process_grounded_object_detection(
        outputs,
        inputs["input_ids"],
        threshold=box_threshold,
        text_threshold=text_threshold,
        target_sizes=[image.shape[:2]],
    )[0]
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens == ["[CLS]", "red", "ball", ".", "cat", ".", "dog", ".", "[SEP]"]
    words = outputs.logits[0][:, [1, 2, 4, 6]].sigmoid()
    kept = outputs.logits[0].sigmoid().amax(1) > box_threshold
    return results, [PHRASES[(0, 0, 1, 2)[best]] for best in words.argmax(1)[kept].tolist()]


@pytest.mark.parametrize("size", [(48, 80), (90, 40), (64, 64)])
def test_boxes_match_transformers(grounded, models, monkeypatch, size):
    monkeypatch.setattr(grounded_sam, "_SAME_OBJECT_IOU", 1.0)
    image = noise(*size)
    found = grounded.find(image, PHRASES, 0.5, 0.4)
    results, phrases = transformers_boxes(models, image, 0.5, 0.4)
    expected = []
    for score, box, label, phrase in zip(
        results["scores"].tolist(), results["boxes"], results["text_labels"], phrases, strict=True
    ):
        height, width = size
        left, right = box[::2].clamp(0, width).tolist()
        top, bottom = box[1::2].clamp(0, height).tolist()
        # transformers returns boxes without words above the second threshold; the finder drops them.
        if set(re.findall(r"\w+", label)) & {"red", "ball", "cat", "dog"} and left < right and top < bottom:
            expected.append((score, phrase, (left, top, right, bottom)))
    expected.sort(key=lambda entry: -entry[0])
    assert len(expected) > 3 and len({phrase for _, phrase, _ in expected}) > 1
    assert [each.phrase for each in found] == [phrase for _, phrase, _ in expected]
    for each, (score, _, box) in zip(found, expected, strict=True):
        assert each.score == pytest.approx(score, abs=1e-5)
        assert (each.box.left, each.box.top, each.box.right, each.box.bottom) == pytest.approx(box, abs=1e-3)


@pytest.mark.parametrize("size", [(48, 80), (90, 40)])
def test_masks_match_sam_in_transformers(grounded, models, size):
    from transformers import SamModel, SamProcessor

    image = noise(*size)
    found = grounded.find(image, PHRASES, 0.5, 0.4)
    model = SamModel.from_pretrained(models["sam"], local_files_only=True).eval()
    processor = SamProcessor.from_pretrained(models["sam"], local_files_only=True)
    boxes = [[each.box.left, each.box.top, each.box.right, each.box.bottom] for each in found]
    inputs = processor(images=image.movedim(2, 0), input_boxes=[boxes], **TENSORS)
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=False)
    masks = processor.post_process_masks(
        outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )[0][:, 0]
    assert len(found) == len(masks) > 3
    for each, mask in zip(found, masks, strict=True):
        assert each.mask.shape == size and each.mask.dtype == torch.float32
        torch.testing.assert_close(each.mask, mask.float())
    assert any(0 < each.mask.mean() < 1 for each in found)


def test_masks_do_not_depend_on_the_chunk_size(grounded, monkeypatch):
    whole = grounded.find(noise(), PHRASES, 0.2, 0.1)
    monkeypatch.setattr(grounded_sam, "_BOXES_AT_ONCE", 2)
    parts = grounded.find(noise(), PHRASES, 0.2, 0.1)
    assert len(whole) > 4 and all(
        torch.equal(first.mask, second.mask) for first, second in zip(whole, parts, strict=True)
    )


@pytest.mark.parametrize("kind", ["MMGroundingDino", "sam2"])
def test_loads_mm_grounding_dino_and_sam_2(models, tmp_path, kind):
    folders = {"dino": models["dino"], "sam": models["sam"]}
    if kind == "sam2":
        folders["sam"] = tiny_finders.sam2(tmp_path)
    else:
        folders["dino"] = tiny_finders.grounding_dino(tmp_path, kind=kind)
    found = GroundedSam(folders["dino"], folders["sam"]).find(noise(), PHRASES, 0.0, 0.0)
    assert found and all(
        each.mask.shape == (48, 80) and set(each.mask.unique().tolist()) <= {0.0, 1.0} for each in found
    )


def test_loads_the_published_folder_of_sam_2(tmp_path):
    folder = tiny_finders.sam2(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    assert type(load_folder(folder, SAM)[0]).__name__ == "Sam2Model"


def test_sam_2_masks_match_transformers(grounded, models, tmp_path):
    from transformers import Sam2Model, Sam2Processor

    folder = tiny_finders.sam2(tmp_path)
    found = GroundedSam(models["dino"], folder).find(noise(), PHRASES, 0.5, 0.4)
    model, processor = Sam2Model.from_pretrained(folder).eval(), Sam2Processor.from_pretrained(folder)
    boxes = [[each.box.left, each.box.top, each.box.right, each.box.bottom] for each in found]
    inputs = processor(images=noise().movedim(2, 0), input_boxes=[boxes], **TENSORS)
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=False)
    masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])[0][:, 0].float()
    torch.testing.assert_close(torch.stack([each.mask for each in found]), masks)


def test_keeps_the_best_of_coinciding_boxes(grounded, monkeypatch):
    monkeypatch.setattr(grounded_sam, "_SAME_OBJECT_IOU", 1.0)
    every = grounded.find(noise(), PHRASES, 0.1, 0.05)
    monkeypatch.setattr(grounded_sam, "_SAME_OBJECT_IOU", 0.0)
    apart = grounded.find(noise(), PHRASES, 0.1, 0.05)
    boxes = {each.box for each in every}
    assert 0 < len(apart) <= len(every) and {each.box for each in apart} <= boxes
    for number, each in enumerate(apart):
        for other in apart[:number]:
            crossing = min(each.box.right, other.box.right) > max(each.box.left, other.box.left) and min(
                each.box.bottom, other.box.bottom
            ) > max(each.box.top, other.box.top)
            assert each.phrase != other.phrase or not crossing


def test_clipseg_maps_match_transformers(clipseg, models):
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    image, phrases = noise(40, 100), ["red circle", "a hat on the blue square"]
    model = CLIPSegForImageSegmentation.from_pretrained(models["clipseg"], local_files_only=True).eval()
    processor = CLIPSegProcessor.from_pretrained(models["clipseg"], local_files_only=True)
    inputs = processor(text=phrases, images=[image.movedim(2, 0)] * 2, padding=True, **TENSORS)
    with torch.no_grad():
        logits = model(**inputs).logits
    expected = torch.nn.functional.interpolate(logits[:, None], (40, 100), mode="bilinear", antialias=True)[
        :, 0
    ].sigmoid()
    torch.testing.assert_close(clipseg.probabilities(image, phrases), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("box_threshold", "text_threshold"), [(0.6, 0.5), (0.5, 0.6), (0.62, 0.58)])
def test_clipseg_objects_are_fragments_of_its_maps(clipseg, box_threshold, text_threshold):
    from skimage.measure import label, regionprops

    image, phrases = noise(), ["red circle", "hat"]
    found = clipseg.find(image, phrases, box_threshold, text_threshold, most=1000)
    expected = []
    for phrase, likely in zip(phrases, clipseg.probabilities(image, phrases).numpy(), strict=True):
        for region in regionprops(label(likely > text_threshold, connectivity=2), intensity_image=likely):
            top, left, bottom, right = region.bbox
            if region.intensity_max > box_threshold:
                expected.append(
                    (phrase, float(region.intensity_max), Box(left, top, right, bottom), int(region.area))
                )
    assert len(found) > 1
    key = lambda each: (-each[1], each[0], each[2].left, each[2].top)  # noqa: E731
    ours = [(each.phrase, each.score, each.box, int(each.mask.sum())) for each in found]
    assert sorted(ours, key=key) == sorted(expected, key=key)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    for each in found:
        box = each.box
        inside = each.mask[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
        assert inside.sum() == each.mask.sum() and set(each.mask.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("which", ["grounded", "clipseg"])
def test_returns_an_empty_list_when_nothing_is_found(request, which):
    finder = request.getfixturevalue(which)
    found = finder.find(noise(), ["cat", "red ball"], 1.0)
    assert found == [] and union_mask(found, 48, 80).shape == (48, 80) and not union_mask(found, 48, 80).any()
    assert (
        report_table(found, ["cat", "red ball"])
        == "Nothing was found for cat, red ball. Lower the least object score, or use other words."
    )


@pytest.mark.parametrize(
    ("which", "low", "high"), [("grounded", (0.1, 0.1), (0.9, 0.1)), ("clipseg", (0.5, 0.55), (0.62, 0.55))]
)
def test_a_higher_threshold_finds_a_subset(request, which, low, high):
    finder = request.getfixturevalue(which)
    many = finder.find(noise(), PHRASES, *low, most=1000)
    few = finder.find(noise(), PHRASES, *high, most=1000)
    assert 0 < len(few) < len(many) and {(each.phrase, each.box) for each in few} < {
        (each.phrase, each.box) for each in many
    }
    assert all(each.score > high[0] for each in few)
    assert all(
        each.phrase in PHRASES
        and 0 <= each.box.left < each.box.right <= 80
        and 0 <= each.box.top < each.box.bottom <= 48
        for each in many
    )


def test_a_higher_text_threshold_finds_less(grounded):
    loose = grounded.find(noise(), PHRASES, 0.2, 0.1)
    strict = grounded.find(noise(), PHRASES, 0.2, 0.9)
    assert len(strict) < len(loose)


@pytest.mark.parametrize("which", ["grounded", "clipseg"])
def test_keeps_the_best_objects_and_uses_default_thresholds(request, which):
    finder = request.getfixturevalue(which)
    every = finder.find(noise(), PHRASES, most=1000)
    assert every == sorted(every, key=lambda each: -each.score) and len(every) > 2
    assert [(each.box, each.score) for each in finder.find(noise(), PHRASES, *finder.thresholds, most=2)] == [
        (each.box, each.score) for each in every[:2]
    ]


@pytest.mark.parametrize("which", ["grounded", "clipseg"])
@pytest.mark.parametrize("size", [(9, 300), (300, 7), (3, 3)])
def test_accepts_images_of_any_shape(request, which, size):
    found = request.getfixturevalue(which).find(noise(*size), ["red circle"], 0.1, 0.1, most=3)
    assert found and all(each.mask.shape == size for each in found)


def test_finders_are_frozen_and_know_their_device(grounded, clipseg):
    for finder, name in ((grounded, "dino + sam"), (clipseg, "clipseg")):
        assert finder.name == name and finder.device == torch.device("cpu")
        assert all(
            not parameter.requires_grad and parameter.dtype == torch.float32
            for parameter in finder.module.parameters()
        )
        assert not finder.module.training


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        ("red ball", ["red ball"]),
        ("a  cat. the dog.", ["a cat", "the dog"]),
        ("hat, ball;sun\nhat , Hat", ["hat", "ball", "sun"]),
        (" .,cat", ["cat"]),
    ],
)
def test_splits_words_into_phrases(words, phrases):
    assert split_phrases(words) == phrases


@pytest.mark.parametrize("words", ["", "  ", " . , ;\n"])
def test_rejects_words_without_phrases(grounded, words):
    with pytest.raises(
        RegionError,
        match=r"Find Region: there are no words in '.*'\. Name what to look for, such as: red ball, hat\.",
    ):
        split_phrases(words)
    with pytest.raises(RegionError, match="there are no words"):
        grounded.find(noise(), [words])


@pytest.mark.parametrize("which", ["grounded", "clipseg"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box_threshold": 1.5}, "Find Region: box_threshold 1.5 is not between 0 and 1. "),
        ({"box_threshold": float("nan")}, "Find Region: box_threshold nan is not between 0 and 1. "),
        ({"text_threshold": -0.1}, "Find Region: text_threshold -0.1 is not between 0 and 1. "),
        ({"most": 0}, "Find Region: at most 0 objects were asked for. Allow at least 1."),
        (
            {"image": torch.zeros(1, 8, 8, 3)},
            "Find Region: an image of shape [1, 8, 8, 3] does not fit; [height, width, 3] is needed.",
        ),
        (
            {"image": torch.zeros(8, 8, 4)},
            "Find Region: an image of shape [8, 8, 4] does not fit; [height, width, 3] is needed.",
        ),
        (
            {"image": torch.full((8, 8, 3), float("nan"))},
            "Find Region: the image holds values that are not finite. Check the node that made it.",
        ),
        ({"phrases": ["red " * 80]}, " reads "),
    ],
)
def test_rejects_invalid_input(request, which, changes, message):
    with pytest.raises(RegionError, match=re.escape(message)):
        request.getfixturevalue(which).find(**{"image": noise(), "phrases": PHRASES, **changes})


def test_report_lists_objects_and_missing_phrases():
    mask = torch.zeros(10, 20)
    mask[2:6, 5:10] = 1
    found = [
        FoundObject("red ball", 0.912, Box(5.2, 1.8, 10.0, 6.1), mask),
        FoundObject("cat", 0.4, Box(0, 0, 20, 10), torch.ones(10, 20)),
    ]
    assert report_table(found, ["cat", "dog", "red ball"]).splitlines() == [
        "phrase    score  box             area",
        "red ball  0.91   5, 2 to 10, 6   10.0%",
        "cat       0.40   0, 0 to 20, 10  100.0%",
        "Nothing was found for dog. Lower the least object score, or use other words.",
    ]
    assert torch.equal(union_mask(found, 10, 20), torch.ones(10, 20)) and torch.equal(
        union_mask(found[:1], 10, 20), mask
    )


def test_loads_finders_from_folders(models, monkeypatch, tmp_path):
    assert isinstance(load_finder(models["dino"], models["sam"]), GroundedSam)
    assert load_finder(clipseg_folder=models["clipseg"]).name == "clipseg"
    for half in ({"dino_folder": models["dino"]}, {"sam_folder": models["sam"]}):
        with pytest.raises(
            ModelError,
            match="Grounding DINO finds boxes and SAM the masks in them. Give the folders of both, or one of "
            "CLIPSeg.",
        ):
            load_finder(**half)
    monkeypatch.setattr(finder_loading, "POCKET_FINDER_FOLDER", tmp_path / "none")
    with pytest.raises(ModelError, match="this build of InstructBrush has no built-in one"):
        load_finder()
    monkeypatch.setattr(finder_loading, "POCKET_FINDER_FOLDER", models["clipseg"])
    built_in = load_finder()
    assert built_in.name == "pocket finder" and built_in.thresholds == (0.5, 0.5)


@pytest.mark.parametrize(
    ("phrase", "known"),
    [
        ("the red star", True),
        ("Eyes", True),
        ("green things", True),
        ("the unicorn", False),
        ("starfish", False),
        ("", False),
    ],
)
def test_knows_phrases_by_their_nouns(phrase, known):
    nouns = ("star", "eye", "thing")
    assert knows(nouns, phrase) is known and knows((), phrase)


def test_the_built_in_finder_does_not_invent_what_it_cannot_know():
    finder = load_finder()
    scene = torch.full((128, 128, 3), 0.9)
    scene[40:90, 40:90] = torch.tensor([0.85, 0.12, 0.12])
    assert finder.find(scene, ["red square"])
    assert finder.find(scene, ["unicorn"]) == []
    both = finder.find(scene, ["unicorn", "red square"])
    assert {found.phrase for found in both} == {"red square"}
    remark = unknown_remark(finder, ["unicorn", "red square"])
    assert remark.startswith("The pocket finder does not know unicorn. It knows circle, square,")
    assert unknown_remark(finder, ["red square"]) == ""
