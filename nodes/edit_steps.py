"""Nodes that make several edits one after the other."""

import logging
from typing import Any

from comfy_api.latest import io

from ..core.errors import InstructionError
from ..core.reasoning.edit_lists import EditList, read_edits
from ..core.reasoning.explain_edits import MOST_EDITS
from .comfy.models.description import describe
from .comfy.step_graph import StepSettings, step_graph
from .comfy.types import Model
from .shared.guidance_scales import scale_inputs
from .shared.node import Node
from .shared.socket_types import MllmSocket, RegionFinder


class EditBySteps(Node):
    """Makes several edits one after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushEditBySteps",
            display_name="Edit by Steps",
            category="InstructBrush/editing",
            description="Makes several edits one after the other, each on the result of the one before, such "
            "as the edits of Explain Instruction. With a region finder each step edits only its object. A "
            "step that did not change is not computed again.",
            search_aliases=[
                "edit loop",
                "several edits",
                "multi turn edit",
                "sequential edit",
                "list of instructions",
                "for loop",
                "instruction chain",
            ],
            enable_expand=True,
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="An InstructPix2Pix model."),
                io.Clip.Input("clip", tooltip="The model's text encoder."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input(
                    "image",
                    tooltip="One or more images to edit. A list of images gets a list of edits, one text for "
                    "each image.",
                ),
                io.String.Input(
                    "edits",
                    default="",
                    multiline=True,
                    placeholder="make the hat red | hat\nmake it night",
                    tooltip="One edit a line, such as the edits of Explain Instruction. The object that "
                    "changes may follow after a vertical bar. A numbered list, JSON, or sentences with 'and' "
                    "and 'then' work too, so any language model can write it.",
                ),
                io.Noise.Input("noise", tooltip="The noise of every step, from Random Noise."),
                io.Sampler.Input("sampler", tooltip="The sampler of every step."),
                io.Sigmas.Input("sigmas", tooltip="The noise levels of every step, from a scheduler."),
                io.Int.Input(
                    "max_steps",
                    default=4,
                    min=1,
                    max=MOST_EDITS,
                    tooltip="Largest number of edits. Later ones are left out.",
                ),
                *scale_inputs("the words"),
                RegionFinder.Input(
                    "finder",
                    optional=True,
                    tooltip="From Load Region Finder. Each step then edits only the objects that it names, "
                    "and the whole image if it names none or none is found. Without it every step edits the "
                    "whole image.",
                ),
                MllmSocket.Input(
                    "mllm",
                    optional=True,
                    tooltip="From Load MLLM. It says which objects a step edits if the step names no region. "
                    "Without it a grammar decides. Used only with a finder.",
                ),
                io.Int.Input(
                    "grow",
                    optional=True,
                    default=4,
                    min=0,
                    max=1024,
                    tooltip="Pixels by which a region grows, so that an edit may change its outline.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The image after the last edit."),
                io.Image.Output(
                    display_name="steps",
                    tooltip="A batch with the image after each edit, for Preview Image.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The edits that are made, what is left out and why, and the region of each step.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        edits: str,
        max_steps: int,
        text_scale: float,
        image_scale: float,
        finder: Any = None,
        grow: int = 4,
        **_links: Any,
    ) -> io.NodeOutput:
        try:
            found = read_edits(edits, max_steps)
        except InstructionError as error:
            raise InstructionError(
                f"Edit by Steps: there is nothing to do in {edits.strip()[:80]!r}. {error} Write one edit a "
                "line, such as: make the hat red."
            ) from error
        in_regions = finder is not None
        report = _report(found, in_regions)
        settings = StepSettings(text_scale, image_scale, in_regions, describe(model).reads_mask, grow)
        hidden = cls.hidden
        inputs = hidden.dynprompt.get_node(hidden.unique_id)["inputs"]
        made = step_graph(inputs, found.edits, settings, report)
        return io.NodeOutput(made.edited, made.steps, made.report, ui={"text": [report]}, expand=made.nodes)


class PickFromList(Node):
    """Picks one item of a list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushPickFromList",
            display_name="Pick from List",
            category="InstructBrush/editing",
            description="Picks one item of a list, such as one image of Load Edit Pairs. Edit by Steps uses "
            "it for each image of a list.",
            search_aliases=["list index", "item of list", "select from list", "get item", "choose image"],
            is_input_list=True,
            inputs=[
                io.AnyType.Input(
                    "items", tooltip="A list of anything. A single value is a list of one item."
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Number of the item, from 0. Beyond the end it is the last item.",
                ),
            ],
            outputs=[io.AnyType.Output(display_name="item", tooltip="The item.")],
        )

    @classmethod
    def execute(cls, items: list[Any], index: list[int]) -> io.NodeOutput:
        if not items:
            raise InstructionError("Pick from List: the list is empty. Connect a list with an item.")
        return io.NodeOutput(items[min(index[0], len(items) - 1)])


def _report(found: EditList, in_regions: bool) -> str:
    lines = [f"{number}. {edit}" for number, edit in enumerate(found.edits, 1)]
    remarks = list(found.remarks)
    if not in_regions and any(edit.region for edit in found.edits):
        remarks.append("Regions are named, but no finder is connected, so each step edits the whole image.")
    for remark in remarks:
        logging.warning("InstructBrush: Edit by Steps: %s", remark)
    return "\n".join(lines + remarks)
