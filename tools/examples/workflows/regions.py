"""Example workflows that edit inside a region."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW
from instructbrush.tools.examples.workflows.graph import SECOND, Graph


def found_region() -> Graph:
    """Applies an instruction only in the region that words find."""
    graph = Graph("edit_only_what_words_find", ("picture", "found", "result"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add("finder", "InstructBrushLoadRegionFinder", (0, 170), (300, 110))
    graph.add("instruction", "InstructBrushLoad", (0, 340), (300, 240), name=f"{SECOND}.safetensors")
    graph.pairs("new", (0, 640), "Images to edit", NEW)
    graph.add(
        "find",
        "InstructBrushFindRegion",
        (350, 0),
        (340, 320),
        wired="finder=finder.REGION_FINDER image=new.before",
        words="diamond, flower",
    )
    graph.add(
        "clean",
        "InstructBrushCleanRegion",
        (350, 390),
        (340, 420),
        wired="mask=find.mask",
        shape="hull",
        grow=2,
    )
    graph.add(
        "soft", "InstructBrushSoftRegion", (350, 880), (340, 160), wired="mask=clean.MASK boxes=find.bboxes"
    )
    graph.add("latent", "VAEEncode", (740, 0), (300, 60), wired="pixels=new.before vae=model.VAE")
    graph.add(
        "region",
        "InstructBrushRegionEdit",
        (740, 120),
        (300, 110),
        wired="model=model.MODEL latent=latent.LATENT mask=soft.MASK",
    )
    wires = (
        "model=region.MODEL clip=model.CLIP vae=model.VAE image=new.before "
        "instruction=instruction.INSTRUCTION"
    )
    graph.add("guider", "InstructBrushEditGuider", (740, 290), (300, 330), wired=wires)
    graph.sampling((1090, 0), "guider.GUIDER", "region.LATENT")
    graph.add(
        "paste",
        "InstructBrushPasteBack",
        (1090, 710),
        (290, 110),
        wired="edited=decode.IMAGE original=new.before mask=soft.MASK",
    )
    graph.save("result", (1430, 0), "Edited in the region", "paste.IMAGE", "only_there")
    graph.preview("picture", (1430, 390), (330, 300), "Before", "new.before")
    graph.add("shown", "MaskToImage", (1430, 750), (330, 30), wired="mask=soft.MASK")
    graph.preview("found", (1430, 830), (330, 300), "Region", "shown.IMAGE")
    graph.note(
        "## An edit in one region\n\n**Find Region** finds the objects that the words name. **Clean Region** "
        "refuses masks that are too small or too large, and widens the others. **Soft Region** fades the "
        "edit out towards the box. **Region Edit** keeps the image outside the mask while sampling, and "
        "**Paste Back** restores its original pixels.\n\nThe pocket finder knows shapes, hats, sky and "
        "ground. For photographs put Grounding DINO and SAM, or CLIPSeg, into `models/` and choose them in "
        "**Load Region Finder**. Any other mask works too: a painted one, or one from a segmenter or "
        "another pack.",
        (740, 690),
        (300, 370),
    )
    return graph


def mask_model() -> Graph:
    """Edits with a model that reads the mask."""
    graph = Graph("edit_by_words_with_a_mask_model", ("picture", "where", "result"))
    graph.add(
        "model", "InstructBrushLoadModel", (0, 0), (300, 110), model_name="pocket region editor (built in)"
    )
    graph.pairs("new", (0, 170), "Images to edit", NEW)
    graph.add(
        "black", "SolidMask", (0, 590), (300, 110), title="Empty mask", value=0.0, width=128, height=128
    )
    graph.add("white", "SolidMask", (0, 760), (300, 110), title="A box", value=1.0, width=76, height=96)
    graph.add(
        "mask",
        "MaskComposite",
        (350, 590),
        (300, 130),
        title="Region",
        wired="destination=black.MASK source=white.MASK",
        x=2,
        y=24,
        operation="add",
    )
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before mask=mask.MASK"
    graph.add("guider", "InstructBrushEditGuider", (350, 0), (300, 370), wired=wires, words="make it orange")
    graph.sampling((700, 0), "guider.GUIDER", "guider.LATENT")
    graph.add(
        "paste",
        "InstructBrushPasteBack",
        (700, 710),
        (290, 110),
        wired="edited=decode.IMAGE original=new.before mask=mask.MASK",
    )
    graph.save("result", (1040, 0), "Edited", "paste.IMAGE", "mask_model")
    graph.preview("picture", (1040, 390), (330, 300), "Before", "new.before")
    graph.add("both", "RepeatImageBatch", (350, 780), (300, 60), wired="image=shown.IMAGE", amount=2)
    graph.add("shown", "MaskToImage", (350, 900), (300, 30), wired="mask=mask.MASK")
    graph.preview("where", (1040, 750), (330, 300), "Region", "both.IMAGE")
    graph.note(
        "## A model that reads the mask\n\nModels like UltraEdit's read the mask together with the image "
        "and are trained to edit inside it. The **pocket region editor** is a small model of this kind. "
        "Connect the mask to **Edit Guider**, or to **Region Conditioning** if you use stock nodes.\n\nThe "
        "mask in this graph is a box made by two nodes. To paint a mask, right-click **Load Image** and "
        "choose *Open in MaskEditor*. Without a mask the model edits everywhere. **Region Edit** keeps the "
        "image outside the mask.",
        (350, 990),
        (640, 200),
    )
    return graph
