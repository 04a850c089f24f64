"""Patch labels, the patch classifier, and the phrases of the finder."""

from collections import Counter

import numpy as np
import torch

from instructbrush.tools.pocket.models.patch_labels import (
    CELLS,
    SIZES,
    WORN,
    PatchClassifier,
    compare_things,
    draw,
    label_patches,
    load_tower,
    silhouettes,
)
from instructbrush.tools.pocket.reasoning_stages.train_finder import sample_phrase
from instructbrush.tools.pocket.world.drawing import COLOUR_NAMES, COLOURS, SHAPES, SIZE
from instructbrush.tools.pocket.world.scenes import Scene, Thing

SIDE = 8
LIGHT = np.full(3, 0.9, np.float32)
GREEN = np.asarray(COLOURS["green"], np.float32)


def scene(*things: Thing) -> Scene:
    return Scene("plain", LIGHT, LIGHT, things=things)


def thing(shape: str, colour: str, x: float, y: float, r: float = 20, **worn: object) -> Thing:
    return Thing(shape, colour, np.asarray(COLOURS[colour], np.float32), x, y, r, **worn)


def test_labels_patches_with_the_thing_that_covers_them() -> None:
    square = thing("square", "red", 32, 32)
    star = thing("star", "blue", 96, 96, eyes=True)
    shape, colour, worn, outline, *_ = label_patches(scene(square, star), SIDE)
    assert shape[2, 2] == SHAPES.index("square") + 1
    assert colour[2, 2] == COLOUR_NAMES.index("red") + 1
    assert not worn[2, 2].any()
    assert shape[6, 6] == SHAPES.index("star") + 1
    assert [name for name, on in zip(WORN, worn[6, 6], strict=True) if on] == ["eyes"]
    assert shape[2, 6] == 0
    assert colour[2, 6] == 0
    assert outline.shape == (SIDE, SIDE, CELLS**2)
    assert outline[2, 2].all()
    assert not outline[2, 6].any()


def test_later_things_cover_earlier_ones() -> None:
    both = scene(thing("square", "red", 60, 60, 30), thing("circle", "blue", 60, 60, 15))
    square, circle = silhouettes(both)
    assert not (square & circle).any()
    assert circle[60, 60]
    assert square[60, 82]
    assert label_patches(both, SIDE)[0][3, 3] == SHAPES.index("circle") + 1


def test_mirrors_images_and_labels_in_the_second_half_of_a_batch() -> None:
    pixels, shape, colour, worn, outline, *others = draw(np.random.default_rng(3), 6, SIDE)
    assert torch.equal(pixels[3:], pixels[:3].flip(-1))
    for label in (shape, colour, worn, *others):
        grid = label.unflatten(1, (SIDE, SIDE))
        assert torch.equal(grid[3:], grid[:3].flip(2))
    cells = outline.view(6, SIDE, SIDE, CELLS, CELLS).permute(0, 1, 3, 2, 4)
    cells = cells.reshape(6, SIDE * CELLS, SIDE * CELLS)
    assert torch.equal(cells[3:], cells[:3].flip(-1))
    assert not torch.equal(cells[3:], cells[:3])


def test_compares_sizes_and_patterns_of_two_things() -> None:
    two = scene(thing("square", "red", 32, 32, 12), thing("star", "blue", 90, 90, 24, dots=GREEN))
    size, pattern, odd = label_patches(two, SIDE)[4:]
    assert SIZES[size[2, 2]] == "smallest"
    assert SIZES[size[5, 5]] == "biggest"
    assert size[2, 6] == 0
    assert pattern[5, 5] == COLOUR_NAMES.index("green") + 1
    assert pattern[2, 2] == 0
    assert not odd.any()


def test_finds_the_odd_one_of_three() -> None:
    red, blue = thing("square", "red", 24, 24, 14), thing("square", "blue", 100, 24, 14)
    other_red, star = thing("square", "red", 64, 96, 14), thing("star", "red", 64, 96, 20)
    assert compare_things(scene(red, blue, other_red)) == [
        (0, False, False),
        (0, True, False),
        (0, False, False),
    ]
    assert compare_things(scene(red, blue, star))[2] == (3, False, True)
    assert compare_things(scene(red)) == [(0, False, False)]


def test_classifier_loss_reaches_every_head_and_falls_along_its_gradient() -> None:
    torch.manual_seed(0)
    model = PatchClassifier(load_tower()).requires_grad_(True)
    batch = draw(np.random.default_rng(4), 4, SIDE)
    loss = model.loss(batch)
    loss.backward()
    gradient = model.heads.weight.grad
    assert all(part.abs().sum() > 0 for part in gradient.split(model.heads.sizes))
    assert model.tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    with torch.no_grad():
        model.heads.weight.sub_(0.2 * gradient / gradient.norm())
        assert model.loss(batch) < loss


def test_phrase_masks_show_exactly_what_the_phrase_names() -> None:
    both = scene(thing("square", "red", 32, 32), thing("star", "blue", 96, 96))
    square, star = silhouettes(both)
    expected = {
        "square": square,
        "red square": square,
        "red thing": square,
        "star": star,
        "blue star": star,
        "blue thing": star,
        "background": ~square & ~star,
    }
    rng = np.random.default_rng(5)
    counts: Counter[str] = Counter()
    for _ in range(200):
        phrase, mask = sample_phrase(rng, both)
        assert mask.shape == (SIZE, SIZE)
        assert mask.dtype == bool
        name = phrase.removeprefix("the ").removeprefix("a ")
        if name in expected:
            assert np.array_equal(mask, expected[name]), phrase
            counts[name] += 1
        else:  # a shape that is not in the scene
            assert name.split()[-1] in set(SHAPES) - {"square", "star"}, phrase
            assert not mask.any(), phrase
            counts["absent"] += 1
    assert set(counts) == {*expected, "absent"}


def test_phrase_masks_show_sky_ground_and_worn_items() -> None:
    hat = np.asarray(COLOURS["blue"], np.float32)
    worn = thing("square", "red", 64, 64, hat=hat, eyes=True)
    outside = Scene("ground", LIGHT, GREEN, horizon=80, ground="grass", things=(worn,))
    rng = np.random.default_rng(6)
    masks = {}
    for _ in range(300):
        phrase, mask = sample_phrase(rng, outside)
        masks[phrase.removeprefix("the ").removeprefix("a ")] = mask
    assert {"sky", "ground", "grass", "background", "hat", "eyes"} <= set(masks)
    assert masks["sky"][10, 10]
    assert not masks["sky"][110, 10]
    assert masks["ground"][110, 10]
    assert np.array_equal(masks["grass"], masks["ground"])
    assert np.array_equal(masks["background"], masks["sky"] | masks["ground"])
    assert masks["hat"][44, 64]
    assert not (masks["hat"] & masks["background"]).any()
    assert (masks["eyes"] & ~masks["square"]).sum() == 0
