"""Nodes that find regions by words."""

from typing import Any

import torch
from comfy_api.latest import io

from ...core.errors import RegionError
from ...core.regions.finder import MOST, Found, describe, phrases_of, union
from ...core.regions.masks import box_mask
from ...core.storage.image_tensors import image_batch
from ..comfy.encoders import finders
from ..comfy.encoders.open_clip import progress_of
from ..comfy.folders import paths
from ..shared.node import FileFingerprints, NameChoice, Node, check_names
from ..shared.socket_types import RegionFinder

_OWN = -1.0

_FILES = FileFingerprints(lambda *names: " ".join(map(paths.folder_state, finders.folders(*names).values())))


class LoadRegionFinder(Node):
    """A model that finds objects by words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names, sams = finders.finder_names(), finders.sam_names()
        return io.Schema(
            node_id="InstructBrushLoadRegionFinder",
            display_name="Load Region Finder",
            category="InstructBrush/loading",
            description="Loads what Find Region looks for words with: Grounding DINO (boxes) together with SAM (masks in them), or CLIPSeg (masks straight "
            "from words), from folders in models/grounding_dino, models/sam and models/clipseg.",
            search_aliases=[
                "grounding dino",
                "segment anything",
                "sam",
                "clipseg",
                "groundingdino",
                "text to mask",
                "open vocabulary",
                "segmentation",
            ],
            inputs=[
                NameChoice(
                    "finder_name",
                    options=names,
                    default=names[0],
                    tooltip="The built-in finder knows the pocket editor's drawings. For photographs put the folder of a Grounding DINO or CLIPSeg model, as "
                    "transformers has it, into models/grounding_dino or models/clipseg. Key R reads the list again.",
                ),
                NameChoice(
                    "sam_name",
                    options=sams,
                    default=sams[0],
                    tooltip="A folder in models/sam (SAM or SAM 2, as transformers has it). It makes the masks for Grounding DINO; the other finders do "
                    "without it.",
                ),
            ],
            outputs=[
                RegionFinder.Output(display_name="REGION_FINDER", tooltip="The finder, for Find Region.")
            ],
        )

    @classmethod
    def validate_inputs(cls, finder_name: str | None = None, sam_name: str | None = None) -> bool | str:
        return check_names(finders.folders, finder_name, sam_name)

    @classmethod
    def fingerprint_inputs(cls, finder_name: str | None = None, sam_name: str | None = None) -> str:
        return _FILES.fingerprint(finder_name, sam_name)

    @classmethod
    def execute(cls, finder_name: str, sam_name: str) -> io.NodeOutput:
        _FILES.record(finder_name, sam_name)
        return io.NodeOutput(finders.load(finder_name, sam_name))


class FindRegion(Node):
    """Masks and boxes of what words name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushFindRegion",
            display_name="Find Region",
            category="InstructBrush/regions",
            description="Finds what words name in images: a mask of all of it, a mask and a box for each object. When nothing is found, the masks are "
            "empty and the report says so.",
            search_aliases=[
                "text to mask",
                "segment by text",
                "grounding dino",
                "segment anything",
                "clipseg",
                "detect objects",
                "mask from words",
                "bbox",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("image", tooltip="Images to look in, one after the other."),
                RegionFinder.Input("finder", tooltip="What looks for the words, from Load Region Finder."),
                io.String.Input(
                    "words",
                    default="",
                    placeholder="red ball, hat",
                    tooltip="What to look for. Several things are separated by commas or full stops, and are found together.",
                ),
                io.Float.Input(
                    "box_threshold",
                    default=_OWN,
                    min=_OWN,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="How sure an object must be, 0 to 1. Lower finds more, higher makes fewer mistakes. -1 takes what suits the finder: 0.3 for "
                    "Grounding DINO, 0.4 for CLIPSeg, 0.5 for the pocket finder.",
                ),
                io.Float.Input(
                    "text_threshold",
                    default=_OWN,
                    min=_OWN,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Grounding DINO: how well a word must fit an object. CLIPSeg: how sure a pixel must be to be in the mask; higher makes it smaller. "
                    "-1 takes what suits the finder: 0.25, 0.4, and 0.5 for the pocket finder.",
                ),
                io.Int.Input(
                    "max_objects",
                    optional=True,
                    default=MOST,
                    min=1,
                    max=1000,
                    tooltip="Objects that are kept in each image, the best ones.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="One mask for each image, with all its objects: the fine mask. Empty where nothing was found.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One mask for each object, best first, image after image. A single empty one without any.",
                ),
                io.Mask.Output(
                    display_name="box_mask",
                    tooltip="One mask for each image, with the boxes of all its objects, for Soft Region.",
                ),
                io.BoundingBox.Output(
                    display_name="bboxes",
                    tooltip="The boxes of each image, as ComfyUI's own detectors give them.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Every object with its score, box and area, and what was not found.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        finder: Any,
        words: str,
        box_threshold: float,
        text_threshold: float,
        max_objects: int = MOST,
    ) -> io.NodeOutput:
        phrases = phrases_of(words)
        image = image_batch(image, "Image", RegionError)[..., :3]
        limits = [None if threshold == _OWN else threshold for threshold in (box_threshold, text_threshold)]
        finders.prepare(finder)
        show = progress_of(cls.hidden.unique_id)
        show(0, len(image))
        height, width = image.shape[1:3]
        found: list[list[Found]] = []
        for frame in image:
            found.append(finder.find(frame, phrases, *limits, max_objects))
            show(len(found), len(image))
        masks = [each.mask for objects in found for each in objects] or [torch.zeros(height, width)]
        report = _report(found, phrases)
        return io.NodeOutput(
            torch.stack([union(objects, height, width) for objects in found]),
            torch.stack(masks),
            torch.stack([box_mask([each.box for each in objects], height, width) for objects in found]),
            [[_bbox(each) for each in objects] for objects in found],
            report,
            ui={"text": [report]},
        )


def _bbox(found: Found) -> dict[str, Any]:
    """As ComfyUI's own detectors write it, in pixels."""
    box = found.box
    return {
        "x": box.left,
        "y": box.top,
        "width": box.right - box.left,
        "height": box.bottom - box.top,
        "label": found.phrase,
        "score": found.score,
    }


def _report(found: list[list[Found]], phrases: list[str]) -> str:
    tables = [describe(objects, phrases) for objects in found]
    if len(tables) == 1:
        return tables[0]
    return "\n\n".join(f"Image {number}\n{table}" for number, table in enumerate(tables, 1))
