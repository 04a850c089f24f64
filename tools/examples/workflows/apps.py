"""Example workflows that open as pages (ComfyUI's App Mode): a few inputs, one button, large results."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW, PAIRS
from instructbrush.tools.examples.workflows.graph import EDIT, SECOND, Graph

PHOTO = "example.png"
"""The image that ComfyUI puts into its input folder."""


def learn_an_edit() -> Graph:
    """Learns from pairs, edits new images and saves the instruction."""
    graph = Graph("page_learn_an_edit", ("result",))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.pairs("pairs", (0, 170), "Pairs to learn from", PAIRS)
    graph.pairs("new", (0, 590), "Images to edit", NEW)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add("learn", "InstructBrushLearn", (360, 0), (330, 880), wired=wires, init_text="make it brighter")
    graph.add(
        "save", "InstructBrushSave", (360, 950), (330, 330), wired="instruction=learn.INSTRUCTION", name=EDIT
    )
    _edit(graph, "new.before", "learn.INSTRUCTION", (750, 0))
    graph.inputs = [
        ("pairs", "folder", "Pairs that show the edit"),
        ("learn", "init_text", "Words that are close to it"),
        ("learn", "learning", "Learning"),
        ("guider", "strength", "Strength"),
        ("save", "name", "Name of the instruction"),
    ]
    return graph


def edit_my_image() -> Graph:
    """Applies a saved instruction to an image."""
    graph = Graph("page_edit_my_image", ("result",))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    _photo(graph, "Image to edit")
    graph.add("instruction", "InstructBrushLoad", (0, 690), (300, 240), name=f"{EDIT}.safetensors")
    _edit(graph, "sized.IMAGE", "instruction.INSTRUCTION", (360, 0))
    graph.inputs = [
        ("photo", "image", "Your image"),
        ("instruction", "name", "Instruction"),
        ("guider", "strength", "Strength"),
    ]
    return graph


def edit_only_there() -> Graph:
    """Applies a saved instruction to what words find in an image."""
    graph = Graph("page_edit_only_there", ("result",))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    _photo(graph, "Image to edit")
    graph.add("instruction", "InstructBrushLoad", (0, 690), (300, 240), name=f"{SECOND}.safetensors")
    graph.add("finder", "InstructBrushLoadRegionFinder", (360, 0), (320, 110))
    graph.add(
        "find",
        "InstructBrushFindRegion",
        (360, 170),
        (320, 330),
        wired="finder=finder.REGION_FINDER image=sized.IMAGE",
        words="ground",
    )
    graph.add(
        "soft",
        "InstructBrushSoftRegion",
        (360, 560),
        (320, 160),
        wired="mask=find.mask boxes=find.bboxes",
    )
    graph.add("latent", "VAEEncode", (360, 780), (320, 60), wired="pixels=sized.IMAGE vae=model.VAE")
    graph.add(
        "region",
        "InstructBrushRegionEdit",
        (360, 900),
        (320, 110),
        wired="model=model.MODEL latent=latent.LATENT mask=soft.MASK",
    )
    _edit(graph, "sized.IMAGE", "instruction.INSTRUCTION", (740, 0), "region")
    graph.inputs = [
        ("photo", "image", "Your image"),
        ("find", "words", "Where: what to edit in it"),
        ("instruction", "name", "Instruction"),
        ("guider", "strength", "Strength"),
    ]
    return graph


def _photo(graph: Graph, title: str) -> None:
    graph.add("photo", "LoadImage", (0, 170), (300, 330), title=title, image=PHOTO)
    graph.add(
        "sized",
        "ImageScaleToTotalPixels",
        (0, 560),
        (300, 80),
        title="Megapixels (pocket editor 0.02, SD1.5 0.26)",
        wired="image=photo.IMAGE",
        upscale_method="area",
        megapixels=0.02,
    )


def _edit(graph: Graph, image: str, instruction: str, at: tuple[int, int], region: str = "") -> None:
    """Adds the edit of an image, the saved result and a comparison, which are the page's outputs."""
    x, y = at
    model = f"{region}.MODEL" if region else "model.MODEL"
    wires = f"model={model} clip=model.CLIP vae=model.VAE image={image} instruction={instruction}"
    graph.add("guider", "InstructBrushEditGuider", (x, y), (320, 330), wired=wires)
    latent = f"{region}.LATENT" if region else "guider.LATENT"
    graph.sampling((x + 380, y), "guider.GUIDER", latent)
    edited = "decode.IMAGE"
    if region:
        wires = f"edited=decode.IMAGE original={image} mask=soft.MASK"
        graph.add("paste", "InstructBrushPasteBack", (x + 380, y + 710), (290, 110), wired=wires)
        edited = "paste.IMAGE"
    graph.save("result", (x + 720, y), "Edited", edited, "edited")
    wires = f"image_a={image} image_b={edited}"
    graph.add("compare", "ImageCompare", (x + 720, y + 390), (330, 370), title="Compare", wired=wires)
    graph.outputs = ["result", "compare"]
