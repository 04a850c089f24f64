"""The node that makes pairs backwards: from finished images and an edit that removes their effect."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import torch
from comfy_api.latest import io

from ..core.pairs.from_edit import pairs_from_edit, save_pairs
from ..core.pairs.pairs import Fit
from .comfy.folders import paths
from .shared.node import Choice, Node
from .shared.pairs_parts import fit_input, pairs_ui
from .shared.socket_types import Pairs

_KEEP_ALL, _LEAST_CHANGE, _LOWEST_SHARE = _DROPS = ("nothing", "below least change", "lowest share")


class MakePairsFromEdit(Node):
    """Makes pairs of finished images and their edit without the effect."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushMakePairsFromEdit",
            display_name="Make Pairs From Edit",
            category="InstructBrush/loading",
            description="Makes before/after pairs backwards. Many effects are easier to remove than to add: "
            "take finished images that have the effect, remove it with any nodes (a filter, an inpainting, "
            "another model), and the finished images become after, the others before. Pairs that hardly "
            "changed are dropped. The pairs can be saved as a folder for Load Edit Pairs.",
            search_aliases=[
                *("before after", "image pairs", "training pairs", "reverse pairs", "backwards pairs"),
                *("remove effect", "synthetic pairs", "save pairs", "dataset", "learn edit"),
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                Pairs.Output(display_name="PAIRS", tooltip="The kept pairs, for Learn Instruction."),
                io.String.Output(
                    display_name="report",
                    tooltip="How many pairs are kept, how much each changed, and where they are saved.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        edited: list[torch.Tensor],
        drop: Sequence[str] = (_LEAST_CHANGE,),
        least_change: Sequence[float] = (0.0001,),
        share: Sequence[float] = (0.1,),
        folder: Sequence[str] = ("",),
        fit: Sequence[Fit] = ("stop",),
        masks: Sequence[torch.Tensor] = (),
    ) -> io.NodeOutput:
        name = folder[0].strip()
        place = paths.new_pairs_path(name) if name else None
        made = pairs_from_edit(
            images,
            edited,
            masks or (),
            threshold=least_change[0] if drop[0] == _LEAST_CHANGE else None,
            share=share[0] if drop[0] == _LOWEST_SHARE else None,
            fit=fit[0],
        )
        report = list(made.report)
        if place is not None:
            save_pairs(made.pairs, place)
            saved = PurePosixPath(name).with_name(place.name)
            report.insert(1, f"Saved as input/{saved}, for Load Edit Pairs (press R there).")
        shown = pairs_ui(made.pairs)
        shown["text"] = ["\n".join((*report, *made.pairs.remarks))]
        return io.NodeOutput(made.pairs, "\n".join(report), ui=shown)


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input(
            "images",
            tooltip="Finished images, which have the effect: a batch, or a list, whose images may differ in "
            "size. They become after.",
        ),
        io.Image.Input(
            "edited",
            tooltip="The same images without the effect, in the same number and order: the result of nodes "
            "that remove it. They become before.",
        ),
        Choice(
            "drop",
            options=list(_DROPS),
            default=_LEAST_CHANGE,
            tooltip="Which pairs are dropped because the edit hardly changed them. nothing: none. below "
            "least change: those whose mean squared difference is below that value. lowest share: the "
            "share of the pairs that changed least.",
        ),
        io.Float.Input(
            "least_change",
            default=0.0001,
            min=0.0,
            max=1.0,
            step=0.0001,
            round=False,
            tooltip="Least mean squared difference of a kept pair, with colors from 0 to 1. 0.0001 is a "
            "difference of 1 percent everywhere. The report shows the value of each pair.",
        ),
        io.Float.Input(
            "share",
            default=0.1,
            min=0.0,
            max=0.9,
            step=0.05,
            tooltip="Share of the pairs that is dropped, rounded down: 0.1 drops the 10 percent that changed "
            "least, as ReasonPix2Pix does.",
        ),
        io.String.Input(
            "folder",
            default="",
            tooltip="Name of a new folder in ComfyUI's input folder, where the pairs are saved for Load Edit "
            "Pairs. If the name is taken, it gets a number. Empty saves nothing.",
        ),
        fit_input(),
        io.Mask.Input(
            "masks",
            optional=True,
            tooltip="White where the effect is, one for each image or one for all: learning acts only there. "
            "A pair whose mask is black is dropped.",
        ),
    ]
