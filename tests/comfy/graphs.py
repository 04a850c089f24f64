"""Small graphs, and images, pairs and instructions for them."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

MODEL_NAME = "pocket editor (built in)"
STEPS = 4


class Parts:
    """The outputs of Load InstructPix2Pix in a graph."""

    def __init__(self, graph: Any, name: str = MODEL_NAME) -> None:
        node = graph.node("InstructBrushLoadModel", model_name=name)
        self.model = node.out(0)
        self.clip = node.out(1)
        self.vae = node.out(2)


def make_image(seed: int = 0, count: int = 1, height: int = 64, width: int = 64) -> torch.Tensor:
    """Smooth random images [count, height, width, 3] in 0..1."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def write_pairs(folder: Path, count: int = 2, side: int = 32) -> None:
    """Writes pairs as {i}_0.png and {i}_1.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        for place in (0, 1):
            image = make_image(10 * index + place, height=side, width=side)[0]
            pixels = (image * 255).to(torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / f"{index}_{place}.png")


def pairs(comfy: Any, count: int = 3, side: int = 64) -> Any:
    """Pairs whose after-image is warmer and darker than the before-image."""
    before = make_image(100, count, side, side)
    after = (before * torch.tensor([0.9, 0.6, 0.3])).clamp(0, 1)
    return comfy.pack("core.pairs.pairs").make_pairs(before, after)


def instruction(
    comfy: Any,
    seed: int = 0,
    segments: int = 5,
    tokens: int = 8,
    scale: float = 1.0,
    space: str = "attention",
) -> Any:
    """An instruction for the pocket editor with random keys and values, and residuals in adapter space."""
    description = comfy.pack("core.editing.loading").load_editor().description
    artefact = comfy.pack("core.instruction.instruction")
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> torch.Tensor:
        return scale * torch.randn(segments, tokens, width, generator=generator)

    info = artefact.InstructionInfo(
        "pocket",
        description.fingerprint,
        segments,
        tokens,
        space,
        init_text="seeded",
        model_title="pocket editor",
    )
    context = torch.randn(32, description.family.context_width, generator=generator)
    keys = {site.name: draw(site.width) for site in description.sites}
    values = {site.name: draw(site.width) for site in description.sites}
    adapter = {}
    if space == "adapter":
        widths = comfy.pack("core.instruction.adapter").adapter_widths(description.sites)
        adapter = {
            name: 0.1 * torch.randn(1, 2, width, generator=generator) for name, width in widths.items()
        }
    return artefact.Instruction(keys, values, context, 1, info, adapter=adapter)


def conditioned(graph: Any, parts: Parts, image: Any, words: str = "make it night") -> tuple[Any, Any, Any]:
    """Adds stock nodes for editing ``image``. Returns links to positive, negative and latent."""
    positive = graph.node("CLIPTextEncode", clip=parts.clip, text=words).out(0)
    negative = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
    node = graph.node(
        "InstructPixToPixConditioning", positive=positive, negative=negative, vae=parts.vae, pixels=image
    )
    return node.out(0), node.out(1), node.out(2)


def sampled(graph: Any, model: Any, positive: Any, negative: Any, latent: Any, **changes: Any) -> Any:
    """Adds a stock KSampler. Returns the link to its LATENT."""
    settings = {
        "seed": 3,
        "steps": STEPS,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        **changes,
    }
    return graph.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **settings
    ).out(0)


def applied(
    graph: Any, comfy: Any, model: Any, conditioning: Any, learned: Any, **changes: Any
) -> tuple[Any, Any]:
    """Adds Apply Instruction. Returns links to MODEL and CONDITIONING."""
    settings = {"strength": 1.0, "end_timestep": 0, **changes}
    node = graph.node(
        "InstructBrushApply",
        model=model,
        conditioning=conditioning,
        instruction=comfy.give(graph, learned),
        **settings,
    )
    return node.out(0), node.out(1)


def learning(graph: Any, comfy: Any, parts: Parts, **changes: Any) -> Any:
    """Adds Learn Instruction with settings that take a second or two. Returns the node."""
    settings = {
        "model": parts.model,
        "init_text": "make it warm",
        "preset": "custom",
        "tokens": 4,
        "segments": 2,
        "segment_mode": "shared",
        "steps": 6,
        "learning_rate": 0.03,
        "final_learning_rate": 0.003,
        "objective": "plain",
        "seed": 0,
        "preview_every": 0,
        "hold_out": 0,
        **changes,
    }
    if "pairs" not in settings:
        settings["pairs"] = comfy.give(graph, pairs(comfy))
    return graph.node("InstructBrushLearn", clip=parts.clip, vae=parts.vae, **settings)


def images_of(comfy: Any, graph: Any, parts: Parts, latent: Any) -> torch.Tensor:
    """Runs a graph and returns the images of a LATENT."""
    return comfy.values(graph, graph.node("VAEDecode", samples=latent, vae=parts.vae).out(0))[0]


def latent_of(comfy: Any, graph: Any, link: Any) -> torch.Tensor:
    """Runs a graph and returns the samples of a LATENT."""
    return comfy.values(graph, link)[0]["samples"]


def custom_sampled(comfy: Any, graph: Any, guider: Any, latent: Any) -> torch.Tensor:
    """Runs SamplerCustomAdvanced with three Euler steps, and returns the samples."""
    node = graph.node(
        "SamplerCustomAdvanced",
        noise=graph.node("RandomNoise", noise_seed=3).out(0),
        guider=guider,
        sampler=graph.node("KSamplerSelect", sampler_name="euler").out(0),
        sigmas=comfy.give(graph, torch.tensor([14.6, 5.0, 1.0, 0.0])),
        latent_image=latent,
    )
    return latent_of(comfy, graph, node.out(0))


def half(height: int = 64, width: int = 64) -> torch.Tensor:
    """A mask [1, height, width] whose left half is white."""
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


def edit_guider(comfy: Any, graph: Any, parts: Parts, **changes: Any) -> Any:
    """Adds Edit Guider with an image. Returns the node. Masks and instructions in `changes` are values,
    other sockets links.
    """
    settings = {"words": "make it night", "text_scale": 3.0, "image_scale": 1.4, "strength": 1.0, **changes}
    settings = {
        name: comfy.give(graph, value) if name in ("mask", "instruction", "avoid") else value
        for name, value in settings.items()
    }
    settings.setdefault("image", comfy.give(graph, make_image()))
    return graph.node(
        "InstructBrushEditGuider", model=parts.model, clip=parts.clip, vae=parts.vae, **settings
    )


def predicted(guider: Any, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Returns the guider's prediction of the clean latent for a state of the sampler."""
    found = []

    class OneStep:
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_):
            sigma_batch = torch.full((len(x),), sigma, device=noise.device)
            found.append(model_wrap(x.to(noise.device), sigma_batch, **extra_args).cpu())
            return noise

    with torch.inference_mode():
        guider.sample(torch.zeros_like(x), torch.zeros_like(x), OneStep(), torch.tensor([sigma, 0.0]), seed=0)
    return found[0]
