"""Nodes that bring models and pairs into a graph."""

import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..core.errors import InstructBrushError
from ..core.learning.pairs import EditPairs, load_pairs, make_pairs
from ..core.pictures import from_image, to_image
from .comfy import models, paths
from .sockets import Pairs

_PREVIEWS = 16
_PREVIEW_HEIGHT = 192


class LoadInstructPix2Pix(io.ComfyNode):
    """MODEL, CLIP and VAE of an InstructPix2Pix model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLoadModel",
            display_name="Load InstructPix2Pix",
            category="InstructBrush/loading",
            description="Loads an editing model: a pocket editor that comes with the pack, a checkpoint, or a diffusers folder such as "
            "timbrooks/instruct-pix2pix or UltraEdit's. Its outputs are ordinary and work with every stock node.",
            search_aliases=["instruct pix2pix", "ip2p", "load editing model", "pocket editor", "diffusers loader", "cosxl edit", "ultraedit"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=models.model_names(),
                    default=models.POCKET_NAME,
                    tooltip="The built-in editor (128 px, made for trying things out), a file in models/checkpoints, or a folder in models/diffusers. "
                    "The model must take 8 channels (noise and picture) or 12 (and a mask); SD3 twice or three times 16.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The editing model, for Learn Instruction, Apply Instruction and samplers."),
                io.Clip.Output(display_name="CLIP", tooltip="Its text encoder."),
                io.Vae.Output(display_name="VAE", tooltip="Its autoencoder."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str) -> bool | str:
        known = model_name in models.model_names()
        return known or f"Model '{model_name}' was not found. Refresh the list (key R) and choose one of it."

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        return io.NodeOutput(*models.load_model(model_name))


class LoadEditPairs(io.ComfyNode):
    """Pairs from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLoadPairs",
            display_name="Load Edit Pairs",
            category="InstructBrush/loading",
            description="Reads before/after pairs from a folder inside ComfyUI's input folder: pictures named 0_0.png (before) and 0_1.png (after), 1_0.png "
            "and 1_1.png and so on; or sub-folders before/ and after/ with equal names; or a pairs.json.",
            search_aliases=["before after", "image pairs", "training pairs", "dataset", "visual instruction"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=paths.pairs_folders(),
                    tooltip="A folder inside ComfyUI's input folder, or an example that comes with the pack. Key R reads the list again.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Scale and crop every picture to a square of this many pixels. 0 leaves them as they are. "
                    "Best is what the model was made for: 128 for the pocket editor, 512 for SD1.5, 1024 for SDXL.",
                ),
            ],
            outputs=[
                Pairs.Output(display_name="PAIRS", tooltip="The pairs, for Learn Instruction."),
                io.Image.Output(display_name="before", is_output_list=True, tooltip="The pictures before the edit, one after the other."),
                io.Image.Output(display_name="after", is_output_list=True, tooltip="The pictures after the edit, one after the other."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str) -> bool | str:
        try:
            paths.pairs_path(folder)
        except InstructBrushError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str, size: int) -> str:
        return paths.folder_state(paths.pairs_path(folder))

    @classmethod
    def execute(cls, folder: str, size: int) -> io.NodeOutput:
        pairs = load_pairs(paths.pairs_path(folder), size or None)
        return io.NodeOutput(pairs, [pair.before[None] for pair in pairs], [pair.after[None] for pair in pairs], ui=_preview(pairs))


class MakeEditPairs(io.ComfyNode):
    """Pairs from two batches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushMakePairs",
            display_name="Make Edit Pairs",
            category="InstructBrush/loading",
            description="Makes before/after pairs of two batches of pictures: the first with the first, the second with the second, and so on.",
            search_aliases=["before after", "image pairs", "pair batches", "training pairs"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("before", tooltip="Pictures before the edit."),
                io.Image.Input("after", tooltip="The same pictures after the edit, as many and in the same order."),
            ],
            outputs=[Pairs.Output(display_name="PAIRS", tooltip="The pairs, for Learn Instruction.")],
        )

    @classmethod
    def execute(cls, before: torch.Tensor, after: torch.Tensor) -> io.NodeOutput:
        pairs = make_pairs(before.cpu(), after.cpu())
        return io.NodeOutput(pairs, ui=_preview(pairs))


def _preview(pairs: EditPairs) -> dict[str, list[object]]:
    """The first pairs, before and after side by side, at one height."""
    images: list[object] = []
    for pair in list(pairs)[:_PREVIEWS]:
        height, width = pair.before.shape[:2]
        size = (max(width * _PREVIEW_HEIGHT // height, 1), _PREVIEW_HEIGHT)
        both = [to_image(picture).resize(size, Image.Resampling.BICUBIC) for picture in (pair.before, pair.after)]
        images.extend(ui.PreviewImage(torch.cat([from_image(image) for image in both], dim=1)[None]).values)
    return {"images": images}
