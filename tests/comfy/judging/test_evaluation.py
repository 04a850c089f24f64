"""Evaluate Edit on a real ComfyUI."""

import math

import pytest
import torch
from safetensors.torch import save_file

from instructbrush.core.encoders.clip import image_features, text_features
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.tests.comfy.graphs import make_image


def evaluate(comfy, edited, truth, before=None, clip=False, **more):
    graph = comfy.graph()
    inputs = {"edited": comfy.give(graph, edited), "truth": comfy.give(graph, truth), **more}
    if before is not None:
        inputs["before"] = comfy.give(graph, before)
    if clip:
        inputs["open_clip"] = graph.node("InstructBrushLoadOpenClip", clip_name="pocket CLIP (built in)").out(
            0
        )
    node = graph.node("InstructBrushEvaluate", **inputs)
    return graph, node


def test_outputs_and_shows_figures(comfy):
    truth = torch.full((2, 64, 64, 3), 0.4)
    edited = torch.cat([truth[:1] + 0.1, truth[1:] + 0.01])
    graph, node = evaluate(comfy, edited, truth)
    run = comfy.run(graph, *(node.out(index) for index in range(5)))
    text, psnr, ssim, lpips, direction = run.values
    assert (
        psnr == pytest.approx((20 + 40) / 2, abs=1e-3)
        and 0.5 < ssim < 1
        and math.isnan(lpips)
        and math.isnan(direction)
    )
    lines = text.splitlines()
    assert lines[0] == "2 images, mean ± 95 % interval"
    # 10 dB on both sides of the mean; Student's t is 12.706 with two images.
    assert lines[1].split() == ["PSNR", "30.00", "±127.06"] and lines[2].split()[0] == "SSIM"
    assert lines[4].split() == ["image", "PSNR", "SSIM"] and lines[6].split()[:2] == ["2", "40.00"]
    assert (
        lines[-1]
        == "LPIPS is not measured: put AlexNet's weights (alexnet.safetensors, which tools/get_backbone.py "
        "writes) into models/lpips."
    )
    shown = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert shown == [[text]]


def test_direction_needs_images_before_the_edit_and_clip(comfy):
    before, truth = make_image(1, 2, 128, 128), make_image(2, 2, 128, 128)
    graph, node = evaluate(comfy, truth, truth, before, clip=True)
    text, direction = comfy.values(graph, node.out(0), node.out(4))
    assert (
        direction == pytest.approx(0, abs=1e-5)
        and "PSNR of copying" in text
        and "similarity to input" in text
        and ["Direction", "0.0000"] in [line.split() for line in text.splitlines()]
    )
    graph, node = evaluate(comfy, before, truth, before, clip=True)
    assert comfy.values(graph, node.out(4))[0] == pytest.approx(1, abs=1e-5)
    graph, node = evaluate(comfy, truth, truth, clip=True)
    assert (
        "Direction is not measured: connect the images before the edit."
        in comfy.values(graph, node.out(0))[0]
    )


def test_direction_compares_with_the_training_pairs_if_they_are_connected(comfy):
    before, edited, truth = (make_image(seed, 2, 128, 128) for seed in (1, 2, 3))
    images = make_image(5, 6, 96, 64)
    pairs = comfy.pack("core.pairs.pairs").make_pairs(images[:3], images[3:])
    graph, node = evaluate(comfy, edited, truth, before, clip=True)
    node.set_input("pairs", comfy.give(graph, pairs))
    text, direction = comfy.values(graph, node.out(0), node.out(4))

    def features(images):
        features = pocket_clip().encode_images(images).double()
        return features / features.norm(dim=1, keepdim=True)

    moved = features(edited) - features(before)
    learned = (features(images[3:]) - features(images[:3])).mean(0)
    mean = moved.mean(0)
    assert direction == pytest.approx(1 - float(mean @ learned / (mean.norm() * learned.norm())), abs=1e-4)
    assert ["Direction", f"{direction:.4f}"] in [line.split() for line in text.splitlines()]
    assert text.endswith("Direction (pocket) compares with the change of 3 training pairs.")
    head, *lines = text[text.index("image  ") :].splitlines()
    assert head.endswith("Visual CLIP")
    each = [float(row @ learned / (row.norm() * learned.norm())) for row in moved]
    assert [float(line.split()[-1]) for line in lines[:2]] == pytest.approx(each, abs=2e-4)
    # Without the pairs it compares with the true results.
    graph, node = evaluate(comfy, edited, truth, before, clip=True)
    text, other = comfy.values(graph, node.out(0), node.out(4))
    true = (features(truth) - features(before)).mean(0)
    assert other == pytest.approx(1 - float(mean @ true / (mean.norm() * true.norm())), abs=1e-4)
    assert abs(other - direction) > 0.01 and "Visual CLIP" not in text
    assert (
        "Direction (pocket) compares with the change to the true results. Connect the training pairs" in text
    )


def test_pairs_without_clip_are_reported(comfy):
    images = make_image(5, 2)
    pairs = comfy.pack("core.pairs.pairs").make_pairs(images, images)
    graph, node = evaluate(comfy, images, images, images)
    node.set_input("pairs", comfy.give(graph, pairs))
    assert "Direction is not measured: connect a CLIP." in comfy.values(graph, node.out(0))[0]


def test_agreement_with_captions_matches_instructpix2pix(comfy):
    before, edited = make_image(1, 2, 128, 128), make_image(2, 2, 128, 128)
    words = {"caption_before": "a red circle", "caption_after": "a red circle in the snow"}
    graph, node = evaluate(comfy, edited, edited, before, clip=True, **words)
    text = comfy.values(graph, node.out(0))[0]
    head, *lines = text[text.index("image  ") :].splitlines()
    assert head.endswith("agreement with words")
    clip = pocket_clip()
    moved = image_features(clip, edited) - image_features(clip, before)
    said = text_features(clip, list(words.values()))
    expected = torch.nn.functional.cosine_similarity(moved, (said[1] - said[0])[None])
    assert [float(line.split()[-1]) for line in lines[:2]] == pytest.approx(expected.tolist(), abs=1e-4)
    graph, node = evaluate(comfy, edited, edited, before, clip=True, caption_after="snow")
    text = comfy.values(graph, node.out(0))[0]
    assert (
        "Agreement with the words is not measured: give both captions." in text
        and "agreement with words" not in text
    )


def test_measures_lpips_if_weights_exist(comfy):
    from pathlib import Path

    shapes = {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    }
    weights = {f"features.{layer}.weight": torch.randn(shape) * 0.05 for layer, shape in shapes.items()}
    file = Path(comfy.folder_paths.models_dir) / "lpips" / "alexnet.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    graph, node = evaluate(comfy, make_image(3, 1, 64, 64), make_image(4, 1, 64, 64))
    assert "LPIPS is not measured" in comfy.values(graph, node.out(0))[0]
    # The same graph measures it once the weights are there.
    save_file(
        weights | {f"features.{layer}.bias": torch.zeros(shape[0]) for layer, shape in shapes.items()}, file
    )
    try:
        text, lpips = comfy.values(graph, node.out(0), node.out(3))
        assert 0 < lpips < 5 and text.splitlines()[2].startswith("LPIPS  ") and "not measured" not in text
    finally:
        file.unlink()


def test_rejects_batches_that_do_not_match(comfy):
    graph, node = evaluate(comfy, make_image(1, 1), make_image(1, 2))
    assert "cannot be compared with the truth" in comfy.error(graph, node.out(0))
    graph, node = evaluate(comfy, make_image(1, 2), make_image(1, 2), make_image(1, 1))
    assert (
        "Evaluate Edit: 1 images of 64 x 64 before the edit do not match 2 edited images of 64 x 64."
        in comfy.error(graph, node.out(0))
    )


def test_one_image_has_each_figure_once(comfy):
    image = make_image(1, 1, 64, 64)
    graph, node = evaluate(comfy, image, (image + 0.1).clamp(max=1))
    text = comfy.values(graph, node.out(0))[0]
    assert [line.split()[0] for line in text.splitlines()[:2]] == ["PSNR", "SSIM"]
    assert "±" not in text and "image" not in text
