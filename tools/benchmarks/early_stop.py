"""Measures whether learning should stop early, at the lowest error on a pair that is held out.

    .venv/bin/python tools/benchmarks/early_stop.py [--parts N] [--publish]

Each development effect of PocketBench is learned from nine pairs, with keys and values and with an adapter.
Every 25 steps the error of the noise prediction on the tenth pair is measured. The tool compares the edits of
the state with the lowest error with those of the last state, at the same guidance scales. A stopped run
resumes. ``--publish`` writes docs/results/early_stop.json. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import mean

import torch

from instructbrush.core.editing.loading import load_editor
from instructbrush.core.encoders.clip_loading import load_clip
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_example.methods.base import BenchmarkModels, EffectEditor
from instructbrush.core.evaluation.metrics import psnr
from instructbrush.core.evaluation.reports.figures import interval, plain_figures
from instructbrush.core.instruction.injection import inject
from instructbrush.core.instruction.instruction import Instruction, own_scales
from instructbrush.core.learning.objective import PairLatents, held_out_error
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.run import RunCallbacks, ScaleChoice, learn
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.tools.benchmarks.parts import Part, models_digest, run_parts
from instructbrush.tools.benchmarks.pocket_bench import OUT, STEPS, PocketEffect
from instructbrush.tools.benchmarks.published import Rows, command_line, publish
from instructbrush.tools.pocket.world.held_out_effects import DEVELOPMENT

FOLDER = OUT.with_name("early_stop")
SPACES = {"attention": "instructbrush", "adapter": "adapter"}
"""Space -> row of the published figures."""
EVERY = 25


class _Curve(RunCallbacks):
    """Keeps the held-out error and the state of every 25th step."""

    def __init__(self, latents: PairLatents) -> None:
        self.latents = latents
        self.errors: list[float] = []
        self.states: list[Instruction] = []

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        if done % EVERY == 0:
            contexts = trainer.context, trainer.null_context
            last = len(self.latents.after) - 1
            with torch.no_grad():
                injection = trainer.injection()
            self.errors.append(
                held_out_error(trainer.denoiser, self.latents, last, contexts, injection, trainer.settings)
            )
            self.states.append(trainer.instruction())


class EarlyStop:
    """Measures one effect in one space."""

    @cached_property
    def models(self) -> BenchmarkModels:
        return BenchmarkModels(load_editor(None), load_clip(None), STEPS, cache=FOLDER.with_name("phrases"))

    def measure(self, name: str) -> Part:
        """Learns and compares.

        Args:
            name: ``SPACE-EFFECT``.

        Returns:
            errors: on the held-out pair, every 25 steps.
            best_step: of the lowest error.
            best_psnr, last_psnr: of the edits of the test images, in dB.
        """
        space, _, effect_name = name.partition("-")
        effect = PocketEffect(effect_name).load()
        editor = EffectEditor(self.models, effect)
        model = self.models.editor
        every = editor.latents(editor.pairs())
        used = editor.pairs(len(effect.train) - 1)
        text = editor.phrase(used)
        request = LearningRequest(
            model.denoiser,
            editor.latents(used),
            InitText(text, model.encode_text([text])[0], model.count_tokens(text)),
            model.null_context,
            self.models.settings(space, 0),
        )
        curve = _Curve(every)
        last = learn(request, curve, ScaleChoice())
        sampling = self.models.sampling_at(own_scales(last))
        truth = torch.stack(effect.truth)

        def psnr_of(state: Instruction) -> float:
            images = editor.sample(inject(state, device=model.denoiser.device), 0, sampling)
            return psnr(torch.stack(images), truth).mean().item()

        best = min(range(len(curve.errors)), key=curve.errors.__getitem__)
        last_psnr = psnr_of(curve.states[-1])
        return {
            "errors": curve.errors,
            "best_step": (best + 1) * EVERY,
            "best_psnr": last_psnr if best == len(curve.states) - 1 else psnr_of(curve.states[best]),
            "last_psnr": last_psnr,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what is missing, prints the figures and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the measured parts")
    parser.add_argument("--parts", type=int, help="stop after this many new parts")
    parser.add_argument("--publish", action="store_true", help="write docs/results/early_stop.json")
    options = parser.parse_args(arguments)
    names = [f"{space}-{effect}" for effect in DEVELOPMENT for space in SPACES]
    try:
        about = {"steps": STEPS, "every": EVERY}
        early_stop = EarlyStop()
        identity = {
            **about,
            "models": models_digest((POCKET_FOLDER,)),
            "presets": {space: repr(early_stop.models.settings(space, 0)) for space in SPACES},
        }
        parts = run_parts(options.out, identity, names, early_stop.measure, options.parts)
        if parts is None:
            print("early_stop: parts are missing; the same command resumes", file=sys.stderr)
            return 3
        rows = _rows(dict(zip(names, parts, strict=True)))
        if options.publish:
            command = command_line(
                "tools/benchmarks/early_stop.py", arguments, ("--out", "--parts", "--publish")
            )
            publish("early_stop", "Early stop", command, rows, about)
    except InstructBrushError as error:
        print(f"early_stop: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"methods": rows}))
    return 0


def _rows(parts: dict[str, Part]) -> Rows:
    rows = {}
    for space, row in SPACES.items():
        mine = [part for name, part in parts.items() if name.startswith(f"{space}-")]
        gains = [part["best_psnr"] - part["last_psnr"] for part in mine]
        rows[row] = {
            **plain_figures({"gain": interval(gains)}, 3),
            "last_psnr": round(mean(part["last_psnr"] for part in mine), 2),
            "stops_early": sum(part["best_step"] < STEPS for part in mine),
            "best_steps": [part["best_step"] for part in mine],
            "effects": len(mine),
        }
    return rows


if __name__ == "__main__":
    sys.exit(main())
