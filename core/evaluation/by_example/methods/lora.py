"""LoRAs on the same pairs, see core/evaluation/by_example/lora.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ....editing.scale_search import ScaleSearch, find_scales
from ....editing.settings import SamplingSettings
from ....errors import EvaluationError
from ..lora import (
    RATES,
    TARGETS,
    LoraTask,
    choose_rate,
    error_on,
    is_finite,
    learn_lora,
    lora_layers,
    round_to_half,
)
from .base import BenchmarkModels, Cost, Edited, EffectEditor, Method, recipe_of

# Of the pair that chose the rate: a LoRA that met it well unseen, and then learns from it, has not got worse.
_MOST_ERROR = 2.0


def _edit(editor: EffectEditor, seed: int, rank: int) -> Edited:
    """Learns a LoRA from the init text and the samples that InstructBrush has, and edits by that text.

    So both know the same: the pairs. The benchmark's words stay unknown to both. Every seed chooses its rate.
    Where the best rate diverges with all pairs, the next best is taken: where numbers are not finite, or the
    pair that chose the rate, which is learned from now, has more than twice the error that it had unseen.
    """
    models = editor.models
    denoiser = models.editor.denoiser
    pairs = editor.pairs()
    text = editor.phrase(pairs)
    context = models.editor.encode_text([text])[0].to(denoiser.device)
    task = LoraTask(denoiser, editor.latents(pairs), context, models.settings("attention", seed))
    best, errors = choose_rate(task, rank)
    if not seed:
        editor.probes.keep(beside=False)
    diverged: list[str] = []
    for rate in _best_first(best, errors):
        start = time.monotonic()
        with lora_layers(denoiser.unet, rank, seed) as parameters:
            loss = learn_lora(task.at_rate(rate), parameters)
            size = round_to_half(parameters)
            # Large numbers become infinite in fp16.
            if (
                loss is None
                or not is_finite(parameters)
                or error_on(task, len(pairs) - 1) > _MOST_ERROR * errors[str(rate)]
            ):
                diverged.append(str(rate))
                continue
            sampling = _with_scales(models, task)
            cost = Cost(time.monotonic() - start, size, rate)
            images = editor.sample(context, seed, sampling)
            damage = None if seed else editor.probes.damage(None)
        remark = (
            f"Learning diverged at the rate {' and '.join(diverged)}, so the next best was taken: {rate}."
            if diverged
            else ""
        )
        return Edited(images, text, loss, "noise", remark, sampling, cost, damage)
    raise EvaluationError(
        f"LoRA of rank {rank} on '{editor.effect.name}': learning with seed {seed} diverges at the rate "
        f"{' and '.join(diverged)}. Leave the method out of --methods; finished results are kept."
    )


def _with_scales(models: BenchmarkModels, task: LoraTask) -> SamplingSettings:
    """The sampling of the edits, at scales that are found as for an instruction."""
    if not models.find_scales:
        return models.sampling
    pairs = list(zip(task.latents.before, task.latents.after, strict=True))
    contexts = task.context, models.editor.null_context
    found = find_scales(task.denoiser, pairs, contexts, None, ScaleSearch(task.settings.seed))
    return models.sampling_at((found.text_scale, found.image_scale))


def _best_first(rate: float, errors: Mapping[str, float]) -> list[float]:
    """The rates that gave finite numbers, the best on the held-out pair first."""
    others = [other for other in RATES if other != rate and str(other) in errors]
    return [rate, *sorted(others, key=lambda other: errors[str(other)])]


def _recipe(rank: int) -> Callable[[BenchmarkModels], dict[str, Any]]:
    attention = recipe_of("attention")
    return lambda models: {**attention(models), "rank": rank, "rates": RATES, "targets": TARGETS}


LORA = tuple(
    Method(
        f"lora_r{rank}",
        f"LoRA r{rank}",
        f"a LoRA of rank {rank} (peft) on q, k, v and out of both attentions, from the same init text and "
        "samples as InstructBrush; the best of three rates on a pair that was held out, then all pairs",
        lambda editor, seed, rank=rank: _edit(editor, seed, rank),
        _recipe(rank),
        # One of them is held out to choose the rate.
        pairs=2,
    )
    for rank in (4, 16)
)
