"""Example workflows that learn an instruction."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW, PAIRS
from instructbrush.tools.examples.retouched_pairs import RETOUCHED, TO_RETOUCH
from instructbrush.tools.examples.workflows.graph import EDIT, FILL, NARROW, WIDTH, Graph

PUBLIC_MODEL = {
    "name": "instruct-pix2pix-00-22000.safetensors",
    "url": "https://huggingface.co/timbrooks/instruct-pix2pix/resolve/main/"
    "instruct-pix2pix-00-22000.safetensors",
    "directory": "checkpoints",
}


def learning() -> Graph:
    """Learns from pairs and edits new images."""
    graph = Graph("01 Learn an edit from pairs")
    _learn_from(graph, "Pairs to learn from", PAIRS, init_text="make it brighter")
    _use(graph, "New images, and the true results", NEW, EDIT, save=EDIT)
    graph.note(
        "Four pairs show an edit that is hard to say in words: blue dusk on the left, warm light from the "
        "right. Press **Run**: about two minutes on a CPU. Then drop in your own pairs. To edit one image of "
        "your own, put Load Image in the place of the new images."
    )
    return graph


def own_photos() -> Graph:
    """Learns from a user's photographs with a public model."""
    graph = Graph("02 Learn from your own photos (SD 1.5 InstructPix2Pix)", runs=False)
    graph.column("Show")
    graph.add(
        "model",
        "InstructBrushLoadModel",
        model_name=PUBLIC_MODEL["name"],
        properties={"models": [PUBLIC_MODEL]},
    )
    graph.pairs("pairs", "Drop your pairs here", RETOUCHED, wired="size=model.size")
    graph.column("Learn")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add("learn", "InstructBrushLearn", wired=wires)
    graph.column("Use")
    _save(graph, "my_edit")
    graph.photo("Your photo", "example.png")
    graph.edit("edit", "sized.IMAGE", "learn.INSTRUCTION")
    graph.column("Compare")
    graph.compare("sized.IMAGE", "edit.edited")
    graph.save("result", "Edited", "edit.edited", "my_edit")
    graph.note(
        "ComfyUI offers to download the model into models/checkpoints; press R afterwards. Drop four to "
        "ten pairs of photos on the board, write an *init text* that is close to the edit, choose your "
        "photo, and press **Run**. Learning takes 1000 steps."
    )
    return graph


def retouching() -> Graph:
    """Learns an expert's look from many photographs and applies it to a folder."""
    graph = Graph("03 Retouch photos like an expert")
    title = "Before and after the expert"
    _learn_from(graph, title, RETOUCHED, init_text="make it warmer")
    _use(graph, "Photos to retouch", TO_RETOUCH, "retouched")
    graph.note(
        "An expert retouched eight photos. The node learns this look, which is hard to say in words, and "
        "retouches new photos. The pocket editor blurs fine detail; a full-size model keeps it."
    )
    return graph


def phrases() -> Graph:
    """Finds an init text, learns from it and inspects the instruction."""
    graph = Graph("04 Find words to start learning from", (("pairs", "before"), ("pairs", "after")))
    graph.column("Show")
    graph.model()
    graph.pairs("pairs", "Pairs to learn from", PAIRS, wired="size=model.size")
    graph.column("Learn")
    graph.add("clip", "InstructBrushLoadOpenClip")
    wires = "pairs=pairs.PAIRS open_clip=clip.OPEN_CLIP"
    graph.add("phrases", "InstructBrushUniquePhrases", height=FILL, wired=wires)
    graph.column("")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS init_text=phrases.init_text"
    graph.add("learn", "InstructBrushLearn", wired=wires)
    graph.column("Look inside")
    wires = "instruction=learn.INSTRUCTION model=model.MODEL clip=model.CLIP"
    graph.add("inspect", "InstructBrushInspect", height=FILL, wired=wires)
    graph.note(
        "**Unique Phrases** proposes words that fit the images after the edit and not those before. Learning "
        "starts there. **Inspect Instruction** shows what was learned, and the nearest words."
    )
    return graph


def clip_space() -> Graph:
    """Learns in text space (Visii) from a caption, adds words and samples with the noise of learning."""
    graph = Graph("05 Learn as text and add words (Visii)")
    graph.column("Show", NARROW)
    graph.model()
    graph.pairs("pairs", "Pairs to learn from", PAIRS, wired="size=model.size")
    graph.column("Learn", NARROW)
    graph.add("clip", "InstructBrushLoadOpenClip")
    wires = "pairs=pairs.PAIRS open_clip=clip.OPEN_CLIP"
    graph.add("caption", "InstructBrushCaptionInit", wired=wires, tokens=8)
    graph.column("", NARROW)
    wires = (
        "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS init_text=caption.init_text "
        "open_clip=clip.OPEN_CLIP"
    )
    graph.add("learn", "InstructBrushLearnText", wired=wires, preset="custom", steps=120, noise="fixed")
    graph.column("Use", NARROW)
    graph.pairs("new", "New images", NEW, wired="size=model.size")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before instruction=learn.INSTRUCTION"
    graph.add("edit", "Edit with the Noise of Learning", wired=wires, words="and add a frame")
    graph.column("Compare", NARROW)
    graph.compare("new.before", "edit.edited")
    graph.save("result", "Edited", "edit.edited", f"{EDIT}_clip")
    graph.note(
        "The node learns text states, starting from a caption of the images after the edit. Your own words "
        "follow them. The noise of learning is used again, so the same image always gets the same edit. For "
        "another model set *preset* to *paper* (under **Change…**)."
    )
    return graph


def adapter() -> Graph:
    """Learns an adapter from what another part of a workflow does."""
    graph = Graph("06 Learn what another workflow does")
    graph.column("Show", NARROW)
    graph.pairs("photos", "Any images", PAIRS)
    graph.add("other", "ImageInvert", title="Any other nodes (here: invert)", wired="image=photos.before")
    graph.column("Learn", NARROW)
    wires = "before=photos.before after=other.IMAGE"
    graph.add("pairs", "InstructBrushMakePairs", height=380, wired=wires)  # it shows the pairs after a run
    wires = "images=photos.before edited=other.IMAGE"
    graph.add("backwards", "InstructBrushMakePairsFromEdit", collapsed=True, wired=wires)
    graph.model()
    graph.column("", NARROW)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add("learn", "InstructBrushLearnAdapter", wired=wires, init_text="make it a negative")
    _use(graph, "New images", NEW, "like_the_other", NARROW)
    graph.note(
        "**Make Edit Pairs** takes images before and after any other nodes, and an adapter learns what they "
        "do. If nodes can only *remove* an effect, connect **Make Pairs From Edit** to Learn Instruction "
        "instead: it learns to add the effect."
    )
    return graph


def _learn_from(graph: Graph, title: str, folder: object, **learn: object) -> None:
    """Adds the columns of the model, the pairs and Learn Instruction."""
    graph.column("Show")
    graph.model()
    graph.pairs("pairs", title, folder, wired="size=model.size")  # pyright: ignore[reportArgumentType]
    graph.column("Learn")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add("learn", "InstructBrushLearn", wired=wires, **learn)  # pyright: ignore[reportArgumentType]


def _save(graph: Graph, name: str) -> None:
    """Adds Save Instruction, folded."""
    wires = "instruction=learn.INSTRUCTION"
    graph.add("save", "InstructBrushSave", title="Save Instruction", collapsed=True, wired=wires, name=name)


def _use(
    graph: Graph, title: str, folder: object, prefix: str, width: int = WIDTH, *, save: str = ""
) -> None:
    """Adds the columns of the edit and the comparison. `save` is a name for the instruction."""
    graph.column("Use", width)
    if save:
        _save(graph, save)
    graph.pairs("new", title, folder, wired="size=model.size")  # pyright: ignore[reportArgumentType]
    graph.edit("edit", "new.before", "learn.INSTRUCTION")
    graph.column("Compare", width)
    graph.compare("new.before", "edit.edited")
    graph.save("result", "Edited", "edit.edited", prefix)
