"""`make bench-speed`: measures what the pack costs in time, as ratios of two jobs that run in turn.

.venv/bin/python tools/benchmarks/speed.py [--rounds N]   on the pocket editor
.venv/bin/python tools/benchmarks/speed.py --full-size    on a random UNet of Stable Diffusion 1.5's size;
                                                          without a GPU on a smaller one of the same kind

Sampling in ComfyUI: 20 Euler ancestral steps of Edit Guider with a learned instruction, at full and at half
strength, against the same steps with words.
Sampling outside ComfyUI: the same edits by core's sampler, against diffusers' pipeline.
Learning: a step of all segments in one batch against a step of each segment in turn, and ComfyUI's MODEL
against the diffusers UNet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.instruction.injection import Injection, inject
from instructbrush.core.instruction.instruction import Instruction
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.run import learn
from instructbrush.core.learning.settings import POCKET
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.tools.benchmarks.timed_edits import STEPS, pipeline_edit, time_edit_guider
from instructbrush.tools.benchmarks.timing import Times, device, resident_mib, side_by_side, start_comfyui

SIDE = 16
PHRASE = "make it night"
SCALES: dict[str, Any] = {"text_scale": 2.0, "image_scale": 1.5}


def random_latents(pairs: int = 4, side: int = SIDE) -> PairLatents:
    """Returns pairs of random latents."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(pairs, 4, side, side, generator=generator).to(device())
    after = torch.randn(pairs, 4, side, side, generator=generator).to(device())
    return PairLatents(list(before), list(after))


def bench_learning(editor: DiffusersEditor, rounds: int) -> Times:
    """Times a learning step on diffusers, batched, in turn and guided, and batched on ComfyUI's MODEL."""
    from instructbrush.nodes.comfy.models.loading import POCKET_NAME, load_model
    from instructbrush.nodes.comfy.sampling.comfy_denoiser import ComfyDenoiser

    latents = random_latents()
    context, null = editor.encode_text([PHRASE, ""])

    def trainer(denoiser: Any, segment: int | None = None, **changes: Any) -> Trainer:
        settings = replace(POCKET, parametrisation="separate", steps=10**6, **changes)
        return Trainer(
            LearningRequest(
                denoiser,
                latents,
                InitText(PHRASE, context),
                null,
                settings,
                only_segments=None if segment is None else (segment,),
            )
        )

    model, _, _ = load_model(POCKET_NAME)
    with torch.inference_mode(False), torch.enable_grad(), ComfyDenoiser(model).loaded() as native:
        batched = trainer(editor.denoiser)
        guided = trainer(editor.denoiser, objective="guided")
        on_comfyui = trainer(native)
        in_turn = [trainer(editor.denoiser, segment) for segment in range(POCKET.segments)]
        return side_by_side(
            rounds,
            4,  # on a GPU, the third round records a CUDA graph
            batched=batched.step,
            sequential=lambda: [each.step() for each in in_turn],
            guided=guided.step,
            comfyui=on_comfyui.step,
        )


def learned_instruction(editor: DiffusersEditor) -> Instruction:
    """Learns an instruction for one step."""
    context, null = editor.encode_text([PHRASE, ""])
    settings = replace(POCKET, steps=1)
    return learn(
        LearningRequest(editor.denoiser, random_latents(), InitText(PHRASE, context), null, settings)
    )


def bench_sampling(instruction: Instruction, rounds: int) -> Times:
    """Times an edit in ComfyUI by words and by an instruction."""
    from instructbrush.nodes.comfy.models.loading import POCKET_NAME, load_model
    from instructbrush.nodes.comfy.sampling import text_encoding as text

    with torch.inference_mode():
        model, clip, _ = load_model(POCKET_NAME)
        image = torch.randn(1, 4, SIDE, SIDE)
        return time_edit_guider(
            model, text.encode(clip, PHRASE), text.encode(clip, ""), image, instruction, SCALES, rounds
        )


def bench_pipeline(editor: DiffusersEditor, instruction: Instruction, rounds: int) -> tuple[Times, float]:
    """Times an edit by core and by diffusers' pipeline. Also returns the PSNR between their images in dB."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )

    pipeline: Any = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        POCKET_FOLDER, safety_checker=None
    ).to(device())
    pipeline.set_progress_bar_config(disable=True)
    context, null = editor.encode_text([PHRASE, ""])
    image = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).to(device())
    injection = inject(instruction, device=editor.device)

    def ours(injection: Injection | None) -> Tensor:
        return edit_latents(
            editor.denoiser, image, context, null, injection, SamplingSettings(STEPS, **SCALES)
        )

    def theirs() -> Tensor:
        return pipeline_edit(pipeline, context, null, image, SCALES)

    error = (editor.decode(ours(None)) - editor.decode(theirs())).square().mean()
    seconds = side_by_side(
        rounds, words=lambda: ours(None), instruction=lambda: ours(injection), pipeline=theirs
    )
    return seconds, float(-10 * error.clamp(min=1e-12).log10())


def pocket(rounds: int) -> dict[str, Any]:
    """Prints a table of times on the pocket editor. Returns the ratios."""
    editor = load_editor(device=device())
    instruction = learned_instruction(editor)
    sampling = bench_sampling(instruction, rounds)
    outside, psnr = bench_pipeline(editor, instruction, rounds)
    learning = bench_learning(editor, rounds)
    for kind, times in (
        ("sampling in ComfyUI", sampling),
        ("sampling outside", outside),
        ("learning step", learning),
    ):
        for name in times.seconds:
            print(f"{f'{kind}, {name}':<36} {times[name] * 1000:9.1f} ms")
    ratios = {
        "sampling_instruction_to_words": sampling.ratio("instruction", "words"),
        "sampling_half_strength_to_words": sampling.ratio("half_strength", "words"),
        "core_words_to_pipeline": outside.ratio("words", "pipeline"),
        "core_instruction_to_words": outside.ratio("instruction", "words"),
        "learning_sequential_to_batched": learning.ratio("sequential", "batched"),
        "learning_guided_to_plain": learning.ratio("guided", "batched"),
        "learning_comfyui_to_diffusers": learning.ratio("comfyui", "batched"),
    }
    return {
        **{name: round(value, 3) for name, value in ratios.items()},
        "core_and_pipeline_psnr": round(psnr, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints. The last line is one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--full-size", action="store_true", help="on a UNet of Stable Diffusion 1.5's size, made from a seed"
    )
    options = parser.parse_args(arguments)
    start_comfyui()
    if options.full_size:
        from instructbrush.tools.benchmarks.full_size import measure

        figures = measure(options.rounds)
    else:
        figures = pocket(options.rounds)
    figures["peak_memory_mib"] = resident_mib()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
