"""Region edits over HTTP: three images with three masks through ControlNet, LoRA and a learned instruction, and two regions with two instructions."""

import io

import numpy as np
import pytest
from PIL import Image

from instructbrush.tools.demo import Graph

HEIGHT, WIDTH = 134, 131
"""No multiples of 8."""
CENTRES = ((0.3, 0.35), (0.6, 0.6), (0.65, 0.3))


def disc(y, x, radius=0.24):
    """bool [HEIGHT, WIDTH]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.hypot(rows / HEIGHT - y, columns / WIDTH - x) < radius


def save(server, name, image):
    """Put an image, uint8 [h, w, 3] or bool [h, w], into the input folder."""
    folder = server.base / "input"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        image if image.ndim == 3 else np.repeat(image[..., None], 3, -1).astype(np.uint8) * 255
    ).save(folder / name)
    return name


@pytest.fixture(scope="module")
def images(server):
    """Names and pixels of three smooth images."""
    rng = np.random.default_rng(3)
    made = [
        Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        for _ in CENTRES
    ]
    pixels = [np.asarray(each) for each in made]
    return [save(server, f"region_{index}.png", each) for index, each in enumerate(pixels)], pixels


@pytest.fixture(scope="module")
def masks(server):
    """Names and pixels of one disc for each image."""
    made = [disc(*centre) for centre in CENTRES]
    return [save(server, f"mask_{index}.png", each) for index, each in enumerate(made)], made


class Editing(Graph):
    """What both tests have in common."""

    def __init__(self, names, masks):
        super().__init__()
        self.model = self.add("InstructBrushLoadModel", model_name="pocket editor (built in)")
        self.clip, self.vae = [self.model[0], 1], [self.model[0], 2]
        self.image = self.images(names)
        self.masks = [self.add("LoadImageMask", image=name, channel="red") for name in masks]

    def mask_batch(self):
        """One MASK batch."""
        batch = self.masks[0]
        for mask in self.masks[1:]:
            images = [self.add("MaskToImage", mask=each) for each in (batch, mask)]
            batch = self.add(
                "ImageToMask", image=self.add("ImageBatch", image1=images[0], image2=images[1]), channel="red"
            )
        return batch

    def words(self, text, clip=None):
        """CONDITIONING."""
        return self.add("CLIPTextEncode", clip=clip or self.clip, text=text)

    def instruction(self, name):
        """INSTRUCTION of an example."""
        return self.add("InstructBrushLoad", name=f"{name}.safetensors")

    def sampled(self, model, guider, latent):
        """IMAGE."""
        noise = self.add("RandomNoise", noise_seed=1)
        sampler = self.add("KSamplerSelect", sampler_name="euler_ancestral")
        sigmas = self.add("BasicScheduler", model=model, scheduler="normal", steps=8, denoise=1.0)
        out = self.add(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent,
        )
        return self.add("VAEDecode", samples=out, vae=self.vae)


def run(server, graph, images):
    """The images of a link, uint8 [h, w, 3] each."""
    (node, _) = graph.add("SaveImage", images=images, filename_prefix="region")
    return [
        np.asarray(Image.open(io.BytesIO(server.view(image))).convert("RGB"))
        for image in server.run(graph.nodes).images(node)
    ]


def test_three_images_with_three_masks_through_controlnet_lora_and_instruction(server, images, masks):
    def edited(strength):
        graph = Editing(images[0], masks[0])
        lora = graph.add(
            "LoraLoader",
            model=graph.model,
            clip=graph.clip,
            lora_name="pocket_aged_paper.safetensors",
            strength_model=0.6,
            strength_clip=1.0,
        )
        words, nothing = graph.words("", [lora[0], 1]), graph.words("", [lora[0], 1])
        held = graph.add(
            "InstructPixToPixConditioning",
            positive=words,
            negative=nothing,
            vae=graph.vae,
            pixels=graph.image,
        )
        outlines = graph.add("Canny", image=graph.image, low_threshold=0.4, high_threshold=0.8)
        network = graph.add("ControlNetLoader", control_net_name="pocket_outlines.safetensors")
        control = graph.add(
            "ControlNetApplyAdvanced",
            positive=held,
            negative=[held[0], 1],
            control_net=network,
            image=outlines,
            strength=0.5,
            start_percent=0.0,
            end_percent=1.0,
        )
        learned = graph.instruction("light_from_the_right")
        applied = graph.add(
            "InstructBrushApply",
            model=lora,
            conditioning=control,
            instruction=learned,
            strength=strength,
            end_timestep=0,
        )
        source = graph.add("VAEEncode", pixels=graph.image, vae=graph.vae)
        mask = graph.mask_batch()
        region = graph.add("InstructBrushRegionEdit", model=applied, latent=source, mask=mask, blend_every=2)
        guider = graph.add(
            "DualCFGGuider",
            model=region,
            cond1=[applied[0], 1],
            cond2=[control[0], 1],
            negative=nothing,
            cfg_conds=2.0,
            cfg_cond2_negative=1.5,
            style="regular",
        )
        made = graph.sampled(region, guider, [region[0], 1])
        return run(
            server,
            graph,
            graph.add("InstructBrushPasteBack", edited=made, original=graph.image, mask=mask, feather=0),
        )

    whole, weaker = edited(1.0), edited(0.0)
    for made, other, original, mask in zip(whole, weaker, images[1], masks[1], strict=True):
        assert made.shape == original.shape
        assert np.array_equal(made[~mask], original[~mask])
        inside = mask & (
            np.abs(np.mgrid[0:HEIGHT, 0:WIDTH] - np.array([HEIGHT, WIDTH])[:, None, None] / 2) < 60
        ).all(0)
        assert np.abs(made[inside].astype(int) - original[inside]).mean() > 3
        assert np.abs(made[inside].astype(int) - other[inside]).mean() > 1


def test_two_regions_with_two_instructions_in_one_pass(server, images, masks):
    def edited(first, second):
        graph = Editing(images[0][:1], masks[0][:2])
        model, conditionings = graph.model, []
        for name in (first, second):
            applied = graph.add(
                "InstructBrushApply",
                model=model,
                conditioning=graph.words(""),
                instruction=graph.instruction(name),
                strength=1.0,
                end_timestep=0,
            )
            model = applied
            conditionings.append([applied[0], 1])
        regions = graph.add(
            "InstructBrushCombineRegions",
            conditioning_1=conditionings[0],
            mask_1=graph.masks[0],
            conditioning_2=conditionings[1],
            mask_2=graph.masks[1],
        )
        source = graph.add("VAEEncode", pixels=graph.image, vae=graph.vae)
        region = graph.add(
            "InstructBrushRegionEdit", model=model, latent=source, mask=[regions[0], 1], blend_every=2
        )
        guider = graph.add(
            "InstructBrushEditGuider",
            model=region,
            clip=graph.clip,
            vae=graph.vae,
            image=graph.image,
            words="",
            text_scale=-1.0,
            image_scale=1.5,
            strength=1.0,
            conditioning=regions,
        )
        made = graph.sampled(region, guider, [region[0], 1])
        return run(
            server,
            graph,
            graph.add(
                "InstructBrushPasteBack", edited=made, original=graph.image, mask=[regions[0], 1], feather=0
            ),
        )[0].astype(int)

    both = [edited("light_from_the_right", "plum_and_mint"), edited("plum_and_mint", "light_from_the_right")]
    alone = edited("light_from_the_right", "light_from_the_right")
    original, (first, second) = images[1][0], masks[1][:2]
    first, second = first & ~second, second & ~first
    assert all(
        np.array_equal(each[~(masks[1][0] | masks[1][1])], original[~(masks[1][0] | masks[1][1])])
        for each in (*both, alone)
    )
    # Every region follows its own instruction, whatever the other does.
    assert np.abs(both[0][first] - alone[first]).mean() < np.abs(both[1][first] - alone[first]).mean() / 2
    assert np.abs(both[1][second] - alone[second]).mean() < np.abs(both[0][second] - alone[second]).mean() / 2
