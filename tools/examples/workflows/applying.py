"""Example workflows that apply saved instructions."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW
from instructbrush.tools.examples.workflows.graph import EDIT, FILL, NARROW, SECOND, WIDTH, Graph

SHEET = (("result", "images"),)


def edit_images() -> Graph:
    """Applies a saved instruction."""
    graph = Graph("07 Edit images with a saved instruction")
    _show(graph)
    graph.column("Use")
    graph.load("instruction", EDIT)
    graph.edit("edit", "new.before", "instruction.INSTRUCTION")
    _compare(graph, EDIT)
    graph.note(
        "Choose an instruction and images, and press **Run**. For one photo of your own use Load Image."
    )
    return graph


def slider() -> Graph:
    """Applies an instruction with a negative strength."""
    graph = Graph("08 Turn an edit up, down and around")
    _show(graph)
    graph.column("Use")
    graph.add("one", "InstructBrushPickFromList", title="Which image: 0, 1, …", wired="items=new.before")
    graph.load("instruction", SECOND)
    graph.column("")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=one.item "
    wires += "instruction=instruction.INSTRUCTION"
    graph.add("guider", "InstructBrushEditGuider", wired=wires, strength=-0.6)
    wires = "guider=guider.GUIDER latent=guider.LATENT model=model.MODEL vae=model.VAE"
    graph.add("edit", "Sample an Edit", wired=wires)
    _compare(graph, f"{SECOND}_slider", "one.item")
    graph.note(
        "Strength 1 edits as learned: plum and mint. At 0 there is no edit, and below 0 it turns around: the "
        "colors grow stronger instead of weaker. Move the slider, or press Try 5."
    )
    return graph


def strengths() -> Graph:
    """Applies an instruction with several strengths and draws a contact sheet."""
    graph = Graph("09 Compare strengths on one sheet", SHEET)
    graph.column("Show")
    graph.model()
    graph.pairs("new", "Images to edit", NEW)
    graph.column("Use")
    graph.add("values", "InstructBrushSweepValues", values="-1:1.5:0.5", name="strength")
    graph.add("batch", "RebatchImages", title="Both images at once", wired="images=new.before", batch_size=2)
    graph.load("instruction", EDIT)
    graph.column("")
    graph.edit("edit", "batch.IMAGE", "instruction.INSTRUCTION")
    graph.links.append(("values", "values", "edit", "strength"))
    graph.column("Compare", 420)
    wires = "images=edit.edited labels=values.labels source=batch.IMAGE"
    graph.add("sheet", "InstructBrushContactSheet", height=FILL, wired=wires, title=EDIT, cell=128)
    graph.save("result", "Contact sheet", "sheet.sheet", f"{EDIT}_strengths")
    graph.note(
        "**Sweep Values** gives a list, and the nodes behind it run once for each value. Connect it to "
        "another input to sweep something else, and change range and name."
    )
    return graph


def when() -> Graph:
    """Applies an instruction down to several timesteps T and draws a contact sheet."""
    graph = Graph("10 See when an edit acts", SHEET)
    graph.column("Show")
    graph.model()
    graph.pairs("new", "Images to edit", NEW)
    graph.column("Use")
    graph.add("values", "InstructBrushSweepValues", values="1000:0:-200", name="T")
    graph.add("batch", "RebatchImages", title="Both images at once", wired="images=new.before", batch_size=2)
    graph.load("instruction", EDIT)
    graph.column("")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=batch.IMAGE "
    wires += "instruction=instruction.INSTRUCTION end_timestep=values.whole"
    graph.add("guider", "InstructBrushEditGuider", wired=wires)
    wires = "guider=guider.GUIDER latent=guider.LATENT model=model.MODEL vae=model.VAE"
    graph.add("edit", "Sample an Edit", wired=wires)
    graph.column("Compare", 420)
    wires = "images=edit.edited labels=values.labels source=batch.IMAGE"
    graph.add("sheet", "InstructBrushContactSheet", height=FILL, wired=wires, title=EDIT, cell=128)
    graph.save("result", "Contact sheet", "sheet.sheet", f"{EDIT}_when")
    graph.note(
        "The instruction acts from pure noise (1000) down to T. Colors and layout come first, fine detail "
        "comes last (InstructBrush, Fig. 3). At T = 1000 there is no edit, at 0 the whole edit."
    )
    return graph


def second() -> Graph:
    """Applies two instructions to the same images."""
    graph = Graph("11 Compare two instructions")
    _two(graph)
    graph.column("")
    graph.edit("edit", "new.before", "light.INSTRUCTION", title="Edit by the first")
    graph.edit("other", "new.before", "color.INSTRUCTION", title="Edit by the second")
    graph.column("Compare")
    graph.compare("edit.edited", "other.edited", "First and second: drag the line")
    graph.save("result", "By the first", "edit.edited", "first")
    graph.note("The same images, model and seed, and two instructions. Drag the line between the results.")
    return graph


def algebra() -> Graph:
    """Blends and composes two instructions."""
    graph = Graph("12 Mix two instructions")
    _two(graph, NARROW)
    graph.column("", NARROW)
    graph.add("mix", "Mix Two Instructions", wired="first=light.INSTRUCTION second=color.INSTRUCTION")
    graph.column("", NARROW)
    graph.edit("edit", "new.before", "mix.blended", title="Edit by the blend")
    graph.edit("other", "new.before", "mix.composed", title="Edit by both, side by side")
    graph.column("Compare", NARROW)
    graph.compare("edit.edited", "other.edited", "Blended and composed")
    graph.save("result", "Blended", "edit.edited", "blended")
    graph.note(
        "**Blended** adds both edits by weights; **composed** puts what was learned side by side, like two "
        "phrases in one sentence. Both are instructions: apply, save or mix them further."
    )
    return graph


def chain() -> Graph:
    """Applies an instruction with ControlNet, LoRA and stock nodes."""
    graph = Graph("13 Combine with ControlNet and LoRA")
    graph.column("Show")
    graph.model()
    graph.pairs("new", "Images to edit", NEW)
    graph.column("Use")
    graph.add(
        "lora",
        "LoraLoader",
        wired="model=model.MODEL clip=model.CLIP",
        lora_name="pocket_aged_paper.safetensors",
        strength_model=0.6,
    )
    graph.add("net", "ControlNetLoader", control_net_name="pocket_outlines.safetensors")
    graph.load("instruction", EDIT)
    graph.column("")
    wires = "model=lora.MODEL clip=lora.CLIP vae=model.VAE image=new.before "
    wires += "control_net=net.CONTROL_NET instruction=instruction.INSTRUCTION"
    graph.add("edit", "Edit with ControlNet", wired=wires)
    _compare(graph, f"{EDIT}_chain")
    graph.note(
        "A LoRA ages the paper, a ControlNet keeps the outlines, and the instruction edits. Open **Edit with "
        "ControlNet** to see Apply Instruction among stock nodes."
    )
    return graph


def _show(graph: Graph, width: int = WIDTH) -> None:
    graph.column("Show", width)
    graph.model()
    graph.pairs("new", "Images to edit", NEW)


def _two(graph: Graph, width: int = WIDTH) -> None:
    """Adds the images and two instructions."""
    _show(graph, width)
    graph.column("Use", width)
    graph.load("light", EDIT, "First instruction")
    graph.load("color", SECOND, "Second instruction")


def _compare(graph: Graph, prefix: str, before: str = "new.before") -> None:
    graph.column("Compare")
    graph.compare(before, "edit.edited")
    graph.save("result", "Edited", "edit.edited", prefix)
