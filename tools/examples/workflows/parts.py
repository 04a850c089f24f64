"""Blueprints that only example workflows use: parts that would fill the canvas otherwise."""

from __future__ import annotations

from instructbrush.tools.examples.workflows.blueprints import PUBLIC
from instructbrush.tools.examples.workflows.graph import Blueprint

TWO_REGIONS = "Edit Two Regions"
INSIDE_MASK = "Edit inside a Mask"
CONTROLNET = "Edit with ControlNet"
MIX = "Mix Two Instructions"
BY_STEPS = "Explain and Edit by Steps"
READ = "Read Words with the Image and Edit"
NAMED = "Edit What the Wish Names"
FIXED_NOISE = "Edit with the Noise of Learning"


def two_regions() -> Blueprint:
    """Applies an instruction in each of two regions that words find."""
    made = Blueprint(TWO_REGIONS, number=6, public=False)
    made.column()
    made.add("finder", "InstructBrushLoadRegionFinder")
    made.add("empty", "CLIPTextEncode", title="No words", text="")
    for name, model in (("first", ""), ("second", "model=apply_first.MODEL ")):
        made.column()
        wires = f"{model}conditioning=empty.CONDITIONING"
        made.add(f"apply_{name}", "InstructBrushApply", wired=wires)
        made.add(f"find_{name}", "InstructBrushFindRegion", wired="finder=finder.REGION_FINDER")
    made.column()
    wires = (
        "conditioning_1=apply_first.CONDITIONING mask_1=find_first.mask "
        "conditioning_2=apply_second.CONDITIONING mask_2=find_second.mask"
    )
    made.add("both", "InstructBrushCombineRegions", wired=wires)
    made.add("latent", "VAEEncode")
    wires = "model=apply_second.MODEL latent=latent.LATENT mask=both.MASK"
    made.add("region", "InstructBrushRegionEdit", wired=wires)
    made.column()
    wires = "model=region.MODEL conditioning=both.CONDITIONING"
    made.add("guider", "InstructBrushEditGuider", wired=wires)
    made.sample("guider.GUIDER", "region.LATENT")
    made.add("paste", "InstructBrushPasteBack", wired="edited=decode.IMAGE mask=both.MASK")
    made.take_model("apply_first", "empty guider", "latent guider")
    images = ("find_first.image", "find_second.image", "latent.pixels", "guider.image", "paste.original")
    made.take("image", "image", *images)
    made.take("first", "first instruction", "apply_first.instruction")
    made.take("second", "second instruction", "apply_second.instruction")
    made.take("first_where", "Where the first acts", "find_first.words")
    made.take("second_where", "Where the second acts", "find_second.words")
    made.give("edited", "edited", "paste.IMAGE")
    return made


def inside_mask() -> Blueprint:
    """Edits by words with a model that reads the mask, and stock nodes."""
    made = Blueprint(INSIDE_MASK, number=7, public=False)
    made.column()
    made.add("words", "CLIPTextEncode", title="Words")
    made.add("nothing", "CLIPTextEncode", title="No words", text="")
    made.column()
    for name in ("words", "nothing"):
        made.add(f"{name}_in", "InstructBrushRegionConditioning", wired=f"conditioning={name}.CONDITIONING")
    made.column()
    wires = "cond1=words_in.CONDITIONING cond2=nothing_in.CONDITIONING negative=nothing.CONDITIONING"
    made.add("guider", "DualCFGGuider", wired=wires, cfg_conds=4.0, cfg_cond2_negative=1.5)
    made.sample("guider.GUIDER", "words_in.LATENT")
    made.add("paste", "InstructBrushPasteBack", wired="edited=decode.IMAGE")
    made.take_model("guider words_in nothing_in", "words nothing", "words_in nothing_in")
    made.take("image", "image", "words_in.image", "nothing_in.image", "paste.original")
    made.take("mask", "mask", "words_in.mask", "nothing_in.mask", "paste.mask")
    made.take("words", "Words", "words.text")
    made.give("edited", "edited", "paste.IMAGE")
    return made


def controlnet() -> Blueprint:
    """Applies an instruction among stock nodes: ControlNet and DualCFGGuider."""
    made = Blueprint(CONTROLNET, number=8, public=False)
    made.column()
    made.add("words", "CLIPTextEncode", title="Words (empty: the instruction says it)", text="")
    made.add("nothing", "CLIPTextEncode", title="No words", text="")
    made.add("outlines", "Canny", low_threshold=0.4, high_threshold=0.8)
    made.column()
    wires = "positive=words.CONDITIONING negative=nothing.CONDITIONING"
    made.add("picture_in", "InstructPixToPixConditioning", wired=wires)
    wires = "positive=picture_in.positive negative=picture_in.negative image=outlines.IMAGE"
    made.add("control", "ControlNetApplyAdvanced", wired=wires, strength=0.8)
    made.column()
    made.add("apply", "InstructBrushApply", wired="conditioning=control.positive")
    wires = "model=apply.MODEL cond1=apply.CONDITIONING cond2=control.negative negative=nothing.CONDITIONING"
    made.add("guider", "DualCFGGuider", wired=wires, cfg_conds=2.0, cfg_cond2_negative=1.5)
    made.sample("guider.GUIDER", "picture_in.latent")
    made.links.append(("apply", "MODEL", "steps", "model"))
    made.take_model("apply", "words nothing", "picture_in")
    made.take("image", "image", "picture_in.pixels", "outlines.image")
    made.take("control_net", "ControlNet", "control.control_net")
    made.take("instruction", "instruction", "apply.instruction")
    made.take("strength", "Strength of the edit", "apply.strength")
    made.take("outlines", "Strength of the outlines", "control.strength")
    made.give("edited", "edited", "decode.IMAGE")
    return made


def mix() -> Blueprint:
    """Blends and composes two instructions."""
    made = Blueprint(MIX, number=9, public=False)
    made.column()
    made.add("weaker", "InstructBrushScale", factor=0.6)
    made.column()
    wires = "instruction_2=weaker.INSTRUCTION"
    made.add("blend", "InstructBrushBlend", wired=wires, weight_1=0.6, weight_2=0.7)
    made.add("compose", "InstructBrushCompose")
    made.take("first", "first", "blend.instruction_1", "compose.first")
    made.take("second", "second", "weaker.instruction", "compose.second")
    made.take("scale", "Factor of the second", "weaker.factor")
    made.take("weight_1", "Weight of the first", "blend.weight_1")
    made.take("weight_2", "Weight of the second", "blend.weight_2")
    made.give("blended", "blended", "blend.INSTRUCTION")
    made.give("composed", "composed", "compose.INSTRUCTION")
    return made


def by_steps() -> Blueprint:
    """Explains a wish as a list of edits and makes them one after the other, each in its region."""
    made = Blueprint(BY_STEPS, number=10, public=False)
    made.column()
    made.add("reader", "InstructBrushLoadMllm", mllm_name="pocket reader (built in)")
    made.add("explain", "InstructBrushExplain", wired="mllm=reader.MLLM", max_edits=4)
    made.column()
    made.add("finder", "InstructBrushLoadRegionFinder")
    made.noise()
    made.scheduler()
    made.column()
    wires = (
        "edits=explain.edits noise=noise.NOISE sampler=sampler.SAMPLER sigmas=steps.SIGMAS "
        "finder=finder.REGION_FINDER"
    )
    made.add("edit", "InstructBrushEditBySteps", wired=wires, grow=8)
    made.take_model("edit", "edit", "edit")
    made.take("image", "image", "explain.image", "edit.image")
    made.take("wish", "Wish", "explain.wish")
    made.take("max_edits", "Most edits", "explain.max_edits")
    made.give("edited", "edited", "edit.IMAGE")
    made.give("after_each", "after each edit", "edit.steps")
    made.give("report", "report", "edit.report")
    return made


def read() -> Blueprint:
    """Encodes words together with the image."""
    made = Blueprint(READ, number=11, public=False)
    made.column()
    made.add("reader", "InstructBrushLoadMllm", mllm_name="pocket reader (built in)")
    made.add("connector", "InstructBrushLoadConnector", connector_name="pocket connector (built in)")
    made.column()
    wires = "mllm=reader.MLLM connector=connector.CONNECTOR"
    made.add("encode", "InstructBrushEncodeInstruction", wired=wires)
    made.add("guider", "InstructBrushEditGuider", wired="conditioning=encode.CONDITIONING")
    made.sample("guider.GUIDER", "guider.LATENT")
    made.take_model("guider", "encode guider", "guider")
    made.take("image", "image", "encode.image", "guider.image")
    made.take("words", "Words", "encode.words")
    made.give("edited", "edited", "decode.IMAGE")
    return made


def named() -> Blueprint:
    """Finds the object that an explained wish edits, and edits only there."""
    made = Blueprint(NAMED, number=12, public=False)
    made.column()
    made.add("reader", "InstructBrushLoadMllm", mllm_name="pocket reader (built in)")
    made.add("explain", "InstructBrushExplain", wired="mllm=reader.MLLM")
    made.add("finder", "InstructBrushLoadRegionFinder")
    made.column()
    wires = "finder=finder.REGION_FINDER instruction=explain.instruction"
    made.add("find", "InstructBrushFindEditedObject", wired=wires)
    made.column()
    wires = "mask=find.mask"
    made.add("clean", "InstructBrushCleanRegion", wired=wires, when_refused="keep", shape="hull", grow=6)
    made.add("latent", "VAEEncode")
    made.add("region", "InstructBrushRegionEdit", wired="latent=latent.LATENT mask=clean.MASK")
    made.column()
    made.add("guider", "InstructBrushEditGuider", wired="model=region.MODEL words=explain.instruction")
    made.sample("guider.GUIDER", "region.LATENT")
    made.add("paste", "InstructBrushPasteBack", wired="edited=decode.IMAGE mask=clean.MASK")
    made.take_model("region", "guider", "guider latent")
    images = ("explain.image", "find.image", "latent.pixels", "guider.image", "paste.original")
    made.take("image", "image", *images)
    made.take("wish", "Wish", "explain.wish")
    made.give("edited", "edited", "paste.IMAGE")
    made.give("region", "region", "clean.MASK")
    made.give("report", "report", "find.report")
    return made


def fixed_noise() -> Blueprint:
    """Adds words to an instruction and samples with the noise of its learning."""
    made = Blueprint(FIXED_NOISE, number=13, public=False)
    made.column()
    made.add("words", "InstructBrushAddWords")
    made.add("fixed", "InstructBrushFixedNoise")
    made.column()
    made.add("guider", "InstructBrushEditGuider", wired="instruction=words.INSTRUCTION")
    made.sample("guider.GUIDER", "guider.LATENT", noise="fixed.NOISE", sampler="fixed.SAMPLER")
    made.take_model("guider", "words guider", "guider")
    made.take("image", "image", "guider.image")
    made.take("instruction", "instruction", "words.instruction", "fixed.instruction")
    made.take("words", "Words to add", "words.words")
    made.give("edited", "edited", "decode.IMAGE")
    return made


BLUEPRINTS = (
    *PUBLIC,
    two_regions,
    inside_mask,
    controlnet,
    mix,
    by_steps,
    read,
    named,
    fixed_noise,
)
