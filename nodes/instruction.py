"""Nodes that save and load instructions."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from PIL import Image

from ..core.errors import InstructionError, StorageError
from ..core.instruction.file import load_instruction, read_thumbnail, save_instruction
from ..core.instruction.instruction import Blend, Instruction, parts_of
from ..core.storage.files import write_elsewhere
from ..core.storage.image_tensors import from_image
from .comfy.folders import metadata, paths
from .shared.node import Choice, FileFingerprints, NameChoice, Node, check_names
from .shared.previews import previews
from .shared.socket_types import InstructionSocket, thumbnail_of, with_thumbnail

logger = logging.getLogger(__name__)

_FILES = FileFingerprints(lambda name: paths.file_state(paths.instruction_path(name)))

_NUMBER = "add a number"
_REFUSE = "refuse"
_OVERWRITE = "overwrite"


class SaveInstruction(Node):
    """Saves an instruction to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushSave",
            display_name="Save Instruction",
            category="InstructBrush/instruction",
            description="Saves an instruction to output/instructions, with a thumbnail and its workflow. "
            "Drop the file on the canvas to open the workflow again. A blend becomes one file that holds all "
            "of its instructions.",
            search_aliases=[
                "export instruction",
                "instructbrush",
                "save edit",
                "save learned edit",
                "save visual instruction",
                "merge instructions",
            ],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                InstructionSocket.Input("instruction", tooltip="The instruction or blend to save."),
                io.String.Input(
                    "name",
                    default="instruction",
                    tooltip="Name of the file without suffix. Sub-folders are created, e.g. weather/snow.",
                ),
                Choice(
                    "if_taken",
                    options=[_NUMBER, _REFUSE, _OVERWRITE],
                    default=_NUMBER,
                    tooltip=(
                        "add a number: saves as name_2, name_3 …. refuse: stops with an error. overwrite: "
                        "replaces the older file."
                    ),
                ),
                Choice(
                    "precision",
                    options=["fp16", "fp32"],
                    default="fp16",
                    optional=True,
                    tooltip="fp16: half the size, and nearly the same edits. fp32: exactly what was learned.",
                    advanced=True,
                ),
            ],
            outputs=[
                InstructionSocket.Output(
                    display_name="INSTRUCTION", tooltip="The same instruction, titled with its name."
                ),
                io.String.Output(display_name="path", tooltip="Path of the file."),
            ],
        )

    @classmethod
    def execute(
        cls, instruction: Instruction | Blend, name: str, if_taken: str, precision: str = "fp16"
    ) -> io.NodeOutput:
        path = paths.new_instruction_path(name)
        if if_taken == _NUMBER:
            path = paths.free_path(path)
        image = thumbnail_of(instruction)
        titled = instruction
        if not isinstance(instruction, Blend):  # the parts of a blend keep their titles
            titled = replace(instruction, info=replace(instruction.info, title=path.stem))
        extra = metadata.entries(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        half = precision == "fp16"
        try:
            save_instruction(
                titled, path, overwrite=if_taken == _OVERWRITE, thumbnail=image, extra=extra, half=half
            )
            remark = f"Saved to {paths.shown_output(path)}"
        except StorageError as error:
            path = _save_elsewhere(titled, path.name, error, thumbnail=image, extra=extra, half=half)
            remark = f"{error} It was saved to {path} instead."
            logger.warning("InstructBrush: %s", remark)
        return io.NodeOutput(titled, str(path), ui={**_preview(image), "text": [remark]})


class LoadInstruction(Node):
    """Loads an instruction from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLoad",
            display_name="Load Instruction",
            category="InstructBrush/instruction",
            description="Loads an instruction from models/instructions or output/instructions.",
            search_aliases=[
                "load edit",
                "instructbrush",
                "import instruction",
                "load visual instruction",
                "learned edit",
            ],
            has_intermediate_output=True,
            inputs=[
                NameChoice(
                    "name",
                    options=paths.instruction_names(),
                    tooltip="An instruction file. Choose… shows them with their images.",
                )
            ],
            outputs=[
                InstructionSocket.Output(
                    display_name="INSTRUCTION",
                    tooltip="The instruction, for Apply Instruction or Edit Guider.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return check_names(paths.instruction_path, name)

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None) -> str:
        return _FILES.fingerprint(name)

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        _FILES.record(name)
        path = paths.instruction_path(name)
        try:
            image = read_thumbnail(path)
        except InstructionError as error:
            # The instruction may be fine although its thumbnail is damaged.
            logger.warning("InstructBrush: %s", error)
            image = None
        loaded = with_thumbnail(load_instruction(path), image)
        remarks = [_remark(part.instruction, part.weight) for part in parts_of(loaded)]
        # The gallery's widget shows the thumbnail, so it is no output.
        return io.NodeOutput(loaded, ui={"text": remarks})


def _save_elsewhere(instruction: Instruction | Blend, name: str, error: StorageError, **options: Any) -> Path:
    """Saves to another folder after ``error``, with the options of ``save_instruction``.

    Raises:
        StorageError: that fails too.
    """
    path = write_elsewhere(name, lambda place: save_instruction(instruction, place, **options))
    if path is None:
        raise StorageError(
            f"{error} The instruction is still in memory: run the workflow again once it can be saved."
        ) from error
    return path


def _preview(image: Image.Image | None) -> dict[str, list[Any]]:
    # ComfyUI joins the output of lists by the keys of the first.
    return {"images": [], **previews([from_image(image)] if image else [])}


def _remark(instruction: Instruction, weight: float) -> str:
    info = instruction.info
    parts = [
        f"from '{info.init_text}'" if info.init_text else "",
        f"{info.pairs} pairs",
        f"{info.steps} steps",
        f"{info.segments} segments x {info.tokens} rows" if info.tokens else "",
        "" if info.space == "attention" else f"{info.space} space",
    ]
    remark = f"{info.family}: {', '.join(part for part in parts if part)}"
    return remark if weight == 1 else f"{weight:g} x {instruction.title}, {remark}"
