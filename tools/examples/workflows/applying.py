"""Example workflows that apply saved instructions."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW
from instructbrush.tools.examples.workflows.graph import EDIT, SECOND, Graph


def chain() -> Graph:
    """Applies an instruction with ControlNet, LoRA and stock nodes."""
    graph = Graph("apply_with_controlnet_and_lora", ("picture", "result"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    wires = "model=model.MODEL clip=model.CLIP"
    graph.add(
        "lora",
        "LoraLoader",
        (0, 170),
        (300, 130),
        wired=wires,
        lora_name="pocket_aged_paper.safetensors",
        strength_model=0.6,
    )
    graph.add("instruction", "InstructBrushLoad", (0, 360), (300, 240), name=f"{EDIT}.safetensors")
    graph.pairs("new", (0, 660), "Images to edit", NEW)
    graph.add(
        "words",
        "CLIPTextEncode",
        (350, 0),
        (300, 110),
        title="Words (empty: the instruction says it)",
        wired="clip=lora.CLIP",
        text="",
    )
    graph.add(
        "nothing", "CLIPTextEncode", (350, 170), (300, 110), title="No words", wired="clip=lora.CLIP", text=""
    )
    wires = "positive=words.CONDITIONING negative=nothing.CONDITIONING vae=model.VAE pixels=new.before"
    graph.add("picture_in", "InstructPixToPixConditioning", (350, 340), (300, 110), wired=wires)
    graph.add(
        "outlines",
        "Canny",
        (350, 510),
        (300, 90),
        wired="image=new.before",
        low_threshold=0.4,
        high_threshold=0.8,
    )
    graph.add(
        "controlnet",
        "ControlNetLoader",
        (350, 660),
        (300, 60),
        control_net_name="pocket_outlines.safetensors",
    )
    wires = (
        "positive=picture_in.positive negative=picture_in.negative control_net=controlnet.CONTROL_NET "
        "image=outlines.IMAGE"
    )
    graph.add("control", "ControlNetApplyAdvanced", (700, 340), (300, 190), wired=wires, strength=0.8)
    wires = "model=lora.MODEL conditioning=control.positive instruction=instruction.INSTRUCTION"
    graph.add("apply", "InstructBrushApply", (700, 0), (300, 190), wired=wires)
    wires = "model=apply.MODEL cond1=apply.CONDITIONING cond2=control.negative negative=nothing.CONDITIONING"
    graph.add(
        "guider", "DualCFGGuider", (1050, 0), (290, 150), wired=wires, cfg_conds=2.0, cfg_cond2_negative=1.5
    )
    graph.add("noise", "RandomNoise", (1050, 210), (290, 90), noise_seed=1, control_after_generate="fixed")
    graph.add("sampler", "KSamplerSelect", (1050, 350), (290, 60), sampler_name="euler_ancestral")
    graph.add(
        "steps",
        "BasicScheduler",
        (1050, 460),
        (290, 110),
        wired="model=apply.MODEL",
        scheduler="normal",
        steps=20,
    )
    wires = (
        "noise=noise.NOISE guider=guider.GUIDER sampler=sampler.SAMPLER sigmas=steps.SIGMAS "
        "latent_image=picture_in.latent"
    )
    graph.add("sample", "SamplerCustomAdvanced", (1390, 0), (280, 130), wired=wires)
    graph.add("decode", "VAEDecode", (1390, 190), (280, 60), wired="samples=sample.output vae=model.VAE")
    graph.save("result", (1390, 300), "Edited", "decode.IMAGE", f"{EDIT}_chain")
    graph.preview("picture", (1050, 660), (290, 300), "Before", "new.before")
    graph.note(
        "## An instruction among stock nodes\n\n**Apply Instruction** works wherever a conditioning is "
        "used, and *both* outputs must be connected. Here a LoRA ages the paper and a ControlNet keeps the "
        "outlines. `cfg_conds` is InstructPix2Pix's text scale, `cfg_cond2_negative` is its image scale. "
        "The last conditioning of **DualCFGGuider** has no words and no image.\n\nInstruction, LoRA and "
        "ControlNet are small examples for the pocket editor that come with the pack. For your own image "
        "use **Load Image**.",
        (700, 590),
        (300, 370),
    )
    return graph


def algebra() -> Graph:
    """Blends and composes two instructions."""
    graph = Graph("mix_two_instructions", ("picture", "blended", "composed"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.pairs("new", (0, 170), "Images to edit", NEW)
    graph.add("light", "InstructBrushLoad", (350, 0), (300, 240), name=f"{EDIT}.safetensors")
    graph.add("colour", "InstructBrushLoad", (350, 300), (300, 240), name=f"{SECOND}.safetensors")
    graph.add(
        "weaker",
        "InstructBrushScale",
        (700, 300),
        (300, 80),
        wired="instruction=colour.INSTRUCTION",
        factor=0.6,
    )
    wires = "instruction_1=light.INSTRUCTION instruction_2=weaker.INSTRUCTION"
    graph.add("blend", "InstructBrushBlend", (700, 0), (300, 240), wired=wires, weight_1=0.6, weight_2=0.7)
    graph.add(
        "compose",
        "InstructBrushCompose",
        (700, 440),
        (300, 80),
        wired="first=light.INSTRUCTION second=colour.INSTRUCTION",
    )
    for row, name in enumerate(("blend", "compose")):
        wires = (
            f"model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before instruction={name}.INSTRUCTION"
        )
        graph.add(f"guider_{name}", "InstructBrushEditGuider", (1050, 360 * row), (320, 300), wired=wires)
    graph.sampling((1420, 0), "guider_blend.GUIDER", "guider_blend.LATENT", suffix="_blend")
    graph.sampling((1760, 0), "guider_compose.GUIDER", "guider_compose.LATENT", suffix="_compose")
    graph.save("blended", (1420, 710), "Blended", "decode_blend.IMAGE", "blended")
    graph.save("composed", (1760, 710), "Composed", "decode_compose.IMAGE", "composed")
    graph.preview("picture", (1050, 720), (320, 300), "Before", "new.before")
    graph.note(
        "## Two instructions at once\n\n**Blend** adds both edits by weights. **Scale** makes an "
        "instruction stronger or weaker, or reverses it. **Compose** puts the learned rows side by side, "
        "like two phrases in one sentence. Each result is an instruction: apply it, save it in one file, "
        "or mix it further.",
        (350, 600),
        (650, 200),
    )
    return graph
