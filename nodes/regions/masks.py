"""Nodes that clean, soften and combine masks, and paste edits back."""

import math
from typing import Any

import torch
from comfy_api.latest import io

from ...core.errors import RegionError
from ...core.regions.boxes import bounding_box_mask, box_mask, clip_boxes
from ...core.regions.cleaning import CleanSettings, clean_mask
from ...core.regions.masks import combine_masks, fit_mask, is_unpainted, mask_batch, mask_size, soft_mask
from ...core.regions.paste_back import paste_back
from ...core.storage.image_tensors import image_batch
from ..comfy.sampling.regional_conditioning import combine_regions
from ..shared.node import Choice, Node
from .boxes import read_boxes

_REGIONS = 4


class CleanRegion(Node):
    """Cleans masks, or tells why one is refused."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        default = CleanSettings()
        return io.Schema(
            node_id="InstructBrushCleanRegion",
            display_name="Clean Region",
            category="InstructBrush/regions",
            description="Checks masks against UltraEdit's limits and cleans them: fills holes, drops "
            "fragments, widens, grows and feathers. The node shows what each mask covers, or why it is "
            "refused.",
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
                    tooltip="What to do with a refused mask. stop: ends the run with the reason. keep: uses "
                    "it unchanged. empty: edits nothing. whole picture: edits everything.",
                ),
                Choice(
                    "shape",
                    options=["fine", "hull", "box"],
                    default=default.shape,
                    tooltip="fine: keeps the shape. hull: replaces every fragment by its convex hull. box: "
                    "replaces every fragment by its bounding box. Edits that change a shape need room: hull "
                    "or box.",
                ),
                io.Int.Input(
                    "grow",
                    default=default.grow,
                    min=-1024,
                    max=1024,
                    tooltip="Pixels by which the mask grows in all directions. Negative values shrink it.",
                ),
                io.Int.Input(
                    "feather",
                    default=default.feather,
                    min=0,
                    max=1024,
                    tooltip="Pixels over which the mask fades out around its edge. It stays 1 inside and 0 "
                    "beyond this distance.",
                ),
                io.Boolean.Input(
                    "fill_holes",
                    default=default.fill_holes,
                    tooltip="Fills all holes of the mask, also large ones.",
                ),
                io.Float.Input(
                    "drop_fragments",
                    default=default.drop_fragments,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Drops fragments smaller than this fraction of the mask's area. 0 keeps all, "
                    "0.01 drops specks.",
                ),
                io.Float.Input(
                    "min_area",
                    default=default.min_area,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Refuses a mask that covers less than this fraction of the image. UltraEdit's "
                    "code has 0.01.",
                    advanced=True,
                ),
                io.Float.Input(
                    "max_area",
                    default=default.max_area,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Refuses a mask that covers more than this fraction of the image. UltraEdit's "
                    "code has 0.9.",
                    advanced=True,
                ),
                io.Int.Input(
                    "max_fragments",
                    default=default.max_fragments,
                    min=1,
                    max=1_000_000,
                    tooltip="Refuses a mask with more fragments than this. UltraEdit's code has 500.",
                    advanced=True,
                ),
                io.Float.Input(
                    "threshold",
                    default=default.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Pixels with values above this belong to the mask.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="MASK", tooltip="The cleaned masks, one for each input mask."),
                io.String.Output(
                    display_name="report",
                    tooltip="A line for each mask: what it covers, or why it was refused.",
                ),
            ],
        )

    @classmethod
    def execute(cls, mask: torch.Tensor, when_refused: str, **settings: Any) -> io.NodeOutput:
        clean_settings = CleanSettings(**settings)
        masks = mask_batch(mask)
        cleaned = []
        lines = []
        for number, single_mask in enumerate(masks, 1):
            result = clean_mask(single_mask, clean_settings)
            lines.append(result.reason if len(masks) == 1 else f"{number}: {result.reason}")
            if result.accepted or when_refused == "keep":
                cleaned.append(result.mask)
            elif when_refused == "stop":
                hint = (
                    "Perhaps no mask was painted: Load Image then gives a black one of 64 x 64. "
                    if is_unpainted(single_mask)
                    else ""
                )
                raise RegionError(
                    f"Clean Region: mask {number} of {len(masks)} was {result.reason}. "
                    f"{hint}Give another mask, change the limits, or choose another when_refused."
                )
            else:
                value = float(when_refused == "whole picture")
                cleaned.append(torch.full_like(single_mask, value, dtype=torch.float32))
        report = "\n".join(lines)
        return io.NodeOutput(torch.stack(cleaned), report, ui={"text": [report]})


class SoftRegion(Node):
    """Makes UltraEdit's soft mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushSoftRegion",
            display_name="Soft Region",
            category="InstructBrush/regions",
            description="Makes UltraEdit's soft mask (Eq. 2) for Region Edit: 1 in the fine mask, and s "
            "between it and the box around it, so that the edit blends smoothly into the image.",
            search_aliases=[
                "soft mask",
                "ultraedit mask",
                "box mask",
                "bounding box mask",
                "soft edge",
                "soft inpainting",
            ],
            inputs=[
                io.Mask.Input("mask", tooltip="The fine mask of what to edit. One or several."),
                io.Float.Input(
                    "s",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The mask's value between fine mask and box. 0 keeps only the fine mask, 1 edits "
                    "the whole box. The paper uses 0.2 to 0.8.",
                ),
                io.Mask.Input(
                    "box_mask",
                    optional=True,
                    tooltip="The box mask, with the same size. Without box_mask and boxes, the box around "
                    "the mask is used.",
                ),
                io.BoundingBox.Input(
                    "boxes",
                    force_input=True,
                    optional=True,
                    tooltip="Boxes in pixels of the mask, from Find Region or any node that returns bounding "
                    "boxes. They are combined with box_mask.",
                ),
                Choice(
                    "own_box",
                    options=["around all", "around each fragment"],
                    default="around all",
                    optional=True,
                    tooltip="Without box_mask and boxes: one box around the whole mask, or one around each "
                    "fragment.",
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
        box_masks = [] if box_mask is None else [mask_batch(box_mask)]
        if boxes is not None:
            box_masks.append(_mask_of_boxes(boxes, fine))
        if not box_masks:
            box_masks.append(bounding_box_mask(fine, each_fragment=own_box == "around each fragment"))
        return io.NodeOutput(soft_mask(fine, combine_masks(box_masks), s))


class PasteBack(Node):
    """Restores the original's pixels outside the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushPasteBack",
            display_name="Paste Back",
            category="InstructBrush/regions",
            description="Restores the original's pixels outside the mask, bit for bit, and so undoes what "
            "the VAE changed there. Images that were cropped to multiples of 8 for editing get their full "
            "size back.",
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
                io.Image.Input(
                    "original",
                    tooltip="The images before the edit: one for each edited image, or one for all.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="Where to use the edit: one mask for each image, or one for all. Where it is 0, "
                    "the original stays.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Pixels over which the edit fades in from the mask's border inwards. Pixels "
                    "outside the mask never change.",
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
    """Combines several regions with a conditioning each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = []
        for number in range(1, _REGIONS + 1):
            inputs += [
                io.Conditioning.Input(
                    f"conditioning_{number}",
                    optional=number > 1,
                    tooltip="The edit in this region: encoded words, or a learned instruction from Apply "
                    "Instruction.",
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
                tooltip="The edit outside all regions. Without it the regions share the outside, and Region "
                "Edit keeps the image there.",
            )
        )
        return io.Schema(
            node_id="InstructBrushCombineRegions",
            display_name="Combine Regions",
            category="InstructBrush/regions",
            description="Edits up to four regions with different instructions in one pass. Overlapping "
            "regions are mixed in proportion to their masks. Connect the union of the masks to Region Edit. "
            "Chain two of these nodes for more regions.",
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
                    display_name="CONDITIONING",
                    tooltip="The conditioning of all regions, for the sampler's positive input.",
                ),
                io.Mask.Output(
                    display_name="MASK", tooltip="The union of the regions, for Region Edit and Paste Back."
                ),
            ],
        )

    @classmethod
    def execute(cls, rest: list[Any] | None = None, **pairs: Any) -> io.NodeOutput:
        regions: list[tuple[list[Any], torch.Tensor]] = []
        for number in range(1, _REGIONS + 1):
            conditioning = pairs.get(f"conditioning_{number}")
            mask = pairs.get(f"mask_{number}")
            if conditioning is not None and mask is not None:
                regions.append((conditioning, mask_batch(mask)))
            elif conditioning is not None:
                raise _incomplete(number, "conditioning", "mask")
            elif mask is not None:
                raise _incomplete(number, "mask", "conditioning")
        count = max(len(mask) for _, mask in regions)
        height, width = max((mask_size(mask) for _, mask in regions), key=math.prod)
        fitted = [(conditioning, fit_mask(mask, height, width, count)) for conditioning, mask in regions]
        return io.NodeOutput(*combine_regions(fitted, rest))


def _incomplete(number: int, connected: str, missing: str) -> RegionError:
    return RegionError(
        f"Combine Regions: {connected}_{number} has no {missing}_{number}. Connect both, or neither."
    )


def _mask_of_boxes(boxes: Any, masks: torch.Tensor) -> torch.Tensor:
    height, width = mask_size(masks)
    box_masks = [
        box_mask(clip_boxes(image_boxes, width, height), height, width)
        for image_boxes in read_boxes(boxes, len(masks))
    ]
    return torch.stack(box_masks).to(masks.device)
