"""Build the example workflows with the front end itself, run them, and write example_workflows/*.json with a .jpg beside each.

    .venv/bin/python tools/examples/make_workflows.py          # the graphs
    .venv/bin/python tools/examples/make_workflows.py run      # also run them for the images (after tools/examples/make_examples.py and tools/examples/train_example_addons.py)

The front end creates the nodes, so the files are what a user who saved the graph would have; run this again when a node's inputs change.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from instructbrush.tools.browser import launch, open_front_end
from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.examples.make_examples import INSTRUCTIONS, NEW, PAIRS, WISH, WISHED
from instructbrush.tools.get_comfyui import REPOSITORY

EXAMPLES = REPOSITORY / "example_workflows"
PIXELS = 256
EDIT, SECOND = INSTRUCTIONS

BUILD = """(graph) => {
  app.graph.clear();
  const made = {};
  for (const [name, { type, at, size, title, widgets }] of Object.entries(graph.nodes)) {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = at;
    if (title) node.title = title;
    for (const [key, value] of Object.entries(widgets)) {
      const widget = node.widgets?.find((each) => each.name === key);
      if (!widget) throw new Error(`${type} has no widget ${key}`);
      widget.value = value;
    }
    node.setSize(size ?? node.computeSize());
    made[name] = node;
  }
  for (const [from, output, to, input] of graph.links) {
    const a = made[from].findOutputSlot(output), b = made[to].findInputSlot(input);
    if (a < 0 || b < 0 || !made[from].connect(a, made[to], b)) throw new Error(`cannot connect ${from}.${output} to ${to}.${input}`);
  }
  const { nodes, links, last_node_id, last_link_id, version } = app.graph.serialize();
  return { last_node_id, last_link_id, nodes, links, groups: [], config: {}, extra: {}, version };
}"""


@dataclass
class Graph:
    """A workflow to be: nodes by a name of our own, links as (from, output, to, input), and the names of nodes that show its images."""

    title: str
    shown: tuple[str, ...]
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(
        self,
        name: str,
        kind: str,
        at: tuple[int, int],
        size: tuple[int, int],
        /,
        *,
        title: str = "",
        wired: str = "",
        **widgets: Any,
    ) -> None:
        """One node. `wired`: its inputs, as "input=node.output input=node.output"."""
        self.nodes[name] = {"type": kind, "at": at, "size": size, "title": title, "widgets": widgets}
        for wire in wired.split():
            target, _, source = wire.partition("=")
            node, _, output = source.partition(".")
            self.links.append((node, output, name, target))

    def note(self, text: str, at: tuple[int, int], size: tuple[int, int]) -> None:
        """Markdown beside the nodes."""
        self.nodes[f"note {len(self.nodes)}"] = {
            "type": "MarkdownNote",
            "at": at,
            "size": size,
            "title": "",
            "widgets": {"": text},
        }


def learning() -> Graph:
    """Pairs -> instruction -> a new image."""
    graph = Graph("learn_from_pairs", ("result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add(
        "pairs",
        "InstructBrushLoadPairs",
        (0, 170),
        (300, 360),
        title="Pairs to learn from",
        folder=f"{PAIRS.name} (example)",
    )
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add(
        "learn",
        "InstructBrushLearn",
        (360, 0),
        (330, 880),
        wired=wires,
        init_text="make it brighter",
        preset="custom",
        steps=300,
    )
    graph.add(
        "save", "InstructBrushSave", (360, 950), (330, 330), wired="instruction=learn.INSTRUCTION", name=EDIT
    )
    title = "New pictures, and how they should come out"
    graph.add(
        "new", "InstructBrushLoadPairs", (0, 590), (300, 360), title=title, folder=f"{NEW.name} (example)"
    )
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before instruction=learn.INSTRUCTION"
    graph.add("guider", "InstructBrushEditGuider", (750, 0), (320, 300), wired=wires)
    graph.add("noise", "RandomNoise", (750, 360), (320, 90), noise_seed=1, control_after_generate="fixed")
    graph.add("sampler", "KSamplerSelect", (750, 500), (320, 60), sampler_name="euler_ancestral")
    graph.add(
        "steps",
        "BasicScheduler",
        (750, 610),
        (320, 110),
        wired="model=model.MODEL",
        scheduler="normal",
        steps=20,
    )
    wires = "noise=noise.NOISE guider=guider.GUIDER sampler=sampler.SAMPLER sigmas=steps.SIGMAS latent_image=guider.LATENT"
    graph.add("sample", "SamplerCustomAdvanced", (1120, 0), (280, 130), wired=wires)
    graph.add("decode", "VAEDecode", (1120, 190), (280, 60), wired="samples=sample.output vae=model.VAE")
    graph.add(
        "result",
        "SaveImage",
        (1120, 300),
        (330, 330),
        title="Edited as learned",
        wired="images=decode.IMAGE",
        filename_prefix=EDIT,
    )
    graph.add(
        "truth", "PreviewImage", (1120, 690), (330, 300), title="As it should be", wired="images=new.after"
    )
    graph.note(
        "## Learn an edit from pairs\n\nFour pairs show an edit that is hard to put into words: blue dusk on the left, warm light from the right. "
        "**Learn Instruction** finds it in a minute or two on a CPU, and the **Edit Guider** does it to pictures it has never seen."
        "\n\n**With your own pictures:** put a folder of pairs (`0_0.png` before, `0_1.png` after, …) into ComfyUI's `input` folder and choose it; for the "
        "picture to edit use **Load Image**. The pocket editor is a toy of 128 pixels: for photographs choose an InstructPix2Pix checkpoint, "
        "and the preset *paper*.",
        (750, 780),
        (320, 330),
    )
    return graph


def chain() -> Graph:
    """An instruction with ControlNet and LoRA, stock nodes all around."""
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
    graph.add(
        "new",
        "InstructBrushLoadPairs",
        (0, 660),
        (300, 360),
        title="Pictures to edit",
        folder=f"{NEW.name} (example)",
    )
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
    wires = "positive=picture_in.positive negative=picture_in.negative control_net=controlnet.CONTROL_NET image=outlines.IMAGE"
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
    wires = "noise=noise.NOISE guider=guider.GUIDER sampler=sampler.SAMPLER sigmas=steps.SIGMAS latent_image=picture_in.latent"
    graph.add("sample", "SamplerCustomAdvanced", (1390, 0), (280, 130), wired=wires)
    graph.add("decode", "VAEDecode", (1390, 190), (280, 60), wired="samples=sample.output vae=model.VAE")
    graph.add(
        "result",
        "SaveImage",
        (1390, 300),
        (330, 330),
        title="Edited",
        wired="images=decode.IMAGE",
        filename_prefix=f"{EDIT}_chain",
    )
    graph.add("picture", "PreviewImage", (1050, 660), (290, 300), title="Before", wired="images=new.before")
    graph.note(
        "## An instruction among stock nodes\n\n**Apply Instruction** goes wherever a conditioning goes, and *both* its outputs must be connected. "
        "Here a LoRA ages the paper and a ControlNet keeps the outlines. `cfg_conds` is InstructPix2Pix's text scale, `cfg_cond2_negative` its image scale; "
        "the last conditioning of **DualCFGGuider** is plain: no words and no picture.\n\nInstruction, LoRA and ControlNet are small examples for the "
        "pocket editor that come with the pack. For the picture use **Load Image** instead.",
        (700, 590),
        (300, 370),
    )
    return graph


def sampling(
    graph: Graph,
    at: tuple[int, int],
    guider: str,
    latent: str,
    *,
    noise: str = "",
    sampler: str = "",
    suffix: str = "",
) -> None:
    """Noise, sampler, steps, SamplerCustomAdvanced and VAE Decode below each other; the image is at ``decode{suffix}.IMAGE``."""
    x, y = at
    if not noise:
        noise, sampler = f"noise{suffix}.NOISE", f"sampler{suffix}.SAMPLER"
        graph.add(
            f"noise{suffix}", "RandomNoise", (x, y), (290, 90), noise_seed=1, control_after_generate="fixed"
        )
        graph.add(
            f"sampler{suffix}", "KSamplerSelect", (x, y + 140), (290, 60), sampler_name="euler_ancestral"
        )
    graph.add(
        f"steps{suffix}",
        "BasicScheduler",
        (x, y + 250),
        (290, 110),
        wired="model=model.MODEL",
        scheduler="normal",
        steps=20,
    )
    wires = (
        f"noise={noise} guider={guider} sampler={sampler} sigmas=steps{suffix}.SIGMAS latent_image={latent}"
    )
    graph.add(f"sample{suffix}", "SamplerCustomAdvanced", (x, y + 410), (290, 130), wired=wires)
    graph.add(
        f"decode{suffix}",
        "VAEDecode",
        (x, y + 590),
        (290, 60),
        wired=f"samples=sample{suffix}.output vae=model.VAE",
    )


def phrases() -> Graph:
    """Words found for the pairs, learning begun with them, the instruction inspected and its edits measured."""
    graph = Graph("find_words_learn_and_measure", ("result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add("clip", "InstructBrushLoadOpenClip", (0, 170), (300, 80))
    graph.add(
        "pairs",
        "InstructBrushLoadPairs",
        (0, 310),
        (300, 360),
        title="Pairs to learn from",
        folder=f"{PAIRS.name} (example)",
    )
    graph.add(
        "new",
        "InstructBrushLoadPairs",
        (0, 730),
        (300, 360),
        title="New pictures, and how they should come out",
        folder=f"{NEW.name} (example)",
    )
    graph.add(
        "phrases",
        "InstructBrushUniquePhrases",
        (350, 0),
        (380, 300),
        wired="pairs=pairs.PAIRS open_clip=clip.OPEN_CLIP",
    )
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS init_text=phrases.init_text"
    graph.add("learn", "InstructBrushLearn", (350, 470), (380, 880), wired=wires, preset="custom", steps=300)
    wires = "instruction=learn.INSTRUCTION model=model.MODEL clip=model.CLIP"
    graph.add("inspect", "InstructBrushInspect", (780, 0), (420, 620), wired=wires)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before instruction=learn.INSTRUCTION"
    graph.add("guider", "InstructBrushEditGuider", (780, 690), (320, 300), wired=wires)
    sampling(graph, (1250, 0), "guider.GUIDER", "guider.LATENT")
    graph.add(
        "result",
        "SaveImage",
        (1590, 0),
        (330, 330),
        title="Edited as learned",
        wired="images=decode.IMAGE",
        filename_prefix=f"{EDIT}_words",
    )
    graph.add(
        "truth", "PreviewImage", (1590, 390), (330, 300), title="As it should be", wired="images=new.after"
    )
    wires = "edited=decode.IMAGE truth=new.after before=new.before open_clip=clip.OPEN_CLIP"
    graph.add("evaluate", "InstructBrushEvaluate", (1590, 750), (330, 300), wired=wires)
    graph.note(
        "## Words, learning, measuring\n\n**Unique Phrases** looks for the phrase that fits the pictures before best and those after least, and the other way "
        "round. Learning begins with what it finds; when nothing is unique enough it begins with nothing, and the table says so.\n\n"
        "**Inspect Instruction** shows how far each layer and each part of the noise schedule went, and the words that come near. **Evaluate** measures the "
        "edited pictures against how they should be.\n\nFor photographs take ViT-L-14 or ViT-H-14 in **Load OpenCLIP**, and a full model.",
        (1250, 720),
        (290, 420),
    )
    return graph


def clip_space() -> Graph:
    """Visii: text states learned from a caption, joined with words, sampled with the noise of learning."""
    graph = Graph("learn_in_clip_space_and_add_words", ("picture", "result"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add("clip", "InstructBrushLoadOpenClip", (0, 170), (300, 80))
    graph.add(
        "pairs",
        "InstructBrushLoadPairs",
        (0, 310),
        (300, 360),
        title="Pairs to learn from",
        folder=f"{PAIRS.name} (example)",
    )
    graph.add(
        "new",
        "InstructBrushLoadPairs",
        (0, 730),
        (300, 360),
        title="Pictures to edit",
        folder=f"{NEW.name} (example)",
    )
    graph.add(
        "caption",
        "InstructBrushCaptionInit",
        (350, 0),
        (330, 240),
        wired="pairs=pairs.PAIRS open_clip=clip.OPEN_CLIP",
        tokens=8,
    )
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS init_text=caption.init_text open_clip=clip.OPEN_CLIP"
    graph.add(
        "learn",
        "InstructBrushLearnText",
        (350, 300),
        (330, 840),
        wired=wires,
        preset="custom",
        steps=120,
        noise="fixed",
    )
    wires = "instruction=learn.INSTRUCTION clip=model.CLIP"
    graph.add("words", "InstructBrushAddWords", (730, 0), (320, 240), wired=wires, words="and add a frame")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before instruction=words.INSTRUCTION"
    graph.add("guider", "InstructBrushEditGuider", (730, 300), (320, 300), wired=wires)
    graph.add(
        "fixed", "InstructBrushFixedNoise", (730, 660), (320, 80), wired="instruction=learn.INSTRUCTION"
    )
    sampling(
        graph, (1100, -250), "guider.GUIDER", "guider.LATENT", noise="fixed.NOISE", sampler="fixed.SAMPLER"
    )
    graph.add(
        "result",
        "SaveImage",
        (1440, 0),
        (330, 330),
        title="Edited",
        wired="images=decode.IMAGE",
        filename_prefix=f"{EDIT}_clip",
    )
    graph.add("picture", "PreviewImage", (1440, 390), (330, 300), title="Before", wired="images=new.before")
    graph.note(
        "## An edit in the space of text\n\n**Learn Instruction (CLIP space)** learns what the text encoder would say if there were words for the edit "
        "(Visii). It begins with a caption of the pictures after it. **Add Words** writes your own words after the learned ones; **Fixed Noise** samples with "
        "the noise that was learned with, so the same picture always comes out the same.\n\nIt is plain CONDITIONING for any model with this text encoder.",
        (730, 800),
        (320, 340),
    )
    return graph


def algebra() -> Graph:
    """Two instructions, blended and composed."""
    graph = Graph("mix_two_instructions", ("picture", "blended", "composed"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add(
        "new",
        "InstructBrushLoadPairs",
        (0, 170),
        (300, 360),
        title="Pictures to edit",
        folder=f"{NEW.name} (example)",
    )
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
    sampling(graph, (1420, 0), "guider_blend.GUIDER", "guider_blend.LATENT", suffix="_blend")
    sampling(graph, (1760, 0), "guider_compose.GUIDER", "guider_compose.LATENT", suffix="_compose")
    graph.add(
        "blended",
        "SaveImage",
        (1420, 710),
        (330, 330),
        title="Blended",
        wired="images=decode_blend.IMAGE",
        filename_prefix="blended",
    )
    graph.add(
        "composed",
        "SaveImage",
        (1760, 710),
        (330, 330),
        title="Composed",
        wired="images=decode_compose.IMAGE",
        filename_prefix="composed",
    )
    graph.add("picture", "PreviewImage", (1050, 720), (320, 300), title="Before", wired="images=new.before")
    graph.note(
        "## Two instructions at once\n\n**Blend** adds what both would change, by weights; **Scale** makes one stronger, weaker, or turns it round. "
        "**Compose** puts their learned rows side by side, like two phrases of one sentence. What comes out is an instruction again: apply it, save it in one "
        "file, or mix it further.",
        (350, 600),
        (650, 200),
    )
    return graph


def found_region() -> Graph:
    """Words find a region, and a learned instruction acts there alone."""
    graph = Graph("edit_only_what_words_find", ("picture", "found", "result"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add("finder", "InstructBrushLoadRegionFinder", (0, 170), (300, 110))
    graph.add("instruction", "InstructBrushLoad", (0, 340), (300, 240), name=f"{SECOND}.safetensors")
    graph.add(
        "new",
        "InstructBrushLoadPairs",
        (0, 640),
        (300, 360),
        title="Pictures to edit",
        folder=f"{NEW.name} (example)",
    )
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
    wires = "model=region.MODEL clip=model.CLIP vae=model.VAE image=new.before instruction=instruction.INSTRUCTION"
    graph.add("guider", "InstructBrushEditGuider", (740, 290), (300, 330), wired=wires)
    sampling(graph, (1090, 0), "guider.GUIDER", "region.LATENT")
    graph.add(
        "paste",
        "InstructBrushPasteBack",
        (1090, 710),
        (290, 110),
        wired="edited=decode.IMAGE original=new.before mask=soft.MASK",
    )
    graph.add(
        "result",
        "SaveImage",
        (1430, 0),
        (330, 330),
        title="Edited there alone",
        wired="images=paste.IMAGE",
        filename_prefix="only_there",
    )
    graph.add("picture", "PreviewImage", (1430, 390), (330, 300), title="Before", wired="images=new.before")
    graph.add("shown", "MaskToImage", (1430, 750), (330, 30), wired="mask=soft.MASK")
    graph.add("found", "PreviewImage", (1430, 830), (330, 300), title="Where", wired="images=shown.IMAGE")
    graph.note(
        "## An edit only there\n\n**Find Region** looks for what the words name, **Clean Region** refuses masks that cannot be meant and widens the rest, "
        "**Soft Region** lets the edit fade out towards the box. **Region Edit** keeps the picture outside while sampling, and **Paste Back** gives it its own "
        "pixels again.\n\nThe pocket finder knows shapes, hats, sky and ground. For photographs put Grounding DINO and SAM, or CLIPSeg, into `models/` and "
        "choose them in **Load Region Finder**. Any other mask serves as well: painted, from a segmenter, from other packs.",
        (740, 690),
        (300, 370),
    )
    return graph


def mask_model() -> Graph:
    """A model that reads the mask itself."""
    graph = Graph("edit_by_words_with_a_mask_model", ("picture", "where", "result"))
    graph.add(
        "model", "InstructBrushLoadModel", (0, 0), (300, 110), model_name="pocket region editor (built in)"
    )
    graph.add(
        "new",
        "InstructBrushLoadPairs",
        (0, 170),
        (300, 360),
        title="Pictures to edit",
        folder=f"{NEW.name} (example)",
    )
    graph.add("black", "SolidMask", (0, 590), (300, 110), title="Nothing", value=0.0, width=128, height=128)
    graph.add("white", "SolidMask", (0, 760), (300, 110), title="A box", value=1.0, width=76, height=96)
    graph.add(
        "mask",
        "MaskComposite",
        (350, 590),
        (300, 130),
        title="Where",
        wired="destination=black.MASK source=white.MASK",
        x=2,
        y=24,
        operation="add",
    )
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before mask=mask.MASK"
    graph.add("guider", "InstructBrushEditGuider", (350, 0), (300, 370), wired=wires, words="make it orange")
    sampling(graph, (700, 0), "guider.GUIDER", "guider.LATENT")
    graph.add(
        "paste",
        "InstructBrushPasteBack",
        (700, 710),
        (290, 110),
        wired="edited=decode.IMAGE original=new.before mask=mask.MASK",
    )
    graph.add(
        "result",
        "SaveImage",
        (1040, 0),
        (330, 330),
        title="Edited",
        wired="images=paste.IMAGE",
        filename_prefix="mask_model",
    )
    graph.add("picture", "PreviewImage", (1040, 390), (330, 300), title="Before", wired="images=new.before")
    graph.add("both", "RepeatImageBatch", (350, 780), (300, 60), wired="image=shown.IMAGE", amount=2)
    graph.add("shown", "MaskToImage", (350, 900), (300, 30), wired="mask=mask.MASK")
    graph.add("where", "PreviewImage", (1040, 750), (330, 300), title="Where", wired="images=both.IMAGE")
    graph.note(
        "## A model that reads the mask\n\nModels like UltraEdit's see the mask beside the picture and were taught to edit there. The **pocket region editor** "
        "is a small one; connect the mask to **Edit Guider**, or to **Region Conditioning** among stock nodes.\n\nThe mask here is a box made of two nodes. "
        "Paint one instead: **Load Image**, right click, *Open in MaskEditor*. Without a mask the model edits everywhere; **Region Edit** keeps the outside.",
        (350, 990),
        (640, 200),
    )
    return graph


def explained_wish() -> Graph:
    """A wish, what it means for each image, and the edit by those words."""
    graph = Graph("explain_a_wish_then_edit", ("picture", "result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110), model_name="pocket editor (built in)")
    graph.add("reader", "InstructBrushLoadMllm", (0, 170), (300, 110), mllm_name="pocket reader (built in)")
    graph.add(
        "pictures",
        "InstructBrushLoadPairs",
        (0, 340),
        (300, 360),
        title="Pictures, and what is wished for",
        folder=f"{WISHED.name} (example)",
    )
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
        title="What it means here",
        wired="source=explain.instruction",
    )
    graph.add("why", "PreviewAny", (350, 580), (360, 160), title="Why", wired="source=explain.reason")
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=pictures.before words=explain.instruction"
    graph.add("guider", "InstructBrushEditGuider", (760, 0), (320, 360), wired=wires)
    sampling(graph, (1130, 0), "guider.GUIDER", "guider.LATENT")
    graph.add(
        "result",
        "SaveImage",
        (1470, 0),
        (330, 330),
        title="Edited",
        wired="images=decode.IMAGE",
        filename_prefix="explained_wish",
    )
    graph.add(
        "picture", "PreviewImage", (1470, 390), (330, 300), title="Before", wired="images=pictures.before"
    )
    graph.add(
        "truth",
        "PreviewImage",
        (1470, 750),
        (330, 300),
        title="As it is wished for",
        wired="images=pictures.after",
    )
    graph.note(
        "## A wish that names no edit\n\nWhat *hours passed* means depends on the picture. **Explain Instruction** asks a vision-language model, which "
        "looks at it and says which edit fulfils the wish, and why; the **Edit Guider** then edits by these words. No model was trained for this: every "
        "editing model follows the result. **Load Edit Pairs** gives a list of pictures, so each gets words of its own.\n\nThe pocket reader knows the pocket "
        "editor's drawings alone. For photographs put LLaVA-1.5 or a Qwen2-VL into `models/mllm`, choose it in **Load MLLM**, choose an InstructPix2Pix "
        "checkpoint, and take your picture from **Load Image**.",
        (760, 430),
        (320, 420),
    )
    return graph


def encoded_wish() -> Graph:
    """The same words for two images, read together with each."""
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
    graph.add(
        "pictures",
        "InstructBrushLoadPairs",
        (0, 480),
        (300, 360),
        title="Pictures, and what is wished for",
        folder=f"{WISHED.name} (example)",
    )
    wires = "mllm=reader.MLLM connector=connector.CONNECTOR clip=model.CLIP image=pictures.before"
    graph.add("encode", "InstructBrushEncodeInstruction", (350, 0), (360, 240), wired=wires, words=WISH)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=pictures.before conditioning=encode.CONDITIONING"
    graph.add("guider", "InstructBrushEditGuider", (350, 300), (360, 380), wired=wires)
    sampling(graph, (760, 0), "guider.GUIDER", "guider.LATENT")
    graph.add(
        "result",
        "SaveImage",
        (1100, 0),
        (330, 330),
        title="Edited",
        wired="images=decode.IMAGE",
        filename_prefix="encoded_wish",
    )
    graph.add(
        "picture", "PreviewImage", (1100, 390), (330, 300), title="Before", wired="images=pictures.before"
    )
    graph.add(
        "truth",
        "PreviewImage",
        (1100, 750),
        (330, 300),
        title="As it is wished for",
        wired="images=pictures.after",
    )
    graph.note(
        "## Words that are read together with the picture\n\nThe same words ask for a sunset where the sun is up and for the night where it is not. "
        "**Encode Instruction** lets a vision-language model read words and picture, and a **connector** brings what it has read to an editing model that was "
        "tuned with it (ReasonPix2Pix). Each picture gets text states of its own; the second run finds them kept.\n\nModel, reader and connector "
        "belong together. `python -m instructbrush reason train` makes a connector and a tuned model for your own.",
        (350, 740),
        (700, 200),
    )
    return graph


def build(page: Page, graph: Graph) -> dict[str, Any]:
    """The workflow as the front end saves it. Node ids follow the order of `graph.nodes`."""
    for node in graph.nodes.values():
        if node["type"] == "MarkdownNote":
            node["widgets"] = {
                page.evaluate("() => LiteGraph.createNode('MarkdownNote').widgets[0].name"): next(
                    iter(node["widgets"].values())
                )
            }
    return page.evaluate(BUILD, {"nodes": graph.nodes, "links": graph.links})


def image(server: ComfyServer, page: Page, graph: Graph, workflow: dict[str, Any]) -> Image.Image:
    """Run the workflow; the first images of the nodes that show something, side by side, one row for each image."""
    prompt = page.evaluate(
        "async (workflow) => { await app.loadGraphData(workflow); return (await app.graphToPrompt()).output }",
        workflow,
    )
    result = server.run(prompt)
    ids = [str(list(graph.nodes).index(name) + 1) for name in graph.shown]
    columns = [
        [Image.open(io.BytesIO(server.view(image))).convert("RGB") for image in result.images(node)]
        for node in ids
    ]
    rows = list(zip(*columns, strict=True))
    sheet = Image.new("RGB", (PIXELS * len(ids), PIXELS * len(rows)))
    for y, row in enumerate(rows):
        for x, each in enumerate(row):
            sheet.paste(each.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), (x * PIXELS, y * PIXELS))
    return sheet


def main() -> None:
    """Write every workflow."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(Path(folder), arguments=["--cpu"]) as server,
        sync_playwright() as playwright,
    ):
        page = open_front_end(launch(playwright), server)
        for graph in (
            learning(),
            chain(),
            phrases(),
            clip_space(),
            algebra(),
            found_region(),
            mask_model(),
            explained_wish(),
            encoded_wish(),
        ):
            workflow = build(page, graph)
            path = EXAMPLES / f"{graph.title}.json"
            path.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
            print(path)
            if "run" in sys.argv[1:]:
                image(server, page, graph, workflow).save(path.with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
