"""`make demo`: learns each effect from 4 pairs on a ComfyUI server and edits 5 unseen images with it.

Writes output/demo/grid.png, report.json and the instruction files. Prints a table and one JSON object.
"""

from __future__ import annotations

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
from instructbrush.tools.get_comfyui import COMFYUI_FOLDER
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS, HeldOutEffect
from instructbrush.tools.prompts import LEARNING_INPUTS, EditPrompt, read_image, save_images, to_8bit

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "output" / "demo"
# Global and local, drawn and photographed. Training saw none; no words name their exact colors and angles.
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
PAIRS = 4
TESTS = 5
TRAIN_SEED = 11
TEST_SEED = 12


@dataclass
class Result:
    """Images of one effect, uint8 [n, 128, 128, 3], and its figures in dB.

    words, learned: edits by words and by the learned instruction.
    ceiling: the truth encoded and decoded by the VAE, the best an edit can reach.
    """

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


def run_effect(server: ComfyServer, effect: HeldOutEffect) -> Result:
    """Learns, saves and edits by the instruction and by words, all in one prompt."""
    before, after = effect.pairs(PAIRS, TRAIN_SEED)
    pairs = (to_8bit(before), to_8bit(after))
    test_before, test_after = effect.pairs(TESTS, TEST_SEED)
    inputs = to_8bit(test_before)
    truth = to_8bit(test_after)
    folder = server.base / "input" / "demo" / effect.name
    for side, images in enumerate(pairs):
        save_images(folder / "pairs", images, f"{{}}_{side}.png")
    tests = save_images(folder / "test", inputs)
    truths = save_images(folder / "truth", truth)

    prompt = EditPrompt()
    learn = prompt.add(
        "InstructBrushLearn",
        model=prompt.model,
        clip=prompt.clip,
        vae=prompt.vae,
        pairs=prompt.add("InstructBrushLoadPairs", folder=f"demo/{effect.name}/pairs", size=0),
        init_text=effect.words,
        preset="pocket",
        preview_every=0,
        **LEARNING_INPUTS,
    )
    prompt.add("InstructBrushSave", instruction=learn, name=f"demo/{effect.name}", if_taken="overwrite")
    batch = prompt.images([f"demo/{effect.name}/test/{name}" for name in tests])
    true_batch = prompt.images([f"demo/{effect.name}/truth/{name}" for name in truths])
    encoded = prompt.add("VAEEncode", vae=prompt.vae, pixels=true_batch)
    edits = {
        "learned": prompt.sample(prompt.guider(batch, instruction=learn)),
        "words": prompt.sample(prompt.guider(batch, words=effect.words)),
        "ceiling": prompt.add("VAEDecode", vae=prompt.vae, samples=encoded),
    }
    save_nodes = {
        name: prompt.add("SaveImage", images=images, filename_prefix=f"demo/{effect.name}_{name}")[0]
        for name, images in edits.items()
    }

    timer = NodeTimer(learn[0])
    result = server.run(prompt.nodes, on_message=timer)
    edited = {
        name: np.stack([read_image(server.view(image)) for image in result.images(node)])
        for name, node in save_nodes.items()
    }
    return Result(
        effect,
        pairs,
        inputs,
        truth,
        words=edited["words"],
        learned=edited["learned"],
        ceiling=edited["ceiling"],
        seconds_learning=timer.seconds,
    )


class NodeTimer:
    """Measures the seconds of one node from the server's messages."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.seconds = 0.0
        self._since = 0.0

    def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] != "executing":
            return
        now = time.monotonic()
        if message["data"].get("node") == self.node:
            self._since = now
        elif self._since:
            self.seconds = now - self._since
            self._since = 0.0


def draw_grid(results: Sequence[Result], path: Path, cell: int = 96) -> None:
    """Writes an image with pairs, unseen inputs, edits by words, learned edits and truth of each effect."""
    gap = 4
    label = 150
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
            decibels = f"  {value:.1f} dB" if value is not None else ""
            draw.text((4, y + cell // 2 - 6), name + decibels, fill="black")
            for column in range(TESTS):
                put(images[column], left + column * (cell + gap), y)
    sheet.save(path)


def summarise(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """Returns mean figures, the figures of each effect, and times."""
    summary: dict[str, Any] = {
        key: round(float(np.mean([result.figures[key] for result in results])), 2)
        for key in results[0].figures
    }
    summary["effects"] = {
        result.effect.name: {"scope": result.effect.scope, "subject": result.effect.subject, **result.figures}
        for result in results
    }
    summary["seconds_learning"] = round(sum(result.seconds_learning for result in results), 1)
    summary["seconds"] = round(seconds, 1)
    return summary


def main() -> int:
    """Runs all effects. Returns 0 if every learned edit is nearer to the truth than its input."""
    started = time.monotonic()
    results = []
    with ComfyServer(COMFYUI_FOLDER / "demo", arguments=device_arguments()) as server:
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        for name in SHOWN:
            result = run_effect(server, EFFECTS[name])
            results.append(result)
            effect = result.effect
            figures = "  ".join(
                f"{key.removesuffix('_psnr')} {value:5.2f}" for key, value in result.figures.items()
            )
            seconds = f"({result.seconds_learning:.0f} s learning)"
            print(f"{name:<20} {effect.scope:<7} {effect.subject:<6} {figures}  {seconds}", flush=True)
            shutil.copy(server.base / "output" / "instructions" / "demo" / f"{name}.safetensors", OUT)
            # After every effect, so that a failure leaves the others.
            draw_grid(results, OUT / "grid.png")
            summary = summarise(results, time.monotonic() - started)
            (OUT / "report.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"grid: {(OUT / 'grid.png').relative_to(REPO)}")
    print(json.dumps(summary), flush=True)
    return 0 if all(result.figures["learned_psnr"] > result.figures["copy_psnr"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
