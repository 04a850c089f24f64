"""`make gpu-check`: does it all work on this machine's GPU, and how fast? About five minutes.

    make gpu-check                        everything
    make gpu-check ARGS="flags bench"     some of: tests, demo, flags, bench

tests: the in-process tests on CUDA. demo: a real server as users start it learns and applies two of the demo's effects. flags: the same server, started
with each of the options that change where and how weights are kept; in each a run with a LoRA is watched, cancelled, taken up again and applied.
bench: the benchmark on a full-size UNet. The last line is one JSON object. Without a GPU it tries itself out on the CPU, in small.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from instructbrush.core.editing.loading import describe
from instructbrush.core.instruction.file import load_instruction
from instructbrush.tools.comfy_server import ComfyServer, ServerError, device_arguments
from instructbrush.tools.demo import OTHER, Graph, edit, quantised, read, run_effect, save_images
from instructbrush.tools.get_comfyui import HOLD
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS

REPO = Path(__file__).resolve().parents[1]
SHOWN = ("duotone_plum_mint", "olive_background")
"""One global and one local effect of the demo."""
FLAGS = (
    "",
    "--disable-dynamic-vram",
    "--lowvram",
    "--novram",
    "--gpu-only",
    "--fp8_e4m3fn-unet",
    "--fp16-unet",
    "--bf16-unet",
    "--force-fp32",
)
_WHERE = {"--lowvram", "--novram", "--gpu-only"}
"""Options that say where models are kept, as --cpu does."""
_AT_ONCE = 3
STEPS, CANCELLED = 40, 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts; returns 0 when all of them are well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "tests": tests,
        "demo": demo,
        "flags": flags,
        "bench": bench,
    }
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(parts)} (default: all)")
    chosen = parser.parse_args(arguments).parts or list(parts)
    if unknown := set(chosen) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}. Choose of {', '.join(parts)}.")
    summary: dict[str, Any] = {"gpu": not device_arguments()}
    for name in chosen:
        started = time.monotonic()
        print(f"== {name}", flush=True)
        summary[name] = {**parts[name](), "seconds": round(time.monotonic() - started)}
    summary["well"] = all(summary[name]["well"] for name in chosen)
    print(json.dumps(summary), flush=True)
    return 0 if summary["well"] else 1


def tests() -> dict[str, Any]:
    """tests/comfy on the device."""
    device = "cpu" if device_arguments() else "cuda"
    only = ["-m", "not slow"] if device == "cuda" else ["-k", "parity"]
    command = [sys.executable, "-m", "pytest", "tests/comfy", "-q", *only]
    done = subprocess.run(
        command,
        cwd=REPO,
        env={**os.environ, "INSTRUCTBRUSH_TEST_DEVICE": device},
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout.strip().splitlines()
    print("\n".join(told[-30:]), flush=True)
    return {"well": done.returncode == 0, "result": told[-1] if told else done.stderr[-500:]}


def demo() -> dict[str, Any]:
    """Two effects on a server as users start it."""
    figures: dict[str, Any] = {}
    with ComfyServer(HOLD / "gpu-check" / "demo", arguments=device_arguments()) as server:
        for name in SHOWN:
            result = run_effect(server, EFFECTS[name])
            figures[name] = {**result.figures, "seconds_learning": round(result.seconds_learning, 1)}
            print(name, figures[name], flush=True)
    # What the demo reaches on a CPU: two decibels above copying at the very least.
    return {"well": all(each["learned_psnr"] > each["copy_psnr"] + 2 for each in figures.values()), **figures}


def flags() -> dict[str, Any]:
    """Every option, a line each."""
    on_cpu = bool(device_arguments())
    tried = [flag for flag in FLAGS if not (on_cpu and flag in _WHERE)]
    with ThreadPoolExecutor(1 if on_cpu else _AT_ONCE) as threads:
        results = dict(zip(tried, threads.map(_try, tried), strict=True))
    for flag, told in results.items():
        print(f"{flag or 'default':<26} {told}", flush=True)
    return {
        "well": all(told.startswith("well") for told in results.values()),
        "options": {flag or "default": told for flag, told in results.items()},
    }


def _try(flag: str) -> str:
    base = HOLD / "gpu-check" / (flag.strip("-") or "default")
    shutil.rmtree(base, ignore_errors=True)  # an unfinished run of the last time would be taken up
    started = time.monotonic()
    try:
        # Servers that run at once must not share ComfyUI's data base.
        with ComfyServer(
            base,
            arguments=[
                *device_arguments(),
                "--database-url",
                "sqlite:///:memory:",
                *([flag] if flag else []),
            ],
        ) as server:
            told = _learn_cancel_resume_apply(server)
    except (ServerError, AssertionError) as error:
        return f"FAILS: {error}"
    return f"well: {told}; {time.monotonic() - started:.0f} s"


def _learn_cancel_resume_apply(server: ComfyServer) -> str:
    before, after = (quantised(side) for side in EFFECTS[SHOWN[0]].pairs(4, 11))
    for side, images in enumerate((before, after)):
        save_images(server.base / "input" / "check" / "pairs", images, f"{{}}_{side}.png")
    inputs = save_images(server.base / "input" / "check" / "inputs", before[:2])

    made = Graph()
    loaded = made.add("InstructBrushLoadModel", model_name="pocket editor (built in)")
    clip, vae = [loaded[0], 1], [loaded[0], 2]
    model = made.add(
        "LoraLoaderModelOnly", model=loaded, lora_name="pocket_aged_paper.safetensors", strength_model=0.5
    )
    pairs = made.add("InstructBrushLoadPairs", folder="check/pairs", size=0)
    settings = {
        **OTHER,
        "tokens": 8,
        "steps": STEPS,
        "final_learning_rate": 0.006,
        "preset": "custom",
        "preview_every": 5,
        "init_text": "",
    }
    learn = made.add("InstructBrushLearn", model=model, clip=clip, vae=vae, pairs=pairs, **settings)
    made.add("InstructBrushSave", instruction=learn, name="check", if_taken="overwrite")
    batch = made.images([f"check/inputs/{name}" for name in inputs])
    edited = edit(made, model, clip, vae, batch, words="", instruction=learn)
    saved = made.add("SaveImage", images=edited, filename_prefix="check")[0]
    previews: list[int] = []
    cancelled: list[int] = []

    def cancel(message: dict[str, Any]) -> None:
        if message["type"] == "instructbrush.learn":
            step = message["data"]["step"]
            if "preview" in message["data"]:
                previews.append(step)
            if step >= CANCELLED and not cancelled:
                cancelled.append(step)
                server.post("/interrupt", {})

    try:
        server.run(made.nodes, on_message=cancel)
        raise AssertionError("the run was not cancelled")
    except ServerError as error:
        assert "interrupted" in str(error), error
    assert cancelled and previews, "there was no preview"
    result = server.run(made.nodes)
    learned = result.data("instructbrush.learn")
    assert learned[0]["step"] >= CANCELLED, (
        f"taken up at step {learned[0]['step']}, cancelled at {cancelled[0]}"
    )
    assert learned[-1]["step"] == STEPS, f"ended at step {learned[-1]['step']}"
    instruction = load_instruction(server.base / "output" / "instructions" / "check.safetensors")
    remarks = instruction.check_fits(describe())
    assert not remarks, remarks
    images = [read(server.view(image)) for image in result.images(saved)]
    assert len(images) == len(inputs) and all(frame.std() > 5 for frame in images), (
        "the edited images are flat"
    )
    losses = [loss for message in learned for loss in message["losses"]]
    assert np.isfinite(losses).all(), "losses are not finite"
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert "cannot be recorded" not in log, (
        "steps could not be recorded"
    )  # with cudaMallocAsync, ComfyUI's default on new cards, nobody tries
    return f"cancelled at step {cancelled[0]}, taken up, last losses {np.mean(losses[-10:]):.3f}"


def bench() -> dict[str, Any]:
    """tools/benchmarks/speed.py --full-size."""
    rounds = "9" if not device_arguments() else "3"
    done = subprocess.run(
        [sys.executable, "tools/benchmarks/speed.py", "--full-size", "--rounds", rounds],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    if done.returncode:
        return {"well": False, "error": done.stderr[-2000:]}
    return {"well": True, **json.loads(done.stdout.strip().splitlines()[-1])}


if __name__ == "__main__":
    sys.exit(main())
