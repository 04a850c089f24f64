"""`make demo`: the main job on a real ComfyUI server. For each effect: learn an instruction from 4 pairs, apply it to 5 unseen images.

Writes output/demo/grid.png, report.json and the instruction files; prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from instructbrush.tools.comfy_server import ComfyServer, device_arguments
from instructbrush.tools.get_comfyui import HOLD
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS, HeldOutEffect

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "output" / "demo"
SHOWN = (
    "hue_75",
    "duotone_plum_mint",
    "olive_background",
    "teal_all",
    "lavender_circle",
    "maroon_outline",
    "film_photo",
    "teal_orange_photo",
)
"""Global and local, drawn and photographed; none was seen in training, and no words name their exact colours and angles."""
PAIRS, TESTS = 4, 5
TRAIN_SEED, TEST_SEED = 11, 12
STEPS = 20


@dataclass
class Result:
    """One effect's images, uint8 [n, 128, 128, 3], and figures in dB."""

    effect: HeldOutEffect
    pairs: tuple[np.ndarray, np.ndarray]
    inputs: np.ndarray
    truth: np.ndarray
    words: np.ndarray
    learned: np.ndarray
    ceiling: np.ndarray
    seconds_learning: float
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, images in (
            ("copy", self.inputs),
            ("text", self.words),
            ("learned", self.learned),
            ("ceiling", self.ceiling),
        ):
            self.figures[f"{name}_psnr"] = round(float(psnr(images, self.truth).mean()), 2)


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB, both uint8 [n, H, W, 3]."""
    error = ((images.astype(np.float64) - truth) ** 2).mean((1, 2, 3)) / 255**2
    return 10 * np.log10(1 / np.maximum(error, 1e-10))


class Graph:
    """A workflow in API format, node by node."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, **inputs: Any) -> list[Any]:
        """Add a node; returns its first output as a link. Further outputs are `[link[0], 1]`."""
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
        return [name, 0]

    def images(self, names: Sequence[str]) -> list[Any]:
        """One IMAGE batch of several files in the input folder."""
        links = [self.add("LoadImage", image=name) for name in names]
        batch = links[0]
        for link in links[1:]:
            batch = self.add("ImageBatch", image1=batch, image2=link)
        return batch


def save_images(folder: Path, images: np.ndarray, name: str = "{}.png") -> list[str]:
    """Write uint8 images; returns their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.format(index) for index in range(len(images))]
    for file, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / file)
    return names


def run_effect(server: ComfyServer, effect: HeldOutEffect) -> Result:
    """Learn, save, edit by the instruction and by words, all in one graph on the server."""
    before, after = effect.pairs(PAIRS, TRAIN_SEED)
    pairs = (quantised(before), quantised(after))
    inputs, truth = (quantised(side) for side in effect.pairs(TESTS, TEST_SEED))
    home = server.base / "input" / "demo" / effect.name
    for side, frames in enumerate(pairs):
        save_images(home / "pairs", frames, f"{{}}_{side}.png")
    tests = save_images(home / "test", inputs)
    truths = save_images(home / "truth", truth)

    graph = Graph()
    loaded = graph.add("InstructBrushLoadModel", model_name="pocket editor (built in)")
    model, clip, vae = loaded, [loaded[0], 1], [loaded[0], 2]
    examples = graph.add("InstructBrushLoadPairs", folder=f"demo/{effect.name}/pairs", size=0)
    learn = graph.add(
        "InstructBrushLearn",
        model=model,
        clip=clip,
        vae=vae,
        pairs=examples,
        init_text=effect.words,
        preset="pocket",
        preview_every=0,
        **OTHER,
    )
    graph.add("InstructBrushSave", instruction=learn, name=f"demo/{effect.name}", if_taken="overwrite")
    batch = graph.images([f"demo/{effect.name}/test/{name}" for name in tests])
    edits = {
        "learned": edit(graph, model, clip, vae, batch, words="", instruction=learn),
        "words": edit(graph, model, clip, vae, batch, words=effect.words),
        "ceiling": graph.add(
            "VAEDecode",
            vae=vae,
            samples=graph.add(
                "VAEEncode",
                vae=vae,
                pixels=graph.images([f"demo/{effect.name}/truth/{name}" for name in truths]),
            ),
        ),
    }
    saved = {
        name: graph.add("SaveImage", images=images, filename_prefix=f"demo/{effect.name}_{name}")[0]
        for name, images in edits.items()
    }

    clock = Clock(learn[0])
    result = server.run(graph.nodes, on_message=clock)
    got = {
        name: np.stack([read(server.view(image)) for image in result.images(node)])
        for name, node in saved.items()
    }
    return Result(effect, pairs, inputs, truth, got["words"], got["learned"], got["ceiling"], clock.seconds)


OTHER = {
    "tokens": 16,
    "segments": 5,
    "segment_mode": "shared",
    "steps": 400,
    "learning_rate": 0.06,
    "objective": "plain",
    "seed": 0,
    "hold_out": 0,
}
"""Widgets that the preset takes the place of."""


def edit(
    graph: Graph,
    model: list[Any],
    clip: list[Any],
    vae: list[Any],
    batch: list[Any],
    words: str,
    **instruction: Any,
) -> list[Any]:
    """Edit Guider and stock sampling: Euler ancestral, 20 steps."""
    guider = graph.add(
        "InstructBrushEditGuider",
        model=model,
        clip=clip,
        vae=vae,
        image=batch,
        words=words,
        text_scale=-1.0,
        image_scale=1.5,
        strength=1.0,
        **instruction,
    )
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=1),
        guider=guider,
        sampler=graph.add("KSamplerSelect", sampler_name="euler_ancestral"),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=1.0),
        latent_image=[guider[0], 1],
    )
    return graph.add("VAEDecode", samples=sampled, vae=vae)


class Clock:
    """Times one node by the server's messages."""

    def __init__(self, node: str) -> None:
        self.node, self.seconds, self._since = node, 0.0, 0.0

    def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] != "executing":
            return
        now = time.monotonic()
        if message["data"].get("node") == self.node:
            self._since = now
        elif self._since:
            self.seconds, self._since = now - self._since, 0.0


def quantised(images: np.ndarray) -> np.ndarray:
    """Images 0..1 as uint8, as files hold them."""
    return (images * 255).round().astype(np.uint8)


def read(png: bytes) -> np.ndarray:
    """A PNG as uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def draw_grid(results: Sequence[Result], path: Path, cell: int = 96) -> None:
    """For every effect: its pairs, then the unseen inputs, edits by words, learned edits and the truth, in rows."""
    gap, label = 4, 150
    left = label + 2 * cell + 3 * gap
    height = 4 * (cell + gap) + 26
    sheet = Image.new("RGB", (left + TESTS * (cell + gap) + gap, height * len(results)), "white")
    draw = ImageDraw.Draw(sheet)

    def put(image: np.ndarray, x: int, y: int) -> None:
        sheet.paste(Image.fromarray(image).resize((cell, cell), Image.Resampling.LANCZOS), (x, y))

    for row, result in enumerate(results):
        top = row * height
        draw.line([(0, top), (sheet.width, top)], fill="black")
        draw.text((4, top + 4), f"{result.effect.name}   words: '{result.effect.words}'", fill="black")
        draw.text((label, top + 14), "learned from", fill="gray")
        for index in range(PAIRS):
            for side in range(2):
                put(result.pairs[side][index], label + side * (cell + gap), top + 26 + index * (cell + gap))
        figures = result.figures
        rows = (
            ("unseen input", result.inputs, figures["copy_psnr"]),
            ("by words", result.words, figures["text_psnr"]),
            ("learned", result.learned, figures["learned_psnr"]),
            ("truth", result.truth, None),
        )
        for line, (name, images, value) in enumerate(rows):
            y = top + 26 + line * (cell + gap)
            draw.text(
                (4, y + cell // 2 - 6),
                f"{name}" + (f"  {value:.1f} dB" if value is not None else ""),
                fill="black",
            )
            for column in range(TESTS):
                put(images[column], left + column * (cell + gap), y)
    sheet.save(path)


def main() -> int:
    """Run all effects; returns 0 when every learned edit is nearer to the truth than the input was."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    started = time.monotonic()
    results = []
    with ComfyServer(HOLD / "demo", arguments=device_arguments()) as server:
        for name in SHOWN:
            result = run_effect(server, EFFECTS[name])
            results.append(result)
            figures = "  ".join(
                f"{key.removesuffix('_psnr')} {value:5.2f}" for key, value in result.figures.items()
            )
            print(
                f"{name:<20} {result.effect.scope:<7} {result.effect.subject:<6} {figures}  ({result.seconds_learning:.0f} s learning)",
                flush=True,
            )
            shutil.copy(server.base / "output" / "instructions" / "demo" / f"{name}.safetensors", OUT)
    draw_grid(results, OUT / "grid.png")
    summary: dict[str, Any] = {
        key: round(float(np.mean([result.figures[key] for result in results])), 2)
        for key in results[0].figures
    }
    summary["effects"] = {
        result.effect.name: {"scope": result.effect.scope, "subject": result.effect.subject, **result.figures}
        for result in results
    }
    summary["seconds_learning"] = round(sum(result.seconds_learning for result in results), 1)
    summary["seconds"] = round(time.monotonic() - started, 1)
    (OUT / "report.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"grid: {(OUT / 'grid.png').relative_to(REPO)}")
    print(json.dumps(summary), flush=True)
    return 0 if all(result.figures["learned_psnr"] > result.figures["copy_psnr"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
