"""Nodes that measure edits."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..core.encoders.clip import OpenClipModel
from ..core.errors import EvaluationError
from ..core.evaluation.edit_figures import measure_edits
from ..core.evaluation.perceptual import Perceptual
from ..core.pairs.pairs import EditPairs
from ..core.storage.image_tensors import image_batch
from .comfy.encoders import lpips
from .comfy.encoders.residency import prepare
from .comfy.folders import paths
from .shared.node import Node
from .shared.socket_types import OpenClip, Pairs


class EvaluateEdit(Node):
    """Measures edited images against the ground truth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushEvaluate",
            display_name="Evaluate Edit",
            category="InstructBrush/evaluation",
            description="Measures how close edited images are to the true results: PSNR, SSIM and LPIPS. "
            "With the images before the edit and a CLIP, it also measures whether the edit goes in the right "
            "direction. The node shows the figures.",
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
                    "truth",
                    tooltip="The true results: the same number of images, in the same size and order.",
                ),
                io.Image.Input(
                    "before",
                    optional=True,
                    tooltip="The same images before the edit. Shows the score of a plain copy, and is needed "
                    "to measure direction.",
                ),
                OpenClip.Input(
                    "open_clip",
                    optional=True,
                    tooltip="With the images before the edit, measures direction and similarity. "
                    "InstructPix2Pix uses ViT-L-14; InstructBrush's paper does not name its CLIP.",
                ),
                io.String.Input(
                    "caption_before",
                    optional=True,
                    default="",
                    tooltip="Describes the images before the edit, such as 'a photo of a field'. With both "
                    "captions, agreement with the words is measured.",
                ),
                io.String.Input(
                    "caption_after",
                    optional=True,
                    default="",
                    tooltip="Describes the images after the edit, such as 'a photo of a field in snow'.",
                ),
                Pairs.Input(
                    "pairs",
                    optional=True,
                    tooltip="The pairs that the edit was learned from. With them, direction is measured "
                    "against the mean change of these pairs, as in InstructBrush's paper, and Visual CLIP "
                    "(Visii) is shown. Without them, direction is measured against the true results.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="figures", tooltip="All figures as a table: the mean, then each image."
                ),
                io.Float.Output(display_name="psnr", tooltip="Mean PSNR in dB, higher is better."),
                io.Float.Output(
                    display_name="ssim", tooltip="Mean SSIM, higher is better, 1 means equal images."
                ),
                io.Float.Output(
                    display_name="lpips",
                    tooltip="Mean LPIPS on AlexNet, lower is better. NaN if its weights are missing.",
                ),
                io.Float.Output(
                    display_name="direction",
                    tooltip="1 - cosine between the mean change of the images and that of the training pairs "
                    "(without pairs: of the true results). Lower is better. NaN without CLIP.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> str:
        """Changes when the weights of LPIPS are put in place."""
        return "" if (backbone := lpips.backbone()) is None else paths.file_state(backbone)

    @classmethod
    def execute(
        cls,
        edited: torch.Tensor,
        truth: torch.Tensor,
        before: torch.Tensor | None = None,
        open_clip: OpenClipModel | None = None,
        caption_before: str = "",
        caption_after: str = "",
        pairs: EditPairs | None = None,
    ) -> io.NodeOutput:
        if before is not None and open_clip is not None:
            prepare(open_clip)
        backbone = lpips.backbone()
        figures = measure_edits(
            _images(edited, "Edited"),
            _images(truth, "Truth"),
            before=None if before is None else _images(before, "Before"),
            clip=open_clip,
            captions=(caption_before, caption_after),
            perceptual=_perceptual(backbone, backbone.stat().st_mtime_ns) if backbone else None,
            pairs=pairs,
        )
        remarks = []
        if backbone is None:
            remarks.append(
                "LPIPS is not measured: put AlexNet's weights (alexnet.safetensors, which "
                f"tools/get_backbone.py writes) into models/{lpips.FOLDER}."
            )
        text = figures.table(remarks)
        means = [figures.mean(metric) for metric in ("PSNR", "SSIM", "LPIPS")]
        return io.NodeOutput(text, *means, figures.direction, ui={"text": [text]})


def _images(images: torch.Tensor, name: str) -> torch.Tensor:
    return image_batch(images, name, EvaluationError)[..., :3].float().cpu()


@lru_cache(maxsize=1)
def _perceptual(file: Path, _changed: int) -> Perceptual:
    with torch.inference_mode(False):
        return Perceptual(file)
