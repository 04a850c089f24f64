"""The nodes, in one module for each topic. Importing this needs ComfyUI."""

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

from ..core import errors

# Modules of nodes/comfy that register the pack's folders, models and routes with ComfyUI.
_REGISTERED = (
    "folders.paths",
    "encoders.open_clip",
    "encoders.lpips",
    "encoders.finders",
    "encoders.mllms",
    "models.model_detection",
    "routes",
)

# Module -> its nodes, in the order of a typical first use.
_NODES = {
    "loading": ("LoadInstructPix2Pix", "LoadEditPairs", "MakeEditPairs"),
    "pairs_from_edit": ("MakePairsFromEdit",),
    "learning.init_text": ("LoadOpenClip", "UniquePhrasesNode", "CaptionInit"),
    "learning.attention": ("LearnInstruction",),
    "learning.text": ("LearnTextInstruction",),
    "learning.adapter": ("LearnAdapterInstruction",),
    "instruction": ("SaveInstruction", "LoadInstruction"),
    "editing": ("ApplyInstruction", "EditGuiderNode", "FixedNoiseNode"),
    "edit_steps": ("EditBySteps", "PickFromList"),
    "algebra": (
        "ScaleInstruction",
        "BlendInstructions",
        "ComposeInstructions",
        "AddWordsToInstruction",
        "InspectInstruction",
    ),
    "regions.finding": ("LoadRegionFinder", "FindRegion", "FindEditedObject"),
    "regions.masks": ("CleanRegion", "SoftRegion", "CombineRegions", "PasteBack"),
    "regions.editing": ("RegionEdit", "RegionConditioning"),
    "reasoning": ("LoadMllm", "ExplainInstruction", "LoadConnector", "EncodeInstruction"),
    "evaluation": ("EvaluateEdit",),
    "sweeping": ("SweepValues", "ContactSheet"),
    "preference": ("JudgePreference",),
}


class InstructBrushExtension(ComfyExtension):
    """Gives ComfyUI the pack's nodes.

    A broken node or an unusable folder does not stop the others. The log says what is missing.
    """

    async def on_load(self) -> None:
        """Registers the pack's model folders, the models that ComfyUI does not detect by itself, and the
        routes of the widgets."""
        _name_errors()
        for name in _REGISTERED:
            try:
                import_module(f".comfy.{name}", __name__).register()
            except Exception:
                logging.exception(
                    "InstructBrush: nodes/comfy/%s.py could not register its folders, models or routes. "
                    "Nodes that need them may not work.",
                    name.replace(".", "/"),
                )

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns all nodes that work."""
        return [node for module, names in _NODES.items() for node in _nodes(module, names)]


def _name_errors() -> None:
    """Names the errors' module for people: ComfyUI shows it, and the name of this package is a path there."""
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.InstructBrushError):
            error.__module__ = "InstructBrush"


def _nodes(module: str, names: tuple[str, ...]) -> list[type[io.ComfyNode]]:
    try:
        imported = import_module(f".{module}", __name__)
        nodes = [getattr(imported, name) for name in names]
    except Exception:
        logging.exception(
            "InstructBrush: nodes/%s.py cannot be imported. Its nodes (%s) are left out; the other nodes "
            "work.",
            module.replace(".", "/"),
            ", ".join(names),
        )
        return []
    return [node for node in nodes if _has_schema(node)]


def _has_schema(node: type[io.ComfyNode]) -> bool:
    try:
        node.GET_SCHEMA()
    except Exception:
        logging.exception(
            "InstructBrush: the node %s cannot describe itself. It is left out; the other nodes work.",
            node.__name__,
        )
        return False
    return True
