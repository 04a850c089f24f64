"""Region edits over HTTP: masks with ControlNet, LoRA and an instruction; two instructions in one image."""

import numpy as np
import pytest
from PIL import Image

from instructbrush.tools.prompts import EditPrompt, read_image

# Not multiples of 8.
HEIGHT = 134
WIDTH = 131
CENTERS = ((0.3, 0.35), (0.6, 0.6), (0.65, 0.3))
STEPS = 8


def disc(y, x, radius=0.24):
    """A disc as bool [HEIGHT, WIDTH]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.hypot(rows / HEIGHT - y, columns / WIDTH - x) < radius


def save(server, name, image):
    """Writes an image, uint8 [h, w, 3] or bool [h, w], to the input folder."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, -1).astype(np.uint8) * 255
    Image.fromarray(image).save(server.base / "input" / name)
    return name


@pytest.fixture(scope="module")
def images(server):
    """Names and pixels of three smooth images."""
    rng = np.random.default_rng(3)
    made = [
        Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        for _ in CENTERS
    ]
    pixels = [np.asarray(each) for each in made]
    return [save(server, f"region_{index}.png", each) for index, each in enumerate(pixels)], pixels


@pytest.fixture(scope="module")
def masks(server):
    """Names and pixels of one disc for each image."""
    discs = [disc(*center) for center in CENTERS]
    return [save(server, f"mask_{index}.png", each) for index, each in enumerate(discs)], discs


class RegionPrompt(EditPrompt):
    """A prompt with images and masks, which both tests extend."""

    def __init__(self, names, masks):
        super().__init__()
        self.image = self.images(names)
        self.masks = [self.add("LoadImageMask", image=name, channel="red") for name in masks]

    def mask_batch(self):
        """Adds one MASK batch of all masks."""
        batch = self.masks[0]
        for mask in self.masks[1:]:
            images = [self.add("MaskToImage", mask=each) for each in (batch, mask)]
            batch = self.add(
                "ImageToMask", image=self.add("ImageBatch", image1=images[0], image2=images[1]), channel="red"
            )
        return batch

    def words(self, text, clip=None):
        """Adds a CONDITIONING."""
        return self.add("CLIPTextEncode", clip=clip or self.clip, text=text)

    def apply(self, name, model, conditioning, strength=1.0):
        """Adds an example instruction."""
        return self.add(
            "InstructBrushApply",
            model=model,
            conditioning=conditioning,
            instruction=self.add("InstructBrushLoad", name=f"{name}.safetensors"),
            strength=strength,
            end_timestep=0,
        )

    def region_edit(self, model, mask):
        """Adds Region Edit; its outputs are MODEL and LATENT."""
        source = self.add("VAEEncode", pixels=self.image, vae=self.vae)
        return self.add("InstructBrushRegionEdit", model=model, latent=source, mask=mask, blend_every=2)

    def run(self, server, region, guider, mask):
        """Samples, pastes back and returns the images, uint8 [h, w, 3] each."""
        edited = self.sample(guider, latent=[region[0], 1], model=region, steps=STEPS)
        pasted = self.add("InstructBrushPasteBack", edited=edited, original=self.image, mask=mask, feather=0)
        (node, _) = self.add("SaveImage", images=pasted, filename_prefix="region")
        return [read_image(server.view(image)) for image in server.run(self.nodes).images(node)]


def edit_with_controlnet_and_lora(server, names, masks, strength):
    """Edits three images in three masks with ControlNet, LoRA and an instruction."""
    prompt = RegionPrompt(names, masks)
    lora = prompt.add(
        "LoraLoader",
        model=prompt.model,
        clip=prompt.clip,
        lora_name="pocket_aged_paper.safetensors",
        strength_model=0.6,
        strength_clip=1.0,
    )
    empty = prompt.words("", [lora[0], 1])
    with_image = prompt.add(
        "InstructPixToPixConditioning",
        positive=empty,
        negative=empty,
        vae=prompt.vae,
        pixels=prompt.image,
    )
    control = prompt.add(
        "ControlNetApplyAdvanced",
        positive=with_image,
        negative=[with_image[0], 1],
        control_net=prompt.add("ControlNetLoader", control_net_name="pocket_outlines.safetensors"),
        image=prompt.add("Canny", image=prompt.image, low_threshold=0.4, high_threshold=0.8),
        strength=0.5,
        start_percent=0.0,
        end_percent=1.0,
    )
    applied = prompt.apply("light_from_the_right", lora, control, strength)
    mask = prompt.mask_batch()
    region = prompt.region_edit(applied, mask)
    guider = prompt.add(
        "DualCFGGuider",
        model=region,
        cond1=[applied[0], 1],
        cond2=[control[0], 1],
        negative=empty,
        cfg_conds=2.0,
        cfg_cond2_negative=1.5,
        style="regular",
    )
    return prompt.run(server, region, guider, mask)


def edit_two_regions(server, name, masks, first, second):
    """Edits one image with an instruction for each of two masks. Returns int [h, w, 3]."""
    prompt = RegionPrompt([name], masks)
    model = prompt.model
    conditionings = []
    for instruction in (first, second):
        model = prompt.apply(instruction, model, prompt.words(""))
        conditionings.append([model[0], 1])
    regions = prompt.add(
        "InstructBrushCombineRegions",
        conditioning_1=conditionings[0],
        mask_1=prompt.masks[0],
        conditioning_2=conditionings[1],
        mask_2=prompt.masks[1],
    )
    mask = [regions[0], 1]
    region = prompt.region_edit(model, mask)
    guider = prompt.guider(prompt.image, model=region, conditioning=regions)
    (image,) = prompt.run(server, region, guider, mask)
    return image.astype(int)


def mean_difference(a, b, mask):
    return np.abs(a[mask].astype(int) - b[mask]).mean()


def test_edits_three_images_in_three_masks_with_controlnet_and_lora(server, images, masks):
    names, originals = images
    mask_names, discs = masks
    full = edit_with_controlnet_and_lora(server, names, mask_names, 1.0)
    none = edit_with_controlnet_and_lora(server, names, mask_names, 0.0)
    # The model edits the largest centered area whose sides are multiples of 8.
    from_center = np.mgrid[0:HEIGHT, 0:WIDTH] - np.array([HEIGHT, WIDTH])[:, None, None] / 2
    edited_area = (np.abs(from_center) < 60).all(0)
    assert len(full) == len(none) == 3
    for made, without, original, mask in zip(full, none, originals, discs, strict=True):
        assert made.shape == original.shape
        assert np.array_equal(made[~mask], original[~mask])
        assert mean_difference(made, original, mask & edited_area) > 3
        assert mean_difference(made, without, mask & edited_area) > 1


def test_each_of_two_regions_follows_its_own_instruction(server, images, masks):
    name = images[0][0]
    original = images[1][0]
    mask_names = masks[0][:2]
    light, plum = "light_from_the_right", "plum_and_mint"
    light_plum = edit_two_regions(server, name, mask_names, light, plum)
    plum_light = edit_two_regions(server, name, mask_names, plum, light)
    light_light = edit_two_regions(server, name, mask_names, light, light)
    first_disc, second_disc = masks[1][:2]
    outside = ~(first_disc | second_disc)
    for edited in (light_plum, plum_light, light_light):
        assert np.array_equal(edited[outside], original[outside])
    first = first_disc & ~second_disc
    second = second_disc & ~first_disc
    assert (
        mean_difference(light_plum, light_light, first) < mean_difference(plum_light, light_light, first) / 2
    )
    assert (
        mean_difference(plum_light, light_light, second)
        < mean_difference(light_plum, light_light, second) / 2
    )
