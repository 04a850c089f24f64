"""`make gpu-check`: tests the pack on this machine's GPU and measures its speed, in about five minutes.

    make gpu-check                        everything
    make gpu-check ARGS="flags bench"     some of: tests, demo, flags, bench

tests: runs the in-process tests on CUDA.
demo: learns and applies two effects of the demo on a server with its default options.
flags: starts the server with each option that changes where and how weights are kept. With each it starts
    learning with a LoRA, cancels, resumes and applies the result.
bench: runs the speed benchmark on a full-size UNet.

The last line is one JSON object. Without a GPU the script runs smaller versions on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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
from instructbrush.tools.demo import run_effect
from instructbrush.tools.get_comfyui import COMFYUI_FOLDER
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS
from instructbrush.tools.prompts import LEARNING_INPUTS, EditPrompt, read_image, save_images, to_8bit

REPO = Path(__file__).resolve().parents[1]
# One global and one local effect of the demo.
SHOWN = ("duotone_plum_mint", "olive_background")
FLAGS = (
    "",
    "--disable-cuda-malloc",
    "--disable-dynamic-vram",
    "--lowvram",
    "--novram",
    "--gpu-only",
    "--fp8_e4m3fn-unet",
    "--fp16-unet",
    "--bf16-unet",
    "--force-fp32",
)
# Options that choose where models are kept. They contradict --cpu.
_PLACEMENT_FLAGS = {"--lowvram", "--novram", "--gpu-only"}
_SERVERS_AT_ONCE = 3
STEPS = 40
CANCEL_STEP = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen parts. Returns 0 if all succeed."""
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
    """Runs tests/comfy on the GPU."""
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
    lines = done.stdout.strip().splitlines()
    print("\n".join(lines[-30:]), flush=True)
    return {"well": done.returncode == 0, "result": lines[-1] if lines else done.stderr[-500:]}


def demo() -> dict[str, Any]:
    """Runs two effects of the demo on a server with its default options."""
    figures: dict[str, Any] = {}
    with ComfyServer(COMFYUI_FOLDER / "gpu-check" / "demo", arguments=device_arguments()) as server:
        for name in SHOWN:
            result = run_effect(server, EFFECTS[name])
            figures[name] = {**result.figures, "seconds_learning": round(result.seconds_learning, 1)}
            print(name, figures[name], flush=True)
    # On a CPU every effect gains at least two decibels over a copy of the input.
    return {"well": all(each["learned_psnr"] > each["copy_psnr"] + 2 for each in figures.values()), **figures}


def flags() -> dict[str, Any]:
    """Runs learning and editing with every option."""
    on_cpu = bool(device_arguments())
    tried = [flag for flag in FLAGS if not (on_cpu and flag in _PLACEMENT_FLAGS)]
    with ThreadPoolExecutor(1 if on_cpu else _SERVERS_AT_ONCE) as threads:
        results = dict(zip(tried, threads.map(_try, tried), strict=True))
    for flag, outcome in results.items():
        print(f"{flag or 'default':<26} {outcome}", flush=True)
    return {
        "well": all(outcome.startswith("well") for outcome in results.values()),
        "options": {flag or "default": outcome for flag, outcome in results.items()},
    }


def _try(flag: str) -> str:
    base = COMFYUI_FOLDER / "gpu-check" / (flag.strip("-") or "default")
    shutil.rmtree(base, ignore_errors=True)  # else an unfinished run of an earlier call is resumed
    arguments = device_arguments()
    if flag:
        arguments.append(flag)
    started = time.monotonic()
    try:
        with ComfyServer(base, arguments=arguments) as server:
            outcome = _learn_cancel_resume_apply(server)
    except (ServerError, AssertionError) as error:
        return f"FAILS: {error}"
    return f"well: {outcome}; {time.monotonic() - started:.0f} s"


def _learn_cancel_resume_apply(server: ComfyServer) -> str:
    prompt, learn_node, save_node, image_count = _learning_prompt(server)
    cancel_step = _cancel_learning(server, prompt)
    result = server.run(prompt.nodes)
    messages = result.data("instructbrush.learn")
    progress = [message for message in messages if message["node"] == learn_node]
    log = server.log.read_text(encoding="utf-8", errors="replace")
    (resumed,) = re.findall(r"resuming a stopped run at step (\d+)", log) or ("no step",)
    assert resumed.isdigit() and int(resumed) >= CANCEL_STEP, (
        f"resumed at {resumed}, cancelled at {cancel_step}"
    )
    assert progress[-1]["step"] == STEPS, f"ended at step {progress[-1]['step']}"
    instruction = load_instruction(server.base / "output" / "instructions" / "check.safetensors")
    remarks = instruction.check_fits(describe())
    assert not remarks, remarks
    images = [read_image(server.view(image)) for image in result.images(save_node)]
    assert len(images) == image_count, f"{len(images)} edited images instead of {image_count}"
    assert all(image.std() > 5 for image in images), "the edited images are flat"
    losses = [loss for message in progress for loss in message["losses"]]
    assert np.isfinite(losses).all(), "losses are not finite"
    # With cudaMallocAsync, ComfyUI's default on new cards, no step is recorded and the log says nothing.
    # Steps are recorded with --disable-cuda-malloc.
    assert "cannot be recorded" not in log, "steps could not be recorded"
    return f"cancelled at step {cancel_step}, resumed at {resumed}, last losses {np.mean(losses[-10:]):.3f}"


def _learning_prompt(server: ComfyServer) -> tuple[EditPrompt, str, str, int]:
    """Returns a prompt that learns with a LoRA and edits, its Learn Instruction and Save Image nodes, and the
    number of images."""
    before, after = EFFECTS[SHOWN[0]].pairs(4, 11)
    for side, images in enumerate((before, after)):
        save_images(server.base / "input" / "check" / "pairs", to_8bit(images), f"{{}}_{side}.png")
    inputs = save_images(server.base / "input" / "check" / "inputs", to_8bit(before[:2]))

    prompt = EditPrompt()
    prompt.model = prompt.add(
        "LoraLoaderModelOnly",
        model=prompt.model,
        lora_name="pocket_aged_paper.safetensors",
        strength_model=0.5,
    )
    settings = {
        **LEARNING_INPUTS,
        "tokens": 8,
        "steps": STEPS,
        "final_learning_rate": 0.006,
        "preset": "custom",
        "preview_every": 5,
        "init_text": "",
    }
    pairs = prompt.add("InstructBrushLoadPairs", folder="check/pairs", size=0)
    parts = {"model": prompt.model, "clip": prompt.clip, "vae": prompt.vae, "pairs": pairs}
    learn = prompt.add("InstructBrushLearn", **parts, **settings)
    prompt.add("InstructBrushSave", instruction=learn, name="check", if_taken="overwrite")
    batch = prompt.images([f"check/inputs/{name}" for name in inputs])
    # A learned text acts as CONDITIONING, which ComfyUI keeps on the GPU with --gpu-only.
    steps = {"tokens": 8, "steps": 4, "learning_rate": 0.01, "batch": 1, "preview_every": 0, "hold_out": 0}
    own = {"preset": "custom", "init_text": "", "direction_weight": 0.0, "seed": 0}
    text = prompt.add("InstructBrushLearnText", **parts, **steps, **own)
    prompt.add(
        "SaveImage", images=prompt.sample(prompt.guider(batch, instruction=text)), filename_prefix="text"
    )
    edited = prompt.sample(prompt.guider(batch, instruction=learn))
    save_node = prompt.add("SaveImage", images=edited, filename_prefix="check")[0]
    return prompt, learn[0], save_node, len(inputs)


def _cancel_learning(server: ComfyServer, prompt: EditPrompt) -> int:
    """Runs the prompt and interrupts it after CANCEL_STEP steps. Returns the step."""
    preview_steps: list[int] = []
    cancelled: list[int] = []

    def cancel(message: dict[str, Any]) -> None:
        if message["type"] != "instructbrush.learn":
            return
        step = message["data"]["step"]
        if "preview" in message["data"]:
            preview_steps.append(step)
        if step >= CANCEL_STEP and not cancelled:
            cancelled.append(step)
            server.post("/interrupt", {})

    try:
        server.run(prompt.nodes, on_message=cancel)
    except ServerError as error:
        assert "interrupted" in str(error), error
    else:
        raise AssertionError("the run was not cancelled")
    assert cancelled and preview_steps, "there was no preview"
    return cancelled[0]


def bench() -> dict[str, Any]:
    """Runs tools/benchmarks/speed.py --full-size."""
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
