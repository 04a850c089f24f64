"""Example workflows for wishes that a vision-language model reads."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import CHANGED, TWO_WISHES, WISH, WISHED
from instructbrush.tools.examples.workflows.graph import Graph


def explained_wish() -> Graph:
    """Explains a wish for each image and edits by the explanation."""
    graph = Graph("explain_a_wish_then_edit", ("picture", "result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110), model_name="pocket editor (built in)")
    graph.add("reader", "InstructBrushLoadMllm", (0, 170), (300, 110), mllm_name="pocket reader (built in)")
    graph.pairs("pictures", (0, 340), "Images and wished results", WISHED)
    graph.add(
        "explain",
        "InstructBrushExplain",
        (350, 0),
        (360, 300),
        wired="mllm=reader.MLLM image=pictures.before",
        wish=WISH,
    )
    graph.add(
        "said",
        "PreviewAny",
        (350, 360),
        (360, 160),
        title="Words for each image",
        wired="source=explain.instruction",
    )
    graph.add("why", "PreviewAny", (350, 580), (360, 160), title="Reason", wired="source=explain.reason")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=pictures.before words=explain.instruction"
    graph.add("guider", "InstructBrushEditGuider", (760, 0), (320, 360), wired=wires)
    graph.sampling((1130, 0), "guider.GUIDER", "guider.LATENT")
    graph.save("result", (1470, 0), "Edited", "decode.IMAGE", "explained_wish")
    graph.preview("picture", (1470, 390), (330, 300), "Before", "pictures.before")
    graph.preview("truth", (1470, 750), (330, 300), "Wished results", "pictures.after")
    graph.note(
        "## A wish that names no edit\n\nThe meaning of *hours passed* depends on the image. **Explain "
        "Instruction** asks a vision-language model which edit fulfils the wish, and why. **Edit Guider** "
        "then edits by these words. This needs no training: every editing model can follow the words. "
        "**Load Edit Pairs** gives a list of images, so each image gets separate words.\n\nThe pocket "
        "reader knows only the pocket editor's drawings. For photographs put LLaVA-1.5 or a Qwen2-VL into "
        "`models/mllm`, choose it in **Load MLLM**, choose an InstructPix2Pix checkpoint, and use **Load "
        "Image**.",
        (760, 430),
        (320, 420),
    )
    return graph


def encoded_wish() -> Graph:
    """Encodes the same words together with each of two images."""
    graph = Graph("encode_a_wish_with_the_picture", ("picture", "result", "truth"))
    graph.add(
        "model", "InstructBrushLoadModel", (0, 0), (300, 110), model_name="pocket reasoning editor (built in)"
    )
    graph.add("reader", "InstructBrushLoadMllm", (0, 170), (300, 110), mllm_name="pocket reader (built in)")
    graph.add(
        "connector",
        "InstructBrushLoadConnector",
        (0, 340),
        (300, 80),
        connector_name="pocket connector (built in)",
    )
    graph.pairs("pictures", (0, 480), "Images and wished results", WISHED)
    wires = "mllm=reader.MLLM connector=connector.CONNECTOR clip=model.CLIP image=pictures.before"
    graph.add("encode", "InstructBrushEncodeInstruction", (350, 0), (360, 240), wired=wires, words=WISH)
    wires = (
        "model=model.MODEL clip=model.CLIP vae=model.VAE image=pictures.before "
        "conditioning=encode.CONDITIONING"
    )
    graph.add("guider", "InstructBrushEditGuider", (350, 300), (360, 380), wired=wires)
    graph.sampling((760, 0), "guider.GUIDER", "guider.LATENT")
    graph.save("result", (1100, 0), "Edited", "decode.IMAGE", "encoded_wish")
    graph.preview("picture", (1100, 390), (330, 300), "Before", "pictures.before")
    graph.preview("truth", (1100, 750), (330, 300), "Wished results", "pictures.after")
    graph.note(
        "## Words that are read together with the image\n\nThe same words ask for a sunset where the sun "
        "is up and for the night where it is not. **Encode Instruction** lets a vision-language model read "
        "the words and the image, and a **connector** passes the result to an editing model that was "
        "fine-tuned with it (ReasonPix2Pix). Each image gets separate text states. They are cached, so a "
        "second run is fast.\n\nModel, reader and connector belong together. `python -m instructbrush "
        "reason train` trains a connector and a fine-tuned model from your own data.",
        (350, 740),
        (700, 200),
    )
    return graph


def several_edits() -> Graph:
    """Explains two wishes as a list of edits and makes them one after the other, each in its region."""
    graph = Graph("explain_a_wish_then_edit_by_steps", ("picture", "result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110), model_name="pocket editor (built in)")
    graph.add("reader", "InstructBrushLoadMllm", (0, 170), (300, 110), mllm_name="pocket reader (built in)")
    graph.add("finder", "InstructBrushLoadRegionFinder", (0, 340), (300, 110))
    graph.pairs("pictures", (0, 510), "Images and wished results", CHANGED)
    graph.add(
        "explain",
        "InstructBrushExplain",
        (350, 0),
        (360, 330),
        wired="mllm=reader.MLLM image=pictures.before",
        wish=TWO_WISHES,
        max_edits=4,
    )
    graph.add("noise", "RandomNoise", (350, 390), (360, 90), noise_seed=1, control_after_generate="fixed")
    graph.add("sampler", "KSamplerSelect", (350, 540), (360, 60), sampler_name="euler_ancestral")
    graph.add(
        "sigmas",
        "BasicScheduler",
        (350, 660),
        (360, 110),
        wired="model=model.MODEL",
        scheduler="normal",
        steps=20,
    )
    wires = (
        "model=model.MODEL clip=model.CLIP vae=model.VAE image=pictures.before edits=explain.edits "
        "noise=noise.NOISE sampler=sampler.SAMPLER sigmas=sigmas.SIGMAS finder=finder.REGION_FINDER"
    )
    graph.add("edit", "InstructBrushEditBySteps", (760, 0), (360, 460), wired=wires, grow=8)
    graph.add(
        "report", "PreviewAny", (760, 520), (360, 300), title="What was done", wired="source=edit.report"
    )
    graph.save("result", (1170, 0), "Edited", "edit.IMAGE", "edited_by_steps")
    graph.preview("each", (1170, 390), (330, 300), "After each edit", "edit.steps")
    graph.preview("picture", (1550, 0), (330, 300), "Before", "pictures.before")
    graph.preview("truth", (1550, 390), (330, 300), "Wished results", "pictures.after")
    graph.note(
        "## One wish, several edits\n\n**Explain Instruction** lists the edits that a wish needs; "
        "*max_edits* limits them. **Edit by Steps** makes them one after the other, each on the result of "
        "the one before, and shows every step. *max_steps* cuts the list; steps that stay the same are not "
        "computed again. With a **region finder** each step edits only the object that it names.\n\nThe "
        "edits are a text, one edit a line, so you can write them yourself: `make the hat red | hat`. The "
        "pocket reader explains each clause of a wish by itself; a large model such as Qwen2-VL lists the "
        "edits of *make the room tidy*.",
        (350, 830),
        (770, 190),
    )
    return graph


def edited_object() -> Graph:
    """Finds the object that an explained wish edits, and edits only there."""
    graph = Graph("find_the_edited_object_then_edit", ("picture", "found", "result"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110), model_name="pocket editor (built in)")
    graph.add("reader", "InstructBrushLoadMllm", (0, 170), (300, 110), mllm_name="pocket reader (built in)")
    graph.add("finder", "InstructBrushLoadRegionFinder", (0, 340), (300, 110))
    graph.pairs("pictures", (0, 510), "Images to edit", CHANGED)
    graph.add(
        "explain",
        "InstructBrushExplain",
        (350, 0),
        (360, 330),
        wired="mllm=reader.MLLM image=pictures.before",
        wish=TWO_WISHES.split(",")[0],
    )
    wires = "image=pictures.before finder=finder.REGION_FINDER instruction=explain.instruction"
    graph.add("find", "InstructBrushFindEditedObject", (350, 390), (360, 330), wired=wires)
    graph.add(
        "clean",
        "InstructBrushCleanRegion",
        (350, 780),
        (360, 420),
        wired="mask=find.mask",
        when_refused="keep",
        shape="hull",
        grow=6,
    )
    graph.add("latent", "VAEEncode", (760, 0), (300, 60), wired="pixels=pictures.before vae=model.VAE")
    graph.add(
        "region",
        "InstructBrushRegionEdit",
        (760, 120),
        (300, 110),
        wired="model=model.MODEL latent=latent.LATENT mask=clean.MASK",
    )
    wires = "model=region.MODEL clip=model.CLIP vae=model.VAE image=pictures.before words=explain.instruction"
    graph.add("guider", "InstructBrushEditGuider", (760, 290), (300, 330), wired=wires)
    graph.sampling((1110, 0), "guider.GUIDER", "region.LATENT")
    graph.add(
        "paste",
        "InstructBrushPasteBack",
        (1110, 710),
        (290, 110),
        wired="edited=decode.IMAGE original=pictures.before mask=clean.MASK",
    )
    graph.save("result", (1450, 0), "Edited in the region", "paste.IMAGE", "edited_object")
    graph.preview("picture", (1450, 390), (330, 300), "Before", "pictures.before")
    graph.add("shown", "MaskToImage", (1450, 750), (330, 30), wired="mask=clean.MASK")
    graph.preview("found", (1450, 830), (330, 300), "Region", "shown.IMAGE")
    graph.add("what", "PreviewAny", (760, 960), (300, 200), title="Decided", wired="source=find.report")
    graph.note(
        "## The region follows from the instruction\n\n**Find Edited Object** asks which objects an "
        "instruction edits, at most two, and finds them (UltraEdit). A grammar reads the instruction; with "
        "*mllm* connected a vision-language model looks at the image too. An instruction for the whole image "
        "gives a white mask.\n\nFor photographs choose an MLLM, Grounding DINO with SAM, and a full-size "
        "editing model.",
        (760, 680),
        (300, 240),
    )
    return graph
