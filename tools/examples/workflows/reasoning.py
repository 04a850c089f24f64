"""Example workflows for wishes that a vision-language model reads."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import WISH, WISHED
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
