"""What the pack costs, each figure as a ratio of two things measured in turn in one run, on the pocket editor.

.venv/bin/python tools/bench.py [--rounds N]

Sampling: 20 Euler ancestral steps of Edit Guider with a learned instruction (at full and at half strength) against the same words.
Learning: one step of all segments in one batch against one step of each in turn, and ComfyUI's MODEL against the diffusers UNet.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from instructbrush.core.editing.injection import inject
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.settings import POCKET
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.models.loading import load_editor
from instructbrush.tools.get_comfyui import comfyui_root

SIDE = 16
PHRASE = "make it night"


def side_by_side(rounds: int, **jobs: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each job, run in turn so that a busy machine slows all alike; one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for round_ in range(rounds + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def start_comfyui() -> None:
    """Make ComfyUI's modules importable, on the CPU where there is no GPU."""
    sys.path.insert(0, str(comfyui_root()))
    # ComfyUI reads the command line when it is imported.
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


def random_latents(pairs: int = 4) -> PairLatents:
    """Pairs of unit latents: what they show does not matter for time."""
    generator = torch.Generator().manual_seed(0)
    before, after = (list(torch.randn(pairs, 4, SIDE, SIDE, generator=generator)) for _ in range(2))
    return PairLatents(before, after)


def bench_learning(rounds: int) -> dict[str, float]:
    """Seconds of a learning step: batched and in turn on diffusers, batched on ComfyUI; plain and guided."""
    from instructbrush.nodes.comfy.engine import ComfyDenoiser
    from instructbrush.nodes.comfy.models import POCKET_NAME, load_model

    editor, latents = load_editor(), random_latents()
    context, null = editor.encode_text([PHRASE, ""])

    def trainer(denoiser: Any, segment: int | None = None, **changes: Any) -> Trainer:
        settings = replace(POCKET, parametrisation="separate", steps=10**6, **changes)
        return Trainer(denoiser, latents, context, null, settings, PHRASE, only_segments=None if segment is None else (segment,))

    model, _, _ = load_model(POCKET_NAME)
    with torch.inference_mode(False), torch.enable_grad(), ComfyDenoiser(model).loaded() as native:
        batched, guided, on_comfyui = trainer(editor.denoiser), trainer(editor.denoiser, objective="guided"), trainer(native)
        in_turn = [trainer(editor.denoiser, segment) for segment in range(POCKET.segments)]
        return side_by_side(
            rounds,
            batched=batched.step,
            sequential=lambda: [each.step() for each in in_turn],
            guided=guided.step,
            comfyui=on_comfyui.step,
        )


def bench_sampling(rounds: int, steps: int = 20, batch: int = 1) -> dict[str, float]:
    """Seconds of a whole edit by words and by an instruction."""
    import comfy.samplers

    from instructbrush.nodes.comfy import text
    from instructbrush.nodes.comfy.describe import describe
    from instructbrush.nodes.comfy.guider import EditGuider, with_picture
    from instructbrush.nodes.comfy.models import POCKET_NAME, load_model
    from instructbrush.nodes.comfy.patch import attend, mark

    editor = load_editor()
    context, null = editor.encode_text([PHRASE, ""])
    trainer = Trainer(editor.denoiser, random_latents(), context, null, replace(POCKET, steps=1), PHRASE)
    trainer.run()
    instruction = trainer.instruction()
    with torch.inference_mode():
        model, clip, _ = load_model(POCKET_NAME)
        picture = torch.randn(batch, 4, SIDE, SIDE)
        words, none = text.encode(clip, PHRASE), text.encode(clip, "")
        sampler = comfy.samplers.sampler_object("euler_ancestral")
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)

        def edit(strength: float | None) -> Callable[[], object]:
            patched, full = model, words
            if strength is not None:
                patched, full = attend(model), mark(words, inject(instruction, strength), describe(model))
            guider = EditGuider(patched, 2.0, 1.5)
            guider.set_branches(with_picture(full, picture), with_picture(none, picture), none)
            return lambda: guider.sample(torch.randn_like(picture), torch.zeros_like(picture), sampler, sigmas, disable_pbar=True)

        return side_by_side(rounds, words=edit(None), instruction=edit(1.0), half_strength=edit(0.5))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    start_comfyui()
    sampling, learning = bench_sampling(options.rounds), bench_learning(options.rounds)
    ratios = {
        "sampling_instruction_to_words": sampling["instruction"] / sampling["words"],
        "sampling_half_strength_to_words": sampling["half_strength"] / sampling["words"],
        "learning_sequential_to_batched": learning["sequential"] / learning["batched"],
        "learning_guided_to_plain": learning["guided"] / learning["batched"],
        "learning_comfyui_to_diffusers": learning["comfyui"] / learning["batched"],
    }
    for name, seconds in {**{f"sampling, {k}": v for k, v in sampling.items()}, **{f"learning step, {k}": v for k, v in learning.items()}}.items():
        print(f"{name:<28} {seconds * 1000:9.1f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {**{name: round(value, 3) for name, value in ratios.items()}, "peak_memory_mib": round(peak)}
    if torch.cuda.is_available():
        figures["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
