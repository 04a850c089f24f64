"""The blueprints: subgraphs in ComfyUI's node library, and parts of the example workflows.

Nodes whose panels people work with (learning, pairs, choosing an instruction) stand outside of the blueprints
that workflows use: the node of a subgraph cannot show the panels of the nodes inside.
"""

from __future__ import annotations

from instructbrush.tools.examples.workflows.graph import Blueprint

LEARN = "Learn an Edit"
EDIT_IMAGE = "Edit Image by Instruction"
EDIT_REGION = "Edit Region by Words"
EXPLAIN = "Explain and Edit"
SAMPLE = "Sample an Edit"


def learn() -> Blueprint:
    """Loads a model, learns from pairs and saves the instruction."""
    made = Blueprint(
        LEARN,
        number=1,
        description="Learns an edit from images before and after it, and saves it as an instruction. Connect "
        "Load Edit Pairs. Open it for the curve, the previews and the buttons of Learn Instruction.",
        aliases=("instructbrush", "before after", "learn edit", "train", "pairs", "visual instruction"),
    )
    made.column()
    made.model()
    made.column()
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE"
    made.add("learn", "InstructBrushLearn", wired=wires)
    made.column()
    made.add("save", "InstructBrushSave", wired="instruction=learn.INSTRUCTION", name="my_edit")
    made.take("pairs", "pairs", "learn.pairs")
    made.take("model_name", "Model", "model.model_name")
    made.take("init_text", "Words that are close to it", "learn.init_text")
    made.take("name", "Name of the instruction", "save.name")
    made.give("instruction", "instruction", "save.INSTRUCTION")
    made.give("model", "model", "model.MODEL")
    made.give("clip", "clip", "model.CLIP")
    made.give("vae", "vae", "model.VAE")
    return made


def edit_image() -> Blueprint:
    """Edits an image by an instruction, by words, or by both together."""
    made = Blueprint(
        EDIT_IMAGE,
        number=2,
        description="Edits an image by a learned instruction, by words, or by both. Connect Load "
        "InstructPix2Pix, an image, and Load Instruction or Learn Instruction.",
        aliases=("instructbrush", "apply instruction", "edit image", "instruct pix2pix", "before after"),
    )
    made.column()
    made.add("words", "InstructBrushAddWords")
    made.column()
    made.add("guider", "InstructBrushEditGuider", wired="instruction=words.INSTRUCTION")
    made.sample("guider.GUIDER", "guider.LATENT")
    made.take_model("guider", "words guider", "guider")
    made.take("image", "image", "guider.image")
    made.take("instruction", "instruction", "words.instruction")
    made.take("strength", "Strength", "guider.strength")
    made.take("words", "Words to add", "words.words", "guider.words")
    made.give("edited", "edited", "decode.IMAGE")
    return made


def edit_region() -> Blueprint:
    """Finds what words name, and edits only there."""
    made = Blueprint(
        EDIT_REGION,
        number=3,
        description="Finds what words name in an image and edits only there. Everything else keeps its "
        "pixels. Connect Load InstructPix2Pix, an image, and an instruction, or write words.",
        aliases=("instructbrush", "region", "mask", "inpaint by words", "segment and edit", "only there"),
    )
    made.column()
    made.add("finder", "InstructBrushLoadRegionFinder")
    made.add("find", "InstructBrushFindRegion", wired="finder=finder.REGION_FINDER")
    _clean_and_keep(made, "find.mask", "find.bboxes")
    made.add("words", "InstructBrushAddWords")
    made.column()
    wires = "model=region.MODEL instruction=words.INSTRUCTION"
    made.add("guider", "InstructBrushEditGuider", wired=wires)
    made.sample("guider.GUIDER", "region.LATENT")
    made.add("paste", "InstructBrushPasteBack", wired="edited=decode.IMAGE mask=soft.MASK")
    made.take_model("region", "words guider", "guider latent")
    made.take("image", "image", "find.image", "latent.pixels", "guider.image", "paste.original")
    made.take("instruction", "instruction", "words.instruction")
    made.take("where", "Where: what to edit", "find.words")
    made.take("strength", "Strength", "guider.strength")
    made.take("words", "Words to add", "words.words", "guider.words")
    made.take("finder_name", "Finder", "finder.finder_name")
    made.give("edited", "edited", "paste.IMAGE")
    made.give("region", "region", "soft.MASK")
    return made


def explain() -> Blueprint:
    """Lets a vision-language model explain a wish, and edits by the explanation."""
    made = Blueprint(
        EXPLAIN,
        number=4,
        description="A vision-language model looks at the image and says which edit a wish asks for; the "
        "editing model makes it. Connect Load InstructPix2Pix and an image.",
        aliases=("instructbrush", "wish", "vlm", "mllm", "explain", "reason", "llava"),
    )
    made.column()
    made.add("reader", "InstructBrushLoadMllm", mllm_name="pocket reader (built in)")
    made.add("explain", "InstructBrushExplain", wired="mllm=reader.MLLM")
    made.column()
    made.add("guider", "InstructBrushEditGuider", wired="words=explain.instruction")
    made.sample("guider.GUIDER", "guider.LATENT")
    made.take_model("guider", "guider", "guider")
    made.take("image", "image", "explain.image", "guider.image")
    made.take("wish", "Wish", "explain.wish")
    made.take("mllm_name", "Vision-language model", "reader.mllm_name")
    made.give("edited", "edited", "decode.IMAGE")
    made.give("words", "words", "explain.instruction")
    made.give("reason", "reason", "explain.reason")
    return made


def sample() -> Blueprint:
    """Samples with a guider that stands outside."""
    made = Blueprint(
        SAMPLE,
        number=5,
        description="Samples and decodes what Edit Guider describes: noise, sampler and steps in one node. "
        "Connect Edit Guider and Load InstructPix2Pix.",
        aliases=("instructbrush", "sampler", "edit guider", "ksampler"),
    )
    made.sample("", "")
    made.take("guider", "guider", "sample.guider")
    made.take("latent", "latent", "sample.latent_image")
    made.take("model", "model", "steps.model")
    made.take("vae", "vae", "decode.vae")
    made.give("edited", "edited", "decode.IMAGE")
    return made


def _clean_and_keep(made: Blueprint, mask: str, boxes: str) -> None:
    """Adds the nodes that clean a mask and keep the rest of the image."""
    made.column()
    made.add("clean", "InstructBrushCleanRegion", wired=f"mask={mask}", shape="hull", grow=2)
    made.add("soft", "InstructBrushSoftRegion", wired=f"mask=clean.MASK boxes={boxes}")
    made.column()
    made.add("latent", "VAEEncode")
    made.add("region", "InstructBrushRegionEdit", wired="latent=latent.LATENT mask=soft.MASK")


PUBLIC = (learn, edit_image, edit_region, explain, sample)
