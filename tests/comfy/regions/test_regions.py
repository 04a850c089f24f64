"""Clean Region, Soft Region, Combine Regions and Paste Back on a real ComfyUI."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, instruction, make_image, sampled

DEFAULTS = {
    "when_refused": "stop",
    "shape": "fine",
    "grow": 0,
    "feather": 0,
    "fill_holes": False,
    "drop_fragments": 0.0,
    "min_area": 0.01,
    "max_area": 0.9,
    "max_fragments": 500,
    "threshold": 0.5,
}


def square(left, top, right, bottom, side=64):
    mask = torch.zeros(1, side, side)
    mask[:, top:bottom, left:right] = 1
    return mask


def left_mask():
    return square(0, 0, 32, 64)


def close(first, second, tolerance=2e-5):
    return torch.allclose(first, second, atol=tolerance * second.abs().max().item())


def cleaning(comfy, mask, **changes):
    graph = comfy.graph()
    return graph, graph.node(
        "InstructBrushCleanRegion", mask=comfy.give(graph, mask), **{**DEFAULTS, **changes}
    )


def softened(comfy, fine, **inputs):
    graph = comfy.graph()
    given = {
        name: comfy.give(graph, value) if not isinstance(value, str | float) else value
        for name, value in inputs.items()
    }
    return graph, graph.node("InstructBrushSoftRegion", mask=comfy.give(graph, fine), **{"s": 0.5, **given})


# Clean Region


def test_what_a_mask_covers_is_shown_in_the_node(comfy):
    masks = torch.cat([square(0, 0, 32, 32), square(0, 0, 16, 64)])
    graph, node = cleaning(comfy, masks)
    run = comfy.run(graph, node.out(0), node.out(1))
    mask, report = run.values
    assert torch.equal(mask, masks)
    assert report.splitlines() == [
        f"{number}: accepted: covers 25 % of the image in 1 fragment" for number in (1, 2)
    ]
    assert [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})] == [
        [report]
    ]


def test_a_painted_mask_is_cleaned(comfy):
    mask = square(10, 10, 40, 40)
    mask[:, 20:24, 20:24] = 0
    mask[:, 60, 60] = 1
    graph, node = cleaning(comfy, mask[0], fill_holes=True, drop_fragments=0.01, grow=2, feather=4)
    cleaned, report = comfy.values(graph, node.out(0), node.out(1))
    assert (
        cleaned.shape == (1, 64, 64)
        and (cleaned[:, 8:42, 10:40] == 1).all()
        and not cleaned[:, 50:].any()
        and 0 < cleaned[0, 20, 44] < 1
    )
    assert report.startswith("accepted: covers 22 % of the image in 1 fragment, ")


@pytest.mark.parametrize(
    ("when_refused", "expected"),
    [
        ("keep", square(0, 0, 3, 3)),
        ("empty", torch.zeros(1, 64, 64)),
        ("whole picture", torch.ones(1, 64, 64)),
    ],
)
def test_a_refused_mask_can_let_the_run_go_on(comfy, when_refused, expected):
    good = square(8, 8, 40, 40)
    graph, node = cleaning(comfy, torch.cat([good, square(0, 0, 3, 3)]), when_refused=when_refused)
    mask, report = comfy.values(graph, node.out(0), node.out(1))
    assert torch.equal(mask, torch.cat([good, expected]))
    assert report.splitlines()[1] == "2: refused: covers 0.22 % of the image, at least 1 % is needed"


@pytest.mark.parametrize(
    ("mask", "changes", "message"),
    [
        (
            torch.cat([square(8, 8, 40, 40), square(0, 0, 3, 3)]),
            {},
            "Clean Region: mask 2 of 2 was refused: covers 0.22 % of the image, at least 1 % is needed. Give another mask, change the limits, or let "
            "when_refused go on.",
        ),
        (
            torch.zeros(1, 64, 64),
            {},
            "Clean Region: mask 1 of 1 was refused: it is empty, no value exceeds the threshold of 0.5. Perhaps none was painted",
        ),
        (
            torch.ones(1, 64, 64),
            {},
            "Clean Region: mask 1 of 1 was refused: covers 100 % of the image, at most 90 % is allowed.",
        ),
        (
            square(8, 8, 40, 40),
            {"grow": -20},
            "Clean Region: mask 1 of 1 was refused: shrinking it by 20 pixels leaves nothing of it.",
        ),
        (
            torch.zeros(0, 64, 64),
            {},
            "Mask: there is none in it (its shape is (0, 64, 64)). Perhaps nothing was found: connect a mask that holds a region.",
        ),
        (torch.full((1, 8, 8), float("nan")), {}, "Mask holds values that are not finite."),
        (
            square(8, 8, 40, 40),
            {"min_area": 0.5, "max_area": 0.2},
            "Region settings: min_area 0.5 exceeds max_area 0.2, so no mask would be accepted. Swap them.",
        ),
    ],
)
def test_masks_that_stop_the_run(comfy, mask, changes, message):
    graph, node = cleaning(comfy, mask, **changes)
    assert comfy.error(graph, node.out(0)).startswith(message)


# Soft Region


def test_the_soft_mask_of_a_box_mask_of_boxes_and_of_its_own_box(comfy):
    fine, box = square(20, 20, 30, 30), square(10, 10, 40, 40)
    expected = torch.maximum(fine, 0.5 * box)
    graph, node = softened(comfy, fine, box_mask=box)
    assert torch.equal(comfy.values(graph, node.out(0))[0], expected)
    graph = comfy.graph()
    stock = graph.node("PrimitiveBoundingBox", x=10, y=10, width=30, height=30)
    node = graph.node("InstructBrushSoftRegion", mask=comfy.give(graph, fine), s=0.5, boxes=stock.out(0))
    assert torch.equal(comfy.values(graph, node.out(0))[0], expected)
    corners = torch.maximum(fine, square(0, 0, 4, 4))
    graph, node = softened(comfy, corners)
    assert torch.equal(
        comfy.values(graph, node.out(0))[0], torch.maximum(corners, 0.5 * square(0, 0, 30, 30))
    )
    graph, node = softened(comfy, corners, own_box="around each fragment")
    assert torch.equal(comfy.values(graph, node.out(0))[0], corners)


def test_boxes_of_a_detector_are_each_images_own(comfy):
    fine = square(20, 20, 30, 30).repeat(2, 1, 1)
    found = [[{"x": 40.0, "y": -0.7, "width": 24.4, "height": 10.0, "score": 0.9}], []]
    graph, node = softened(comfy, fine, boxes=found, s=0.25)
    made = comfy.values(graph, node.out(0))[0]
    assert torch.equal(made[0], torch.maximum(fine[0], 0.25 * square(40, 0, 64, 10)[0])) and torch.equal(
        made[1], fine[1]
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"box_mask": torch.ones(1, 32, 64)},
            "Soft mask: the fine mask is 64 x 64, the box mask 64 x 32. Make both as large as the image.",
        ),
        (
            {"box_mask": torch.ones(3, 64, 64)},
            "Soft mask: 2 fine masks and 3 box masks. Give a box mask for each fine mask, or one for all.",
        ),
        (
            {"boxes": {"x": 200, "y": 0, "width": 9, "height": 9}},
            "Box 1 (200, 0, 209, 9) (left, top, right, bottom) in an image of 64 x 64 leaves the image.",
        ),
        (
            {"boxes": [{"x": 5, "y": 5, "width": 0, "height": 9}]},
            "Box 1 (5, 5, 5, 14) (left, top, right, bottom) in an image of 64 x 64 is empty.",
        ),
        (
            {"boxes": [[], [], []]},
            "Boxes: there are boxes for 3 images, but 2 masks. Give boxes for each, or one list for all.",
        ),
        (
            {"boxes": [{"x": 5}]},
            "Boxes: {'x': 5} is no box. A box has the numbers x, y, width and height, in pixels.",
        ),
        ({"boxes": 7}, "Boxes: int is no list of boxes. Connect an output that gives BOUNDING_BOX."),
    ],
)
def test_boxes_that_do_not_fit_are_refused(comfy, inputs, message):
    graph, node = softened(comfy, square(20, 20, 30, 30).repeat(2, 1, 1), **inputs)
    assert comfy.error(graph, node.out(0)).startswith(message)


# Combine Regions


class Regions:
    """A graph that edits one image, with a place for several regions."""

    def __init__(self, comfy, count=1):
        self.comfy, self.graph = comfy, comfy.graph()
        parts = Parts(self.graph)
        self.model = parts.model
        self.words, self.negative, self.latent = conditioned(
            self.graph, parts, self.give(make_image(0, count))
        )

    def give(self, value):
        return self.comfy.give(self.graph, value)

    def branch(self, learned):
        self.model, marked = applied(self.graph, self.comfy, self.model, self.words, learned)
        return marked

    def combine(self, *pairs, **more):
        inputs = {}
        for number, (conditioning, mask) in enumerate(pairs, 1):
            inputs |= {
                f"conditioning_{number}": conditioning,
                f"mask_{number}": self.give(mask) if isinstance(mask, torch.Tensor) else mask,
            }
        return self.graph.node("InstructBrushCombineRegions", **inputs, **more)

    def sample(self, positive, steps=1):
        return self.comfy.values(
            self.graph, sampled(self.graph, self.model, positive, self.negative, self.latent, steps=steps)
        )[0]["samples"]


def alone(comfy, learned=None, count=1):
    regions = Regions(comfy, count)
    return regions.sample(regions.words if learned is None else regions.branch(learned))


def test_two_regions_with_an_instruction_each(comfy):
    first, second = instruction(comfy, 1), instruction(comfy, 2, segments=3, tokens=5)
    regions = Regions(comfy)
    node = regions.combine((regions.branch(first), left_mask()), (regions.branch(second), 1 - left_mask()))
    mixed = regions.sample(node.out(0))
    assert close(mixed[..., :4], alone(comfy, first)[..., :4]) and close(
        mixed[..., 4:], alone(comfy, second)[..., 4:]
    )
    assert torch.equal(comfy.values(regions.graph, node.out(1))[0], torch.ones(1, 64, 64))


def test_the_rest_acts_where_no_region_lies(comfy):
    learned = instruction(comfy, 1)
    regions = Regions(comfy)
    node = regions.combine((regions.branch(learned), left_mask()), rest=regions.words)
    mixed = regions.sample(node.out(0))
    assert close(mixed[..., :4], alone(comfy, learned)[..., :4]) and close(
        mixed[..., 4:], alone(comfy)[..., 4:]
    )


def test_without_a_rest_one_region_edits_as_without_a_mask(comfy):
    learned = instruction(comfy, 1)
    for mask in (torch.ones(1, 64, 64), left_mask(), torch.zeros(1, 64, 64)):
        regions = Regions(comfy)
        assert close(
            regions.sample(regions.combine((regions.branch(learned), mask)).out(0)),
            alone(comfy, learned),
            1e-4,
        )


def test_overlapping_regions_share_by_their_masks(comfy):
    learned = instruction(comfy, 1)
    regions = Regions(comfy)
    node = regions.combine(
        (regions.branch(learned), torch.full((1, 64, 64), 0.75)),
        (regions.words, torch.full((1, 64, 64), 0.25)),
    )
    # Euler's single step and guidance are linear in the prediction.
    assert close(regions.sample(node.out(0)), 0.75 * alone(comfy, learned) + 0.25 * alone(comfy), 1e-4)


def test_a_batch_with_a_mask_for_each_image(comfy):
    learned = instruction(comfy, 1)
    regions = Regions(comfy, 2)
    masks = torch.cat([left_mask(), 1 - left_mask()])
    node = regions.combine((regions.branch(learned), masks), rest=regions.words)
    mixed, edited, kept = regions.sample(node.out(0)), alone(comfy, learned, 2), alone(comfy, count=2)
    assert close(mixed[0, ..., :4], edited[0, ..., :4], 1e-4) and close(
        mixed[0, ..., 4:], kept[0, ..., 4:], 1e-4
    )
    assert close(mixed[1, ..., 4:], edited[1, ..., 4:], 1e-4) and close(
        mixed[1, ..., :4], kept[1, ..., :4], 1e-4
    )


def test_combined_regions_can_be_combined_again(comfy):
    first, second = instruction(comfy, 1), instruction(comfy, 2)
    regions = Regions(comfy)
    one, two = regions.branch(first), regions.branch(second)
    inner = regions.combine((one, square(0, 0, 16, 64)), (two, square(16, 0, 32, 64)))
    outer = regions.combine((inner.out(0), inner.out(1)), (regions.words, 1 - left_mask()))
    flat = regions.combine(
        (one, square(0, 0, 16, 64)), (two, square(16, 0, 32, 64)), (regions.words, 1 - left_mask())
    )
    assert close(regions.sample(outer.out(0)), regions.sample(flat.out(0)))
    assert torch.equal(comfy.values(regions.graph, outer.out(1))[0], torch.ones(1, 64, 64))


def test_the_masks_are_those_of_conditioning_set_mask(comfy):
    regions = Regions(comfy)
    mask = left_mask()
    node = regions.combine((regions.words, mask), rest=regions.words)
    stock = regions.graph.node(
        "ConditioningSetMask",
        conditioning=regions.words,
        mask=regions.give(mask),
        strength=1.0,
        set_cond_area="default",
    )
    (ours, theirs) = comfy.values(regions.graph, node.out(0), stock.out(0))
    assert len(ours) == 2
    (_, mine), (_, stocks) = ours[0], theirs[0]
    assert (
        mine.keys() == stocks.keys()
        and torch.equal(mine["mask"], stocks["mask"])
        and torch.equal(ours[1][1]["mask"], 1 - mask)
    )
    assert (mine["set_area_to_bounds"], mine["mask_strength"]) == (
        stocks["set_area_to_bounds"],
        stocks["mask_strength"],
    )


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            [left_mask(), torch.ones(1, 32, 64)],
            "Mask: it is 64 x 32, the image 64 x 64, which is another aspect ratio.",
        ),
        (
            [torch.ones(2, 64, 64), torch.ones(3, 64, 64)],
            "Mask: 2 masks do not fit 3 images. Give one for each image, or one for all.",
        ),
        (
            [left_mask() * 255],
            "Mask holds values from 0 to 255. Scale them: a mask runs from 0 (stays) to 1 (is edited).",
        ),
    ],
)
def test_regions_that_do_not_fit_are_refused(comfy, masks, message):
    regions = Regions(comfy)
    assert comfy.error(
        regions.graph, regions.combine(*((regions.words, mask) for mask in masks)).out(0)
    ).startswith(message)


def test_a_region_without_its_other_half_is_refused(comfy):
    regions = Regions(comfy)
    node = regions.combine((regions.words, left_mask()), mask_3=regions.give(left_mask()))
    assert (
        comfy.error(regions.graph, node.out(0))
        == "Combine Regions: mask_3 has no conditioning_3. Connect both, or neither."
    )
    regions = Regions(comfy)
    node = regions.combine((regions.words, left_mask()), conditioning_2=regions.words)
    assert (
        comfy.error(regions.graph, node.out(0))
        == "Combine Regions: conditioning_2 has no mask_2. Connect both, or neither."
    )


def test_the_largest_mask_decides_the_size(comfy):
    regions = Regions(comfy)
    node = regions.combine(
        (regions.words, square(0, 0, 16, 32, side=32)), (regions.words, square(32, 0, 64, 64))
    )
    union = comfy.values(regions.graph, node.out(1))[0]
    assert union.shape == (1, 64, 64) and (union[..., :30] == 1).all() and (union[..., 34:] == 1).all()
    regions = Regions(comfy)
    node = regions.combine(
        (regions.words, torch.zeros(1, 64, 64)), (regions.words, square(0, 0, 64, 128, side=128))
    )
    assert comfy.error(regions.graph, node.out(1)).startswith(
        "Mask: no mask was painted. It is the black one of 64 x 64 that Load Image gives"
    )


# Masks of every shape


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (1, 1, 64, 64), (1, 64, 64, 1), (1, 64, 64, 3)])
def test_every_region_node_takes_masks_of_every_shape(comfy, shape):
    def given(mask):
        return mask.expand(shape) if len(shape) < 4 or shape[1] == 1 else mask[..., None].expand(shape)

    fine = square(8, 8, 40, 40)
    mask = given(fine[0] if len(shape) == 2 else fine)
    graph, node = cleaning(comfy, mask)
    assert torch.equal(comfy.values(graph, node.out(0))[0], fine)
    graph, node = softened(comfy, mask, box_mask=mask)
    assert torch.equal(comfy.values(graph, node.out(0))[0], fine)
    regions = Regions(comfy)
    assert torch.equal(comfy.values(regions.graph, regions.combine((regions.words, mask)).out(1))[0], fine)
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, make_image(1)),
        original=comfy.give(graph, make_image(0)),
        mask=comfy.give(graph, mask),
        feather=0,
    )
    assert torch.equal(
        comfy.values(graph, node.out(0))[0], torch.where(fine[..., None] == 1, make_image(1), make_image(0))
    )


# Paste Back


@pytest.mark.parametrize(("height", "width"), [(64, 64), (71, 66)])
def test_outside_the_mask_the_vae_has_changed_nothing(comfy, height, width):
    original = make_image(3, 2, height, width)
    mask = torch.zeros(2, height, width)
    mask[0, 20:40, 20:40] = 1
    mask[1, :, : width // 2] = 1
    graph = comfy.graph()
    parts, given = Parts(graph), comfy.give(graph, original)
    latent = graph.node("VAEEncode", pixels=given, vae=parts.vae).out(0)
    edited = graph.node("VAEDecode", samples=latent, vae=parts.vae).out(0)
    node = graph.node(
        "InstructBrushPasteBack", edited=edited, original=given, mask=comfy.give(graph, mask), feather=0
    )
    pasted, decoded = comfy.values(graph, node.out(0), edited)
    top, left = height % 8 // 2, width % 8 // 2
    rows, columns = decoded.shape[1:3]
    full = original.clone()
    full[:, top : top + rows, left : left + columns] = decoded
    assert pasted.shape == original.shape
    assert torch.equal(pasted, torch.where(mask[..., None] == 1, full, original)) and not torch.equal(
        pasted, original
    )
    # The VAE makes the same image where it was cut from: nothing has moved.
    assert (full - original).abs().mean() < 0.1


def test_feathering_and_single_masks(comfy):
    graph = comfy.graph()
    edited, original = torch.ones(3, 64, 64, 3), torch.zeros(1, 64, 64, 3)
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, edited),
        original=comfy.give(graph, original),
        mask=comfy.give(graph, left_mask()[0]),
        feather=1,
    )
    pasted = comfy.values(graph, node.out(0))[0]
    assert (
        pasted.shape == (3, 64, 64, 3)
        and (pasted[:, :, :31] == 1).all()
        and (pasted[:, :, 31] == 0.5).all()
        and not pasted[:, :, 32:].any()
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_the_originals_transparency_stays(comfy, channels):
    graph = comfy.graph()
    original = torch.cat([make_image(0), make_image(1)[..., :1]], dim=-1)
    edited = torch.cat([make_image(2), make_image(3)[..., :1]], dim=-1)[..., :channels]
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, edited),
        original=comfy.give(graph, original),
        mask=comfy.give(graph, left_mask()),
        feather=0,
    )
    pasted = comfy.values(graph, node.out(0))[0]
    assert torch.equal(pasted[..., 3], original[..., 3])
    assert torch.equal(pasted[:, :, :32, :3], edited[:, :, :32, :3]) and torch.equal(
        pasted[:, :, 32:], original[:, :, 32:]
    )


@pytest.mark.parametrize(
    ("edited", "original", "mask", "message"),
    [
        (
            make_image(0, 1, 64, 64),
            make_image(0, 1, 100, 64),
            torch.ones(1, 100, 64),
            "Paste back: the edited image is 64 x 64, the original 64 x 100.",
        ),
        (
            make_image(0, 2),
            make_image(0, 3),
            torch.ones(1, 64, 64),
            "Paste back: 2 edited images but 3 originals. Give the original of each, or one for all.",
        ),
        (
            make_image(0, 2),
            make_image(0, 2),
            torch.ones(3, 64, 64),
            "Mask: 3 masks do not fit 2 images. Give one for each image, or one for all.",
        ),
        (
            make_image(0, 1),
            make_image(0, 1),
            torch.ones(1, 64, 32),
            "Mask: it is 32 x 64, the image 64 x 64, which is another aspect ratio.",
        ),
    ],
)
def test_what_cannot_be_pasted_is_refused(comfy, edited, original, mask, message):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, edited),
        original=comfy.give(graph, original),
        mask=comfy.give(graph, mask),
        feather=0,
    )
    assert comfy.error(graph, node.out(0)).startswith(message)
