"""Nodes that find regions by words."""

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ...core.encoders.mllm import Mllm
from ...core.errors import RegionError
from ...core.progress import Progress
from ...core.reasoning.edited_objects import edited_objects, named_objects
from ...core.reasoning.edited_region import WHEN_MISSING, EditedRegion, WhenMissing, edited_region
from ...core.reasoning.explain import MOST_TOKENS
from ...core.regions.finder import (
    MOST_OBJECTS,
    FoundObject,
    ObjectChoice,
    report_table,
    split_phrases,
    union_mask,
    unknown_remark,
)
from ...core.storage.image_tensors import image_batch
from ..comfy.encoders import finders
from ..comfy.encoders.progress import node_progress
from ..comfy.encoders.residency import prepare
from ..comfy.folders import paths
from ..comfy.step_graph import runs_in_expansion
from ..shared.node import Choice, FileFingerprints, NameChoice, Node, check_names
from ..shared.socket_types import MllmSocket, RegionFinder
from .found_objects import Limits, bbox, boxes_mask, choose, find_all, panel_data

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
                    # The front end then hides sam_name.
                    extra_dict={"without_sam": finders.WITHOUT_SAM},
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
                *_thresholds(),
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
                io.String.Input(
                    "selection",
                    default="",
                    optional=True,
                    socketless=True,
                    dynamic_prompts=False,
                    extra_dict={"hidden": True},
                    tooltip="The boxes that you clicked in the node, as JSON: those left out and those "
                    'included. A box is image|words|left,top,right,bottom: {"out": ["0|hat|8,0,40,20"], '
                    '"in": []}.',
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
        selection: str = "",
    ) -> io.NodeOutput:
        choice = ObjectChoice.parse(selection)
        phrases = split_phrases(words)
        images = image_batch(image, "Image", RegionError)
        limits = Limits.of(finder, _threshold(box_threshold), _threshold(text_threshold), max_objects)

        def start() -> Progress:
            prepare(finder)
            return node_progress(cls.hidden.unique_id)

        found = find_all(image, images, finder, phrases, limits, start)
        objects_of_images = choose(found, limits, choice)
        height, width = images.shape[1:3]
        masks = [found.mask for objects in objects_of_images for found in objects]
        unknown = unknown_remark(finder, phrases)
        report = "\n".join(filter(None, (_report(objects_of_images, phrases), unknown)))
        panel = panel_data(images, found, limits, finder, choice, [unknown]) | {"selection": selection}
        shown: Any = {"text": [report], "region": [panel]}
        return io.NodeOutput(
            torch.stack([union_mask(objects, height, width) for objects in objects_of_images]),
            torch.stack(masks or [torch.zeros(height, width)]),
            torch.stack([boxes_mask(objects, height, width) for objects in objects_of_images]),
            [[bbox(found) for found in objects] for objects in objects_of_images],
            report,
            ui=shown,
        )


class FindEditedObject(Node):
    """Finds the region that an instruction edits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushFindEditedObject",
            display_name="Find Edited Object",
            category="InstructBrush/regions",
            description="Finds the region that an instruction edits (UltraEdit): a vision-language model or "
            "a grammar says which objects change, at most two, and the finder makes their mask. An "
            "instruction for the whole image, or one that adds something, gives a white mask.",
            search_aliases=[
                "region of instruction",
                "automatic mask",
                "mask from instruction",
                "edited object",
                "ultraedit region",
                "where to edit",
                "text to mask",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Image.Input("image", tooltip="Images to edit, searched one after the other."),
                RegionFinder.Input("finder", tooltip="The finder from Load Region Finder."),
                io.String.Input(
                    "instruction",
                    default="",
                    placeholder="make the hat red",
                    tooltip="The edit in words, for Edit Guider too. With the pocket reader also a wish.",
                ),
                io.String.Input(
                    "objects",
                    default="",
                    placeholder="red ball, hat",
                    tooltip="Names the edited objects yourself, separated by commas. Empty: they follow from "
                    "the instruction.",
                ),
                Choice(
                    "when_missing",
                    options=list(WHEN_MISSING),
                    default="whole image",
                    tooltip="The mask if no object is found. whole image: white, edits everything. empty: "
                    "black, edits nothing. stop: ends the run with a message.",
                ),
                MllmSocket.Input(
                    "mllm",
                    optional=True,
                    tooltip="A model from Load MLLM that looks at the image and says which objects change. "
                    "Without it a grammar reads the instruction.",
                ),
                *_thresholds(advanced=True),
                io.Int.Input(
                    "max_tokens",
                    optional=True,
                    default=MOST_TOKENS,
                    min=8,
                    max=4096,
                    tooltip="Length limit of the model's answer, in tokens.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The fine mask: one for each image, for Clean Region, Soft Region or Region "
                    "Edit. White for the whole image.",
                ),
                io.String.Output(
                    display_name="objects",
                    tooltip="The words of the edited objects, separated by commas; a line for each image. "
                    "Empty for the whole image.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What was decided, by what, and what was found."
                ),
                io.Mask.Output(
                    display_name="box_mask",
                    tooltip="One mask for each image with the boxes of its objects, for Soft Region.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        finder: Any,
        instruction: str,
        objects: str = "",
        when_missing: WhenMissing = "whole image",
        mllm: Mllm | None = None,
        box_threshold: float = _FINDERS_DEFAULT,
        text_threshold: float = _FINDERS_DEFAULT,
        max_tokens: int = MOST_TOKENS,
    ) -> io.NodeOutput:
        images = image_batch(image, "Image", RegionError)[..., :3]
        thresholds = _threshold(box_threshold), _threshold(text_threshold)
        progress = node_progress(cls.hidden.unique_id)
        decided = [named_objects(objects)] * len(images) if objects.strip() else []
        if mllm is not None and instruction.strip() and not decided:
            prepare(mllm)
        decided = decided or [
            edited_objects(instruction, frame, mllm, max_tokens, progress if mllm else None)
            for frame in images
        ]
        if any(each.objects for each in decided):
            prepare(finder)
        regions: list[EditedRegion] = []
        for frame, each in zip(images, decided, strict=True):
            regions.append(edited_region(finder, frame, each, when_missing, thresholds))
            progress(len(regions), len(images))
        for each in decided:
            for remark in each.remarks:
                logging.warning("InstructBrush: Find Edited Object: %s", remark)
        report = _numbered([region.report for region in regions])
        # The text below Edit by Steps stays.
        shown: Any = None if runs_in_expansion(cls.hidden) else {"text": [report]}
        return io.NodeOutput(
            torch.stack([region.mask for region in regions]),
            "\n".join(", ".join(region.objects) for region in regions),
            report,
            torch.stack([region.box_mask for region in regions]),
            ui=shown,
        )


def _thresholds(advanced: bool = False) -> list[io.Input]:
    """The finder's thresholds."""
    options: dict[str, Any] = {"optional": True, "advanced": True} if advanced else {}
    return [
        io.Float.Input(
            "box_threshold",
            default=_FINDERS_DEFAULT,
            min=_FINDERS_DEFAULT,
            max=1.0,
            step=0.01,
            round=0.001,
            tooltip="Smallest score of an object, 0 to 1. Lower values find more objects, higher "
            "values make fewer mistakes. auto (-1) takes the finder's default: 0.3 for Grounding DINO, 0.4 "
            "for CLIPSeg, 0.5 for the pocket finder.",
            **options,
        ),
        io.Float.Input(
            "text_threshold",
            default=_FINDERS_DEFAULT,
            min=_FINDERS_DEFAULT,
            max=1.0,
            step=0.01,
            round=0.001,
            tooltip="Grounding DINO: how well a word must fit an object. CLIPSeg: smallest "
            "probability of a pixel in the mask; higher values make the mask smaller. auto (-1) takes the "
            "finder's default: 0.25 for Grounding DINO, 0.4 for CLIPSeg, 0.5 for the pocket finder.",
            **options,
        ),
    ]


def _threshold(value: float) -> float | None:
    return None if value == _FINDERS_DEFAULT else value


def _report(objects_of_images: list[list[FoundObject]], phrases: list[str]) -> str:
    return _numbered([report_table(objects, phrases) for objects in objects_of_images])


def _numbered(texts: list[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"Image {number}\n{text}" for number, text in enumerate(texts, 1))
