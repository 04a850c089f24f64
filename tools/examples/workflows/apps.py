"""Example workflows that open as pages (ComfyUI's App Mode): a few inputs, one button, large results."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import PAIRS
from instructbrush.tools.examples.workflows.graph import EDIT, SECOND, Graph

PHOTO = "example.png"
"""The image that ComfyUI puts into its input folder."""
MODEL = ("model", "model_name", "Model")


def learn_an_edit() -> Graph:
    """Learns from pairs, saves the instruction and edits an image by it."""
    graph = Graph("Page - Learn an edit.app")
    graph.column("Show")
    graph.model()
    graph.pairs("pairs", "Pairs to learn from", PAIRS, wired="size=model.size")
    graph.column("Learn")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add("learn", "InstructBrushLearn", wired=wires, init_text="make it brighter")
    graph.add("save", "InstructBrushSave", wired="instruction=learn.INSTRUCTION", name=EDIT)
    graph.column("Use")
    graph.photo("Image to edit", PHOTO)
    graph.edit("edit", "sized.IMAGE", "learn.INSTRUCTION")
    _results(graph, "sized.IMAGE")
    graph.inputs = [
        MODEL,
        ("pairs", "folder", "Pairs that show the edit"),
        ("pairs", "pairs_board", ""),
        ("learn", "init_text", "Words that are close to it"),
        ("photo", "image", "Your image"),
        ("learn", "learning", "Learning"),
        ("edit", "strength", "Strength"),
        ("save", "name", "Name of the instruction"),
    ]
    return graph


def edit_my_image() -> Graph:
    """Applies a saved instruction to an image."""
    graph = Graph("Page - Edit my image.app")
    graph.column("Show")
    graph.model()
    graph.photo("Image to edit", PHOTO)
    graph.column("Use")
    graph.load("instruction", EDIT)
    graph.edit("edit", "sized.IMAGE", "instruction.INSTRUCTION")
    _results(graph, "sized.IMAGE")
    graph.inputs = [
        MODEL,
        ("photo", "image", "Your image"),
        ("instruction", "name", "Instruction"),
        ("edit", "strength", "Strength"),
    ]
    return graph


def edit_only_there() -> Graph:
    """Applies a saved instruction to what words find in an image."""
    graph = Graph("Page - Edit only there.app")
    graph.column("Show")
    graph.model()
    graph.photo("Image to edit", PHOTO)
    graph.column("Use")
    graph.load("instruction", SECOND)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=sized.IMAGE "
    wires += "instruction=instruction.INSTRUCTION"
    graph.add("edit", "Edit Region by Words", wired=wires, where="ground")
    _results(graph, "sized.IMAGE")
    graph.inputs = [
        MODEL,
        ("photo", "image", "Your image"),
        ("edit", "where", "Where: what to edit in it"),
        ("instruction", "name", "Instruction"),
        ("edit", "strength", "Strength"),
    ]
    return graph


def _results(graph: Graph, before: str) -> None:
    """Adds a comparison, and the saved result, which is the page's output.

    With Compare Images as a second output a page would show the image before the edit first.
    """
    graph.column("Compare")
    graph.compare(before, "edit.edited", "Compare")
    graph.save("result", "Edited", "edit.edited", "edited")
    graph.outputs = ["result"]
