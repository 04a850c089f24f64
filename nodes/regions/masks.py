"""Nodes that prepare regions: what a mask may be, how soft it is, and what becomes of the pixels outside."""

from typing import Any

import torch
from comfy_api.latest import io

from ...core.errors import RegionError
from ...core.regions.cleaning import CleanSettings, clean_mask
from ...core.regions.masks import (
    bounding_box_mask,
    box_mask,
    clip_boxes,
    combine_masks,
    fit_mask,
    is_unpainted,
    mask_batch,
    paste_back,
    soft_mask,
)
from ...core.storage.image_tensors import image_batch
from ..comfy.sampling.regional_conditioning import combine_regions
from ..shared.node import Choice, Node
from .boxes import read_boxes

_REGIONS = 4


class CleanRegion(Node):
    """A mask that is fit for editing, or the reason why it is not."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        default = CleanSettings()
        return io.Schema(
            node_id="InstructBrushCleanRegion",
            display_name="Clean Region",
            category="InstructBrush/regions",
            description="Checks masks against UltraEdit's limits and cleans them: holes, fragments, widening, growing, feathering. The node shows what "
            "each mask covers, and why one is refused.",
            search_aliases=[
                "clean mask",
                "mask area",
                "remove small regions",
                "fill holes",
                "convex hull",
                "grow mask",
                "feather mask",
                "blur mask",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Mask.Input("mask", tooltip="One mask or several. 1 is edited, 0 stays."),
                Choice(
                    "when_refused",
                    options=["stop", "keep", "empty", "whole picture"],
                    default="stop",
                    tooltip="What becomes of a refused mask. stop: the run ends with the reason. keep: it goes on as it came. empty: nothing is edited. "
                    "whole picture: everything is.",
                ),
                Choice(
                    "shape",
                    options=["fine", "hull", "box"],
                    default=default.shape,
                    tooltip="fine: as it is. hull: every fragment becomes its filled outline without dents. box: every fragment becomes the box around it. "
                    "Edits that change a shape need room: hull or box.",
                ),
                io.Int.Input(
                    "grow",
                    default=default.grow,
                    min=-1024,
                    max=1024,
                    tooltip="Pixels by which the mask grows, round, on all sides. Negative shrinks it.",
                ),
                io.Int.Input(
                    "feather",
                    default=default.feather,
                    min=0,
                    max=1024,
                    tooltip="Pixels over which the mask fades out around itself. Inside it stays whole, beyond this distance it stays 0.",
                ),
                io.Boolean.Input(
                    "fill_holes",
                    default=default.fill_holes,
                    tooltip="Holes that the mask encloses become part of it, however large.",
                ),
                io.Float.Input(
                    "drop_fragments",
                    default=default.drop_fragments,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Fragments smaller than this fraction of the mask's own area are dropped. 0 keeps all, 0.01 drops specks.",
                ),
                io.Float.Input(
                    "min_area",
                    default=default.min_area,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="A mask that covers less of the image is refused. The paper's limit is 0.01.",
                    advanced=True,
                ),
                io.Float.Input(
                    "max_area",
                    default=default.max_area,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="A mask that covers more of the image is refused. The paper's limit is 0.9.",
                    advanced=True,
                ),
                io.Int.Input(
                    "max_fragments",
                    default=default.max_fragments,
                    min=1,
                    max=1_000_000,
                    tooltip="A mask in more pieces is refused. The paper's limit is 500.",
                    advanced=True,
                ),
                io.Float.Input(
                    "threshold",
                    default=default.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Pixels with values above this belong to the mask, the others do not.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="MASK", tooltip="The cleaned masks, as many as came."),
                io.String.Output(
                    display_name="report",
                    tooltip="What each mask covers, or why it was refused, a line for each.",
                ),
            ],
        )

    @classmethod
    def execute(cls, mask: torch.Tensor, when_refused: str, **settings: Any) -> io.NodeOutput:
        asked = CleanSettings(**settings)
        masks = mask_batch(mask)
        cleaned, report = [], []
        for number, each in enumerate(masks, 1):
            result = clean_mask(each, asked)
            report.append(result.reason if len(masks) == 1 else f"{number}: {result.reason}")
            if result.accepted or when_refused == "keep":
                cleaned.append(result.mask)
            elif when_refused == "stop":
                hint = (
                    "Perhaps none was painted: Load Image gives such a black one of 64 x 64 then. "
                    if is_unpainted(each)
                    else ""
                )
                raise RegionError(
                    f"Clean Region: mask {number} of {len(masks)} was {result.reason}. {hint}Give another mask, change the limits, or let when_refused go on."
                )
            else:
                cleaned.append(
                    torch.full_like(each, float(when_refused == "whole picture"), dtype=torch.float32)
                )
        told = "\n".join(report)
        return io.NodeOutput(torch.stack(cleaned), told, ui={"text": [told]})


class SoftRegion(Node):
    """UltraEdit's soft mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushSoftRegion",
            display_name="Soft Region",
            category="InstructBrush/regions",
            description="Makes UltraEdit's soft mask (Eq. 2): the fine mask stays, and between it and the box around it the mask is s, so that the edit can "
            "pass smoothly into the image. For Region Edit.",
            search_aliases=[
                "soft mask",
                "ultraedit mask",
                "box mask",
                "bounding box mask",
                "soft edge",
                "soft inpainting",
            ],
            inputs=[
                io.Mask.Input("mask", tooltip="The fine mask of what is to be edited. One or several."),
                io.Float.Input(
                    "s",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The mask's value between fine mask and box: 0 leaves the fine mask alone, 1 edits all of the box. The paper takes 0.2 to 0.8.",
                ),
                io.Mask.Input(
                    "box_mask",
                    optional=True,
                    tooltip="The box mask, of the same size. Without one and without boxes, it is the box around the mask.",
                ),
                io.BoundingBox.Input(
                    "boxes",
                    force_input=True,
                    optional=True,
                    tooltip="Boxes in pixels of the mask, from Find Region or any node that gives bounding boxes. With a box mask too, both count.",
                ),
                Choice(
                    "own_box",
                    options=["around all", "around each fragment"],
                    default="around all",
                    optional=True,
                    tooltip="Where no boxes are connected: one box around the whole mask, or one around each piece of it.",
                    advanced=True,
                ),
            ],
            outputs=[io.Mask.Output(display_name="MASK", tooltip="The soft mask, for Region Edit.")],
        )

    @classmethod
    def execute(
        cls,
        mask: torch.Tensor,
        s: float,
        box_mask: torch.Tensor | None = None,
        boxes: Any = None,
        own_box: str = "around all",
    ) -> io.NodeOutput:
        fine = mask_batch(mask)
        around = [] if box_mask is None else [mask_batch(box_mask)]
        if boxes is not None:
            around.append(_mask_of_boxes(boxes, fine))
        if not around:
            around.append(bounding_box_mask(fine, each_fragment=own_box == "around each fragment"))
        return io.NodeOutput(soft_mask(fine, combine_masks(around), s))


class PasteBack(Node):
    """The original's own pixels outside the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushPasteBack",
            display_name="Paste Back",
            category="InstructBrush/regions",
            description="Puts the original's own pixels back outside the mask, bit for bit: what the VAE changed there is undone. Images that were cropped "
            "to multiples of 8 for editing come back at their full size.",
            search_aliases=[
                "composite masked",
                "restore outside mask",
                "uncrop",
                "untouched pixels",
                "stitch",
                "paste edit into original",
            ],
            inputs=[
                io.Image.Input("edited", tooltip="Edited images."),
                io.Image.Input("original", tooltip="The images before the edit, as many, or one for all."),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the edit counts, as many masks as images, or one for all. Where it is 0 the original stays.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Pixels over which the edit fades in from the mask's border inwards. Outside the mask nothing changes, whatever this is.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="The edit inside the mask, the original outside."
                )
            ],
        )

    @classmethod
    def execute(
        cls, edited: torch.Tensor, original: torch.Tensor, mask: torch.Tensor, feather: int
    ) -> io.NodeOutput:
        return io.NodeOutput(
            paste_back(
                image_batch(edited, "Edited", RegionError)[..., :3],
                image_batch(original, "Original", RegionError),
                mask,
                feather,
            )
        )


class CombineRegions(Node):
    """Several regions with a conditioning each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = []
        for number in range(1, _REGIONS + 1):
            inputs += [
                io.Conditioning.Input(
                    f"conditioning_{number}",
                    optional=number > 1,
                    tooltip="What is done in this region: words, or a learned instruction (Apply Instruction before this node).",
                ),
                io.Mask.Input(
                    f"mask_{number}",
                    optional=number > 1,
                    tooltip="The region: one mask for all images, or one for each. 1 is edited, 0 stays.",
                ),
            ]
        inputs.append(
            io.Conditioning.Input(
                "rest",
                optional=True,
                tooltip="What is done where no region lies. Without it the regions share that, and Region Edit keeps the image there.",
            )
        )
        return io.Schema(
            node_id="InstructBrushCombineRegions",
            display_name="Combine Regions",
            category="InstructBrush/regions",
            description="Up to four regions, each with an instruction of its own, edited in one pass. Where regions overlap they share, in proportion to their "
            "masks. The union of the masks goes to Region Edit. Chain two of these nodes for more regions.",
            search_aliases=[
                "regional prompt",
                "regional conditioning",
                "several masks",
                "two instructions",
                "attention couple",
                "conditioning set mask",
            ],
            inputs=inputs,
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="All regions in one, for the sampler's positive."
                ),
                io.Mask.Output(
                    display_name="MASK", tooltip="The union of the regions, for Region Edit and Paste Back."
                ),
            ],
        )

    @classmethod
    def execute(cls, rest: list[Any] | None = None, **pairs: Any) -> io.NodeOutput:
        given: list[tuple[list[Any], torch.Tensor]] = []
        for number in range(1, _REGIONS + 1):
            conditioning, mask = pairs.get(f"conditioning_{number}"), pairs.get(f"mask_{number}")
            if (conditioning is None) != (mask is None):
                has, lacks = ("mask", "conditioning") if conditioning is None else ("conditioning", "mask")
                raise RegionError(
                    f"Combine Regions: {has}_{number} has no {lacks}_{number}. Connect both, or neither."
                )
            if conditioning is not None and mask is not None:
                given.append((conditioning, mask_batch(mask)))
        count = max(len(mask) for _, mask in given)
        height, width = max((mask.shape[-2:] for _, mask in given), key=lambda sides: sides[0] * sides[1])
        return io.NodeOutput(
            *combine_regions(
                [(conditioning, fit_mask(mask, height, width, count)) for conditioning, mask in given], rest
            )
        )


def _mask_of_boxes(boxes: Any, masks: torch.Tensor) -> torch.Tensor:
    height, width = masks.shape[-2:]
    found = read_boxes(boxes, len(masks))
    return torch.stack([box_mask(clip_boxes(each, width, height), height, width) for each in found]).to(
        masks.device
    )
