"""Nodes that find regions by words."""

from typing import Any

import torch
from comfy_api.latest import io

from ...core.errors import RegionError
from ...core.regions.boxes import box_mask
from ...core.regions.finder import MOST_OBJECTS, FoundObject, report_table, split_phrases, union_mask
from ...core.storage.image_tensors import image_batch
from ..comfy.encoders import finders
from ..comfy.encoders.progress import node_progress
from ..comfy.encoders.residency import prepare
from ..comfy.folders import paths
from ..shared.node import FileFingerprints, NameChoice, Node, check_names
from ..shared.socket_types import RegionFinder

_FINDERS_DEFAULT = -1.0

_FILES = FileFingerprints(lambda *names: " ".join(map(paths.folder_state, finders.folders(*names).values())))


class LoadRegionFinder(Node):
    """Loads a model that finds objects by words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = finders.finder_names()
        sams = finders.sam_names()
        return io.Schema(
            node_id="InstructBrushLoadRegionFinder",
            display_name="Load Region Finder",
            category="InstructBrush/loading",
            description="Loads the model that Find Region uses: Grounding DINO (boxes) together with SAM "
            "(masks in the boxes), or CLIPSeg (masks directly from words), from folders in "
            "models/grounding_dino, models/sam and models/clipseg.",
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
                    tooltip="The built-in finder knows the pocket editor's drawings. For photographs put the "
                    "folder of a Grounding DINO or CLIPSeg model in transformers' layout into "
                    "models/grounding_dino or models/clipseg. Key R refreshes the list.",
                ),
                NameChoice(
                    "sam_name",
                    options=sams,
                    default=sams[0],
                    tooltip="A folder in models/sam (SAM or SAM 2 in transformers' layout). It makes the "
                    "masks for Grounding DINO; the other finders do not use it.",
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
    """Finds masks and boxes of the objects that words name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushFindRegion",
            display_name="Find Region",
            category="InstructBrush/regions",
            description="Finds the objects that words name in images. Returns a mask of all objects, and a "
            "mask and a box for each object. When nothing is found, the masks are empty and the report says "
            "so.",
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
                io.Image.Input("image", tooltip="Images to search, one after the other."),
                RegionFinder.Input("finder", tooltip="The finder from Load Region Finder."),
                io.String.Input(
                    "words",
                    default="",
                    placeholder="red ball, hat",
                    tooltip="What to look for. Separate several things by commas or full stops.",
                ),
                io.Float.Input(
                    "box_threshold",
                    default=_FINDERS_DEFAULT,
                    min=_FINDERS_DEFAULT,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Smallest score of an object, 0 to 1. Lower values find more objects, higher "
                    "values make fewer mistakes. -1 uses the finder's default: 0.3 for Grounding DINO, 0.4 "
                    "for CLIPSeg, 0.5 for the pocket finder.",
                ),
                io.Float.Input(
                    "text_threshold",
                    default=_FINDERS_DEFAULT,
                    min=_FINDERS_DEFAULT,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Grounding DINO: how well a word must fit an object. CLIPSeg: smallest "
                    "probability of a pixel in the mask; higher values make the mask smaller. -1 uses the "
                    "finder's default: 0.25 for Grounding DINO, 0.4 for CLIPSeg, 0.5 for the pocket finder.",
                ),
                io.Int.Input(
                    "max_objects",
                    optional=True,
                    default=MOST_OBJECTS,
                    min=1,
                    max=1000,
                    tooltip="Largest number of objects in each image. The objects with the best scores are "
                    "kept.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The fine mask: one mask for each image, with all its objects. Empty if nothing "
                    "was found.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One mask for each object, best first, image after image. If nothing is found, "
                    "there is one empty mask.",
                ),
                io.Mask.Output(
                    display_name="box_mask",
                    tooltip="One mask for each image, with the boxes of all its objects, for Soft Region.",
                ),
                io.BoundingBox.Output(
                    display_name="bboxes",
                    tooltip="The boxes of each image, in the format of ComfyUI's detectors.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Every object with its score, box and area, and the words that found nothing.",
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
        max_objects: int = MOST_OBJECTS,
    ) -> io.NodeOutput:
        phrases = split_phrases(words)
        image = image_batch(image, "Image", RegionError)[..., :3]
        prepare(finder)
        progress = node_progress(cls.hidden.unique_id)
        progress(0, len(image))
        height, width = image.shape[1:3]
        objects_of_images: list[list[FoundObject]] = []
        for frame in image:
            objects = finder.find(
                frame, phrases, _threshold(box_threshold), _threshold(text_threshold), max_objects
            )
            objects_of_images.append(objects)
            progress(len(objects_of_images), len(image))
        masks = [found.mask for objects in objects_of_images for found in objects]
        report = _report(objects_of_images, phrases)
        return io.NodeOutput(
            torch.stack([union_mask(objects, height, width) for objects in objects_of_images]),
            torch.stack(masks or [torch.zeros(height, width)]),
            torch.stack([_boxes_mask(objects, height, width) for objects in objects_of_images]),
            [[_bbox(found) for found in objects] for objects in objects_of_images],
            report,
            ui={"text": [report]},
        )


def _threshold(value: float) -> float | None:
    return None if value == _FINDERS_DEFAULT else value


def _boxes_mask(objects: list[FoundObject], height: int, width: int) -> torch.Tensor:
    return box_mask([found.box for found in objects], height, width)


def _bbox(found: FoundObject) -> dict[str, Any]:
    """Converts an object's box to the format of ComfyUI's detectors, in pixels."""
    box = found.box
    return {
        "x": box.left,
        "y": box.top,
        "width": box.right - box.left,
        "height": box.bottom - box.top,
        "label": found.phrase,
        "score": found.score,
    }


def _report(objects_of_images: list[list[FoundObject]], phrases: list[str]) -> str:
    tables = [report_table(objects, phrases) for objects in objects_of_images]
    if len(tables) == 1:
        return tables[0]
    return "\n\n".join(f"Image {number}\n{table}" for number, table in enumerate(tables, 1))
