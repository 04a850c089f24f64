"""Nodes that measure edits."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..core.encoders.clip import image_features, text_features
from ..core.errors import EvaluationError
from ..core.evaluation.metrics import (
    direction_distance,
    direction_similarity,
    image_similarity,
    mean,
    psnr,
    ssim,
)
from ..core.evaluation.perceptual import Perceptual
from ..core.storage.image_tensors import image_batch
from .comfy.encoders import lpips
from .comfy.encoders.residency import prepare
from .shared.node import Node
from .shared.socket_types import OpenClip


class EvaluateEdit(Node):
    """How close edits come to the truth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushEvaluate",
            display_name="Evaluate Edit",
            category="InstructBrush/evaluation",
            description="Measures how close edited images come to the truth: PSNR, SSIM and LPIPS, and with the images before the edit and a CLIP also "
            "whether the edit goes in the right direction. The figures are shown in the node.",
            search_aliases=[
                "psnr",
                "ssim",
                "lpips",
                "compare images",
                "metrics",
                "measure edit",
                "clip direction",
                "image similarity",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input("edited", tooltip="Edited images."),
                io.Image.Input(
                    "truth", tooltip="What they should be, as many and of the same size, in the same order."
                ),
                io.Image.Input(
                    "before",
                    optional=True,
                    tooltip="The same images before the edit: shows what copying them would score, and serves direction.",
                ),
                OpenClip.Input(
                    "open_clip",
                    optional=True,
                    tooltip="With the images before the edit, measures direction and similarity. The papers use ViT-L-14.",
                ),
                io.String.Input(
                    "caption_before",
                    optional=True,
                    default="",
                    tooltip="What the images show before the edit, such as 'a photo of a field'. With both captions, agreement with the words is measured.",
                ),
                io.String.Input(
                    "caption_after",
                    optional=True,
                    default="",
                    tooltip="What they should show after it, such as 'a photo of a field in snow'.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="figures", tooltip="All figures as a table: the mean, then each image."
                ),
                io.Float.Output(display_name="psnr", tooltip="Mean PSNR in dB, higher is better."),
                io.Float.Output(display_name="ssim", tooltip="Mean SSIM, higher is better, 1 is equal."),
                io.Float.Output(
                    display_name="lpips",
                    tooltip="Mean LPIPS on AlexNet, lower is better. Not a number where its weights are missing.",
                ),
                io.Float.Output(
                    display_name="direction",
                    tooltip="1 - cosine of the edit's direction with the true one, lower is better. Not a number without CLIP.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        edited: torch.Tensor,
        truth: torch.Tensor,
        before: torch.Tensor | None = None,
        open_clip: Any = None,
        caption_before: str = "",
        caption_after: str = "",
    ) -> io.NodeOutput:
        edited, truth = (
            image_batch(each, name, EvaluationError)[..., :3].float().cpu()
            for each, name in ((edited, "Edited"), (truth, "Truth"))
        )
        columns = {"PSNR": psnr(edited, truth).tolist(), "SSIM": ssim(edited, truth).tolist()}
        file = lpips.backbone()
        remarks = []
        if file is None:
            remarks.append(
                f"LPIPS is not measured: put AlexNet's weights (alexnet.safetensors, which tools/get_backbone.py writes) into models/{lpips.FOLDER}."
            )
        else:
            columns["LPIPS"] = _perceptual(file, file.stat().st_mtime_ns).distance(edited, truth).tolist()
        direction = math.nan
        if before is not None:
            before = image_batch(before, "Before", EvaluationError)[..., :3].float().cpu()
            if before.shape != edited.shape:
                raise EvaluationError(
                    f"Evaluate Edit: {len(before)} images of {before.shape[2]} x {before.shape[1]} before the edit do not fit {len(edited)} edited ones of "
                    f"{edited.shape[2]} x {edited.shape[1]}. Connect the same images, at the same size."
                )
            columns["PSNR of copying"] = psnr(before, truth).tolist()
            if open_clip is not None:
                prepare(open_clip)
                inputs, outputs, wanted = (
                    image_features(open_clip, images).cpu() for images in (before, edited, truth)
                )
                direction = direction_distance(outputs - inputs, wanted - inputs)
                columns["similarity to input"] = image_similarity(inputs, outputs).tolist()
                if caption_before.strip() and caption_after.strip():
                    words = text_features(open_clip, [caption_before, caption_after]).cpu()
                    columns["agreement with words"] = direction_similarity(
                        inputs, outputs, words[:1], words[1:]
                    ).tolist()
                elif caption_before.strip() or caption_after.strip():
                    remarks.append("Agreement with the words is not measured: give both captions.")
                remarks.append(f"Direction {direction:.4f} ({open_clip.name})")
        elif open_clip is not None:
            remarks.append("Direction is not measured: connect the images before the edit.")
        text = _table(columns, remarks)
        means = [mean(columns[name]) if name in columns else math.nan for name in ("PSNR", "SSIM", "LPIPS")]
        return io.NodeOutput(text, *means, direction, ui={"text": [text]})


@lru_cache(maxsize=1)
def _perceptual(file: Path, _changed: int) -> Perceptual:
    with torch.inference_mode(False):
        return Perceptual(file)


def _table(columns: dict[str, list[float]], remarks: list[str]) -> str:
    widths = [max(len(name), 7) for name in columns]
    count = len(next(iter(columns.values())))
    lines = ["      " + "  ".join(name.rjust(width) for name, width in zip(columns, widths, strict=True))]
    for label, values in [
        ("mean", [mean(column) for column in columns.values()]),
        *[(str(i), [c[i] for c in columns.values()]) for i in range(count)],
    ]:
        digits = [2 if name.startswith("PSNR") else 4 for name in columns]
        cells = (
            f"{value:.{places}f}".rjust(width)
            for value, width, places in zip(values, widths, digits, strict=True)
        )
        lines.append(f"{label:<4}  " + "  ".join(cells))
    return "\n".join([*lines, *remarks])
