"""Example workflows that open as pages (ComfyUI's App Mode): a few inputs, one button, large results."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW, PAIRS
from instructbrush.tools.examples.workflows.graph import EDIT, SECOND, Graph

PHOTO = "example.png"
"""The image that ComfyUI puts into its input folder."""


def learn_an_edit() -> Graph:
    """Learns from pairs, edits new images and saves the instruction."""
    graph = Graph("Page - Learn an edit.app")
    graph.column("Show")
    graph.model()
    graph.pairs("pairs", "Pairs to learn from", PAIRS)
    graph.column("Learn")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add("learn", "InstructBrushLearn", wired=wires, init_text="make it brighter")
    graph.add("save", "InstructBrushSave", wired="instruction=learn.INSTRUCTION", name=EDIT)
    graph.column("Use")
    graph.pairs("new", "Images to edit", NEW)
    graph.edit("edit", "new.before", "learn.INSTRUCTION")
    _results(graph, "new.before")
    graph.inputs = [
        ("pairs", "folder", "Pairs that show the edit"),
        ("learn", "init_text", "Words that are close to it"),
        ("learn", "learning", "Learning"),
        ("edit", "strength", "Strength"),
        ("save", "name", "Name of the instruction"),
    ]
    return graph


def edit_my_image() -> Graph:
    """Applies a saved instruction to an image."""
    graph = Graph("Page - Edit my image.app")
    _photo(graph)
    graph.column("Use")
    graph.load("instruction", EDIT)
    graph.edit("edit", "sized.IMAGE", "instruction.INSTRUCTION")
    _results(graph, "sized.IMAGE")
    graph.inputs = [
        ("photo", "image", "Your image"),
        ("instruction", "name", "Instruction"),
        ("edit", "strength", "Strength"),
    ]
    return graph


def edit_only_there() -> Graph:
    """Applies a saved instruction to what words find in an image."""
    graph = Graph("Page - Edit only there.app")
    _photo(graph)
    graph.column("Use")
    graph.load("instruction", SECOND)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=sized.IMAGE "
    wires += "instruction=instruction.INSTRUCTION"
    graph.add("edit", "Edit Region by Words", wired=wires, where="ground")
    _results(graph, "sized.IMAGE")
    graph.inputs = [
        ("photo", "image", "Your image"),
        ("edit", "where", "Where: what to edit in it"),
        ("instruction", "name", "Instruction"),
        ("edit", "strength", "Strength"),
    ]
    return graph


def _photo(graph: Graph) -> None:
    graph.column("Show")
    graph.model()
    graph.add("photo", "LoadImage", height=300, title="Image to edit", image=PHOTO)
    graph.add(
        "sized",
        "ImageScaleToTotalPixels",
        title="Megapixels: pocket 0.02, SD 1.5 0.26",
        wired="image=photo.IMAGE",
        upscale_method="area",
        megapixels=0.02,
    )


def _results(graph: Graph, before: str) -> None:
    """Adds the saved result and a comparison, which are the page's outputs."""
    graph.column("Compare")
    graph.compare(before, "edit.edited", "Compare")
    graph.save("result", "Edited", "edit.edited", "edited")
    graph.outputs = ["result", "compare"]
