"""The nodes, a file for each room of core. Importing this needs ComfyUI."""

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

_ENTERED = (
    "folders.paths",
    "encoders.open_clip",
    "encoders.lpips",
    "encoders.finders",
    "encoders.mllms",
    "models.model_detection",
)
"""Modules of nodes/comfy that enter folders and models of the pack in ComfyUI's lists."""

_NODES = {
    "loading": ("LoadInstructPix2Pix", "LoadEditPairs", "MakeEditPairs"),
    "init_text": ("LoadOpenClip", "UniquePhrasesNode", "CaptionInit"),
    "learning": ("LearnInstruction", "LearnTextInstruction"),
    "instruction": ("SaveInstruction", "LoadInstruction"),
    "editing": ("ApplyInstruction", "EditGuiderNode", "FixedNoiseNode"),
    "algebra": (
        "ScaleInstruction",
        "BlendInstructions",
        "ComposeInstructions",
        "AddWordsToInstruction",
        "InspectInstruction",
    ),
    "regions.finding": ("LoadRegionFinder", "FindRegion"),
    "regions.masks": ("CleanRegion", "SoftRegion", "CombineRegions", "PasteBack"),
    "regions.editing": ("RegionEdit", "RegionConditioning"),
    "reasoning": ("LoadMllm", "ExplainInstruction", "LoadConnector", "EncodeInstruction"),
    "evaluation": ("EvaluateEdit",),
    "preference": ("JudgePreference",),
}
"""All nodes by their module, in the order of a first use."""


class InstructBrushExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes. One that is broken, or a folder that cannot be used, takes nothing else away: the log says what is missing."""

    async def on_load(self) -> None:
        """Enter the pack's model folders and the models that ComfyUI does not detect by itself."""
        for name in _ENTERED:
            try:
                import_module(f".comfy.{name}", __name__).register()
            except Exception:
                logging.exception(
                    "InstructBrush: nodes/comfy/%s.py could not enter its folders or models. The nodes that need them may miss some.",
                    name,
                )

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes that work."""
        return [node for module, names in _NODES.items() for node in _nodes(module, names)]


def _nodes(module: str, names: tuple[str, ...]) -> list[type[io.ComfyNode]]:
    try:
        found = import_module(f".{module}", __name__)
        nodes = [getattr(found, name) for name in names]
    except Exception:
        logging.exception(
            "InstructBrush: nodes/%s.py cannot be imported. Its nodes (%s) are left out, the others work.",
            module,
            ", ".join(names),
        )
        return []
    return list(filter(_works, nodes))


def _works(node: type[io.ComfyNode]) -> bool:
    try:
        node.GET_SCHEMA()
    except Exception:
        logging.exception(
            "InstructBrush: the node %s cannot describe itself. It is left out, the others work.",
            node.__name__,
        )
        return False
    return True
