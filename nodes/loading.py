"""Nodes that load models and pairs."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..core.pairs.board import Board
from ..core.pairs.pairs import Fit, load_pairs, make_pairs
from .comfy.encoders.progress import node_progress
from .comfy.folders import paths
from .comfy.models.loading import POCKET_NAME, family_of, load_model, model_names, model_path
from .shared.node import FileFingerprints, NameChoice, Node, check_names
from .shared.pairs_parts import fit_input, pairs_ui
from .shared.socket_types import Pairs

_MEGAPIXEL = 1024**2  # pixels, as ComfyUI counts them
_MODELS = FileFingerprints(lambda name: paths.state_of(model_path(name)))
_FILES = FileFingerprints(lambda folder: paths.folder_state(paths.pairs_path(folder)))


class LoadInstructPix2Pix(Node):
    """Loads MODEL, CLIP and VAE of an InstructPix2Pix model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLoadModel",
            display_name="Load InstructPix2Pix",
            category="InstructBrush/loading",
            description="Loads an editing model: a pocket editor that comes with the pack, a checkpoint, or "
            "a diffusers folder such as timbrooks/instruct-pix2pix or UltraEdit's. Its outputs are ordinary "
            "and work with every stock node.",
            search_aliases=[
                "instruct pix2pix",
                "instructbrush",
                "ip2p",
                "load editing model",
                "pocket editor",
                "diffusers loader",
                "cosxl edit",
                "ultraedit",
            ],
            inputs=[
                NameChoice(
                    "model_name",
                    options=model_names(),
                    default=POCKET_NAME,
                    tooltip="A built-in editor (128 px, to try things out), a file in models/checkpoints, or "
                    "a folder in models/diffusers. The model must take 8 channels (noise and image) or 12 "
                    "(and a mask); SD3 32 or 48.",
                )
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The editing model, for Learn Instruction, Apply Instruction and samplers.",
                ),
                io.Clip.Output(display_name="CLIP", tooltip="Its text encoder."),
                io.Vae.Output(display_name="VAE", tooltip="Its autoencoder."),
                io.Int.Output(
                    "size",
                    display_name="size",
                    tooltip="Side in pixels of the square images that the model was made for. Connect it to "
                    "the size of Load Edit Pairs.",
                ),
                io.Float.Output(
                    "megapixels",
                    display_name="megapixels",
                    tooltip="The same size in megapixels. Connect it to Scale Image to Total Pixels, which "
                    "keeps the proportions of an image.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        return check_names(model_path, model_name)

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None = None) -> str:
        return _MODELS.fingerprint(model_name)

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        _MODELS.record(model_name)
        side = family_of(model_name).side
        return io.NodeOutput(*load_model(model_name), side, side**2 / _MEGAPIXEL)


class LoadEditPairs(Node):
    """Loads pairs from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLoadPairs",
            display_name="Load Edit Pairs",
            category="InstructBrush/loading",
            description="Reads before/after pairs from a folder inside ComfyUI's input folder: images named "
            "0_0.png (before) and 0_1.png (after), 1_0.png and 1_1.png and so on; or sub-folders before/ and "
            "after/ with equal names; or a list such as pairs.json or metadata.jsonl; or .parquet tables. "
            "Names that say nothing are paired in their order. Drop or paste your images on the board to "
            "make a folder. A pair that cannot be read is left out, and the node says so.",
            search_aliases=[
                *("before after", "image pairs", "training pairs", "dataset", "visual instruction"),
                *("pairs board", "drop images", "own photos", "instructbrush", "learn edit"),
            ],
            has_intermediate_output=True,
            inputs=[
                NameChoice(
                    "folder",
                    options=paths.pairs_folders(),
                    tooltip=(
                        "A folder inside ComfyUI's input folder, or an example that comes with the pack. "
                        "Press R to reload the list."
                    ),
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Side of the square that every image is scaled and cropped to. 0 keeps the "
                    "image sizes, up to 1024 x 1024 pixels. The best value is the model's own size: 128 "
                    "for the pocket editor, 512 for SD1.5, 1024 for SDXL.",
                ),
                fit_input(),
                io.String.Input(
                    "board",
                    default="",
                    optional=True,
                    socketless=True,
                    dynamic_prompts=False,
                    extra_dict={"hidden": True},
                    tooltip="Decisions of the pairs board, as JSON with names of pairs, all optional: "
                    '{"order": ["2", "1"], "skip": ["3"], "swap": ["1"], "no_mask": ["2"], "held_out": "1"}. '
                    "order: the pairs that come first. skip: left out. swap: before and after exchanged. "
                    "no_mask: its mask is ignored. held_out: not learned from. Empty uses all pairs as they "
                    "are.",
                ),
            ],
            outputs=[
                Pairs.Output(display_name="PAIRS", tooltip="The pairs, for Learn Instruction."),
                io.Image.Output(
                    display_name="before",
                    is_output_list=True,
                    tooltip="The images before the edit, one after the other.",
                ),
                io.Image.Output(
                    display_name="after",
                    is_output_list=True,
                    tooltip="The images after the edit, one after the other.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        return check_names(paths.pairs_path, folder)

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_rest: Any) -> str:
        return _FILES.fingerprint(folder)

    @classmethod
    def execute(cls, folder: str, size: int, fit: Fit = "stop", board: str = "") -> io.NodeOutput:
        _FILES.record(folder)
        pairs = load_pairs(
            paths.pairs_path(folder),
            size or None,
            fit,
            board=Board.parse(board),
            progress=node_progress(),
        )
        return io.NodeOutput(
            pairs,
            [pair.before[None] for pair in pairs],
            [pair.after[None] for pair in pairs],
            ui=pairs_ui(pairs),
        )


class MakeEditPairs(Node):
    """Makes pairs of two batches or lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushMakePairs",
            display_name="Make Edit Pairs",
            category="InstructBrush/loading",
            description="Makes before/after pairs of two batches or lists of images, in their order.",
            search_aliases=["before after", "image pairs", "pair batches", "training pairs", "learn edit"],
            has_intermediate_output=True,
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "before",
                    tooltip="Images before the edit: a batch, or a list, whose images may differ in size.",
                ),
                io.Image.Input(
                    "after", tooltip="The same images after the edit, in the same number and order."
                ),
                fit_input(),
            ],
            outputs=[Pairs.Output(display_name="PAIRS", tooltip="The pairs, for Learn Instruction.")],
        )

    @classmethod
    def execute(
        cls, before: list[torch.Tensor], after: list[torch.Tensor], fit: Sequence[Fit] = ("stop",)
    ) -> io.NodeOutput:
        pairs = make_pairs(before, after, fit=fit[0])
        return io.NodeOutput(pairs, ui=pairs_ui(pairs))
