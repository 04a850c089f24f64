"""What the vision tower of finder and reader is taught: which thing is where."""

import numpy as np
import torch

from instructbrush.tools.pocket.models.patch_labels import (
    CELLS,
    SIZES,
    WORN,
    Sight,
    compared,
    draw,
    load_tower,
    seen,
    silhouettes,
)
from instructbrush.tools.pocket.reasoning_stages.train_finder import sample_phrase
from instructbrush.tools.pocket.world.drawing import COLOUR_NAMES, COLOURS, SHAPES, SIZE
from instructbrush.tools.pocket.world.scenes import Scene, Thing, sample_scene

SIDE = 8


def scene(*things: Thing) -> Scene:
    """Things on the background of some scene."""
    drawn = sample_scene(np.random.default_rng(0), 1)
    return Scene(**{**vars(drawn), "things": things})


def thing(shape: str, colour: str, x: float, y: float, r: float = 20, **worn: object) -> Thing:
    return Thing(shape, colour, np.asarray(COLOURS[colour], np.float32), x, y, r, **worn)  # type: ignore[arg-type]


def test_patches_know_the_thing_that_covers_them() -> None:
    shape, colour, worn, outline, *_ = seen(
        scene(thing("square", "red", 32, 32), thing("star", "blue", 96, 96, eyes=True)), SIDE
    )
    assert (
        shape[2, 2] == SHAPES.index("square") + 1
        and colour[2, 2] == COLOUR_NAMES.index("red") + 1
        and not worn[2, 2].any()
    )
    assert shape[6, 6] == SHAPES.index("star") + 1 and [
        name for name, on in zip(WORN, worn[6, 6], strict=True) if on
    ] == ["eyes"]
    assert shape[2, 6] == colour[2, 6] == 0 and not outline[2, 6].any() and outline[2, 2].all()
    assert outline.shape == (SIDE, SIDE, CELLS**2)


def test_later_things_cover_earlier_ones() -> None:
    both = scene(thing("square", "red", 60, 60, 30), thing("circle", "blue", 60, 60, 15))
    square, circle = silhouettes(both)
    assert not (square & circle).any() and circle[60, 60] and square[60, 82]
    assert seen(both, SIDE)[0][3, 3] == SHAPES.index("circle") + 1


def test_the_mirrored_half_of_a_batch_is_told_as_mirrored() -> None:
    """Outlines and names of the second half are those of the first, seen in a mirror."""
    pixels, shape, colour, worn, outline, *others = draw(np.random.default_rng(3), 6, SIDE)
    assert torch.equal(pixels[3:], pixels[:3].flip(-1))
    for told in (shape, colour, worn, *others):
        told = told.unflatten(1, (SIDE, SIDE))
        assert torch.equal(told[3:], told[:3].flip(2))
    cells = (
        outline.view(6, SIDE, SIDE, CELLS, CELLS)
        .permute(0, 1, 3, 2, 4)
        .reshape(6, SIDE * CELLS, SIDE * CELLS)
    )
    assert torch.equal(cells[3:], cells[:3].flip(-1)) and not torch.equal(cells[3:], cells[:3])


def test_things_are_compared_with_the_others() -> None:
    two = scene(
        thing("square", "red", 32, 32, 12),
        thing("star", "blue", 90, 90, 24, dots=np.asarray(COLOURS["green"], np.float32)),
    )
    size, pattern, odd = seen(two, SIDE)[4:]
    assert (
        SIZES[size[2, 2]] == "smallest"
        and SIZES[size[5, 5]] == "biggest"
        and size[2, 6] == 0
        and not odd.any()
    )
    assert pattern[5, 5] == COLOUR_NAMES.index("green") + 1 and pattern[2, 2] == 0
    three = [
        thing("square", "red", 24, 24, 14),
        thing("square", "blue", 100, 24, 14),
        thing("square", "red", 64, 96, 14),
    ]
    assert compared(scene(*three)) == [(0, False, False), (0, True, False), (0, False, False)]
    assert compared(scene(*three[:2], thing("star", "red", 64, 96, 20)))[2] == (3, False, True)
    assert compared(scene(three[0])) == [(0, False, False)]


def test_all_that_is_told_counts() -> None:
    """Every head and the whole tower below get gradients, and a right answer costs less than a wrong one."""
    torch.manual_seed(0)
    model = Sight(load_tower()).requires_grad_(True)
    batch = draw(np.random.default_rng(4), 4, SIDE)
    loss = model.loss(batch)
    loss.backward()
    assert all(part.abs().sum() > 0 for part in model.heads.weight.grad.split(model.heads.sizes))
    assert model.tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    with torch.no_grad():
        model.heads.weight.sub_(0.2 * model.heads.weight.grad / model.heads.weight.grad.norm())
        assert model.loss(batch) < loss


def test_phrases_name_what_their_mask_shows() -> None:
    rng = np.random.default_rng(5)
    both = scene(thing("square", "red", 32, 32), thing("star", "blue", 96, 96))
    kinds = {"square": 0, "star": 0, "background": 0, "nothing": 0}
    for _ in range(120):
        phrase, mask = sample_phrase(rng, both)
        assert mask.shape == (SIZE, SIZE) and mask.dtype == bool
        if "square" in phrase and "red" in phrase:
            assert mask[32, 32] and not mask[96, 96]
        name = next((name for name in kinds if name in phrase), "nothing")
        kinds[name] += 1
        assert bool(mask.any()) == (name != "nothing") or "thing" in phrase or both.background == "ground"
    assert all(kinds.values())
