"""Nodes that vary a setting and show the results side by side."""

from collections.abc import Sequence

import torch
from comfy_api.latest import io

from ..core.editing.sweeps import labels as make_labels
from ..core.editing.sweeps import parse_values
from ..core.errors import EvaluationError
from ..core.evaluation.reports.contact_sheet import SheetColumn, contact_sheet
from ..core.storage.image_tensors import from_image, image_batch
from .shared.node import Node
from .shared.previews import previews


class SweepValues(Node):
    """Gives a list of values, for which the rest of the graph runs one after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushSweepValues",
            display_name="Sweep Values",
            category="InstructBrush/evaluation",
            description="A list of values for an input of any node, such as end_timestep or strength of "
            "Apply Instruction. The nodes behind it run once for each value. Contact Sheet shows the results "
            "side by side. With end_timestep this is Fig. 3 of InstructBrush.",
            search_aliases=[
                "sweep",
                "xy plot",
                "grid search",
                "parameter sweep",
                "list of values",
                "for each",
                "compare settings",
            ],
            inputs=[
                io.String.Input(
                    "values",
                    default="1000:0:-200",
                    tooltip="Values such as 0, 0.5, 1, or a range as start:stop:step. 1000:0:-200 gives "
                    "1000, 800, 600, 400, 200 and 0.",
                ),
                io.String.Input(
                    "name", default="T", tooltip="Name of the setting, for the labels, such as T or strength."
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="values",
                    is_output_list=True,
                    tooltip="The values one after the other, for inputs such as strength.",
                ),
                io.Int.Output(
                    display_name="whole",
                    is_output_list=True,
                    tooltip="The values rounded to whole numbers, for inputs such as end_timestep.",
                ),
                io.String.Output(
                    display_name="labels",
                    is_output_list=True,
                    tooltip="A label for each value, such as T = 200, for Contact Sheet.",
                ),
            ],
        )

    @classmethod
    def execute(cls, values: str, name: str) -> io.NodeOutput:
        numbers = parse_values(values)
        return io.NodeOutput(
            numbers, [round(number) for number in numbers], make_labels(name.strip(), numbers)
        )


class ContactSheet(Node):
    """Draws images side by side, with titles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushContactSheet",
            display_name="Contact Sheet",
            category="InstructBrush/evaluation",
            description="Draws one image with a column for each entry of a list of images, and a row for "
            "each image of an entry. Use it with Sweep Values to compare settings.",
            search_aliases=[
                "image grid",
                "contact sheet",
                "xy plot",
                "montage",
                "side by side",
                "compare images",
            ],
            has_intermediate_output=True,
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The columns: a list with an image or a batch for each. A batch has a row for "
                    "each of its images.",
                ),
                io.String.Input(
                    "labels",
                    optional=True,
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="A title for each column: the labels of Sweep Values, or a line for each. Empty: "
                    "no titles.",
                ),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="The images before the edit, shown as the first column: one for each row.",
                ),
                io.Int.Input(
                    "cell",
                    optional=True,
                    default=256,
                    min=16,
                    max=2048,
                    step=16,
                    tooltip="Width of each image on the sheet, in pixels.",
                ),
                io.String.Input(
                    "title", optional=True, default="", dynamic_prompts=False, tooltip="The first line."
                ),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The sheet, for Save Image.")],
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        labels: Sequence[str] = ("",),
        source: list[torch.Tensor] | None = None,
        cell: Sequence[int] = (256,),
        title: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        columns = _columns(images, [line for text in labels for line in text.splitlines() if line.strip()])
        if source is not None:
            before = [image for batch in source for image in _batch(batch)]
            columns.insert(0, SheetColumn("input", before))
        sheet = from_image(contact_sheet(columns, cell[0], title[0].strip()))
        return io.NodeOutput(sheet[None], ui=previews([sheet]))


def _columns(images: list[torch.Tensor], titles: list[str]) -> list[SheetColumn]:
    batches = [list(_batch(batch)) for batch in images]
    if len(batches) == 1 and len(titles) == len(batches[0]):
        batches = [[image] for image in batches[0]]
    if titles and len(titles) != len(batches):
        raise EvaluationError(
            f"Contact Sheet: {len(titles)} labels do not fit {len(batches)} columns. Give a label for each, "
            "or none."
        )
    return [
        SheetColumn(title, batch) for title, batch in zip(titles or [""] * len(batches), batches, strict=True)
    ]


def _batch(images: torch.Tensor) -> torch.Tensor:
    return image_batch(images, "Contact Sheet", EvaluationError)[..., :3]
