"""Example workflows that edit inside a region."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW
from instructbrush.tools.examples.workflows.graph import EDIT, NARROW, SECOND, Graph


def found_region() -> Graph:
    """Applies an instruction only in the region that words find."""
    graph = Graph("14 Edit only what words find")
    graph.column("Show")
    graph.model()
    graph.pairs("new", "Images to edit", NEW)
    graph.column("Use")
    graph.load("instruction", SECOND)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before "
    wires += "instruction=instruction.INSTRUCTION"
    graph.add("edit", "Edit Region by Words", wired=wires, where="diamond, flower")
    graph.column("Compare")
    graph.compare("new.before", "edit.edited")
    graph.save("result", "Edited", "edit.edited", "only_there")
    graph.add("region", "MaskPreview", height=260, title="Region", wired="mask=edit.region")
    graph.note(
        "Write what to edit. All else keeps its pixels. The pocket finder knows shapes, hats, sky and "
        "ground; for photos choose Grounding DINO or CLIPSeg as the finder."
    )
    return graph


def two_regions() -> Graph:
    """Applies an instruction in each of two regions."""
    graph = Graph("15 Edit several regions at once")
    graph.column("Show")
    graph.model()
    graph.pairs("new", "Images to edit", NEW)
    graph.column("Use")
    graph.load("light", EDIT, "First instruction")
    graph.load("color", SECOND, "Second instruction")
    graph.column("")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before "
    wires += "first=light.INSTRUCTION second=color.INSTRUCTION"
    graph.add(
        "edit", "Edit Two Regions", wired=wires, first_where="background", second_where="diamond, flower"
    )
    graph.column("Compare")
    graph.compare("new.before", "edit.edited")
    graph.save("result", "Edited", "edit.edited", "two_regions")
    graph.note(
        "Each instruction acts where its words say. Open **Edit Two Regions** to add a third region, or to "
        "use painted masks."
    )
    return graph


def mask_model() -> Graph:
    """Edits with a model that reads the mask."""
    graph = Graph("16 Edit with a model that reads the mask")
    graph.column("Show", NARROW)
    graph.pairs("new", "Images to edit", NEW)
    graph.column("Use", NARROW)
    graph.model("pocket region editor (built in)")
    graph.add("finder", "InstructBrushLoadRegionFinder")
    graph.column("", NARROW)
    wires = "finder=finder.REGION_FINDER image=new.before"
    graph.add("find", "InstructBrushFindRegion", wired=wires, words="diamond, flower")
    graph.column("", NARROW)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before mask=find.box_mask"
    graph.add("edit", "Edit inside a Mask", wired=wires, words="make it orange")
    graph.add("region", "MaskPreview", height=250, title="Region", wired="mask=find.box_mask")
    graph.column("Compare", NARROW)
    graph.compare("new.before", "edit.edited")
    graph.save("result", "Edited", "edit.edited", "mask_model")
    graph.note(
        "Models like UltraEdit's read the mask together with the image. Any mask works: to paint one, "
        "right-click Load Image and choose Open in MaskEditor."
    )
    return graph
