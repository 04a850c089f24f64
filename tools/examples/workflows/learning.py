"""Example workflows that learn an instruction."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW, PAIRS
from instructbrush.tools.examples.retouched_pairs import RETOUCHED, TO_RETOUCH
from instructbrush.tools.examples.workflows.graph import EDIT, Graph


def learning() -> Graph:
    """Learns from pairs and edits new images."""
    graph = Graph("learn_from_pairs", ("result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.pairs("pairs", (0, 170), "Pairs to learn from", PAIRS)
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
    title = "New images and the true results"
    graph.pairs("new", (0, 590), title, NEW)
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
    wires = (
        "noise=noise.NOISE guider=guider.GUIDER sampler=sampler.SAMPLER sigmas=steps.SIGMAS "
        "latent_image=guider.LATENT"
    )
    graph.add("sample", "SamplerCustomAdvanced", (1120, 0), (280, 130), wired=wires)
    graph.add("decode", "VAEDecode", (1120, 190), (280, 60), wired="samples=sample.output vae=model.VAE")
    graph.save("result", (1120, 300), "Edited as learned", "decode.IMAGE", EDIT)
    graph.preview("truth", (1120, 690), (330, 300), "True results", "new.after")
    graph.note(
        "## Learn an edit from pairs\n\nFour pairs show an edit that is hard to describe in words: blue "
        "dusk on the left, warm light from the right. **Learn Instruction** learns it in one or two "
        "minutes on a CPU, and **Edit Guider** applies it to new images.\n\n**With your own images:** put "
        "a folder of pairs (`0_0.png` before, `0_1.png` after, …) into ComfyUI's `input` folder and choose "
        "it. For the image to edit use **Load Image**. The pocket editor works at 128 pixels, for first "
        "experiments. For photographs choose an InstructPix2Pix checkpoint and the preset *paper*.",
        (750, 780),
        (320, 330),
    )
    return graph


def phrases() -> Graph:
    """Finds an init text, learns from it, inspects the instruction and measures its edits."""
    graph = Graph("find_words_learn_and_measure", ("result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add("clip", "InstructBrushLoadOpenClip", (0, 170), (300, 80))
    graph.pairs("pairs", (0, 310), "Pairs to learn from", PAIRS)
    graph.pairs("new", (0, 730), "New images and the true results", NEW)
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
    graph.sampling((1250, 0), "guider.GUIDER", "guider.LATENT")
    graph.save("result", (1590, 0), "Edited as learned", "decode.IMAGE", f"{EDIT}_words")
    graph.preview("truth", (1590, 390), (330, 300), "True results", "new.after")
    wires = "edited=decode.IMAGE truth=new.after before=new.before open_clip=clip.OPEN_CLIP pairs=pairs.PAIRS"
    graph.add("evaluate", "InstructBrushEvaluate", (1590, 750), (330, 300), wired=wires)
    graph.note(
        "## Words, learning, measuring\n\n**Unique Phrases** looks for a phrase that fits the images "
        "before but not those after, and for a phrase that fits the images after but not those before. "
        "Learning starts from these words. If no phrase is unique enough, learning starts from an empty "
        "text, and the table says so.\n\n**Inspect Instruction** shows how much each layer and each "
        "segment of the noise schedule changed, and the nearest words. **Evaluate Edit** compares the "
        "edited images with the true results, and their direction with that of the training pairs.\n\nFor "
        "photographs choose ViT-L-14 or ViT-H-14 in **Load OpenCLIP**, and a full-size model.",
        (1250, 720),
        (290, 420),
    )
    return graph


def clip_space() -> Graph:
    """Learns in text space (Visii) from a caption, adds words and samples with the noise of learning."""
    graph = Graph("learn_in_clip_space_and_add_words", ("picture", "result"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add("clip", "InstructBrushLoadOpenClip", (0, 170), (300, 80))
    graph.pairs("pairs", (0, 310), "Pairs to learn from", PAIRS)
    graph.pairs("new", (0, 730), "Images to edit", NEW)
    graph.add(
        "caption",
        "InstructBrushCaptionInit",
        (350, 0),
        (330, 240),
        wired="pairs=pairs.PAIRS open_clip=clip.OPEN_CLIP",
        tokens=8,
    )
    wires = (
        "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS init_text=caption.init_text "
        "open_clip=clip.OPEN_CLIP"
    )
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
    graph.sampling(
        (1100, -250), "guider.GUIDER", "guider.LATENT", noise="fixed.NOISE", sampler="fixed.SAMPLER"
    )
    graph.save("result", (1440, 0), "Edited", "decode.IMAGE", f"{EDIT}_clip")
    graph.preview("picture", (1440, 390), (330, 300), "Before", "new.before")
    graph.note(
        "## An edit in text space\n\n**Learn Instruction (CLIP space)** learns text states: the "
        "output of the text encoder if there were words for the edit (Visii). It starts from a caption of "
        "the images after the edit. **Add Words to Instruction** adds your own words after the learned "
        "rows. **Fixed Noise** samples with the noise of learning, so the same image always gets the same "
        "edit.\n\nThe result is plain CONDITIONING for any model with this text encoder.",
        (730, 800),
        (320, 340),
    )
    return graph


def retouching() -> Graph:
    """Learns an expert's look from many photographs and applies it to a folder."""
    graph = Graph("retouch_photographs_like_an_expert", ("picture", "result", "truth"))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.pairs("pairs", (0, 170), "Photographs before and after the expert", RETOUCHED)
    graph.pairs("new", (0, 590), "Photographs to retouch", TO_RETOUCH)
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE pairs=pairs.PAIRS"
    graph.add(
        "learn",
        "InstructBrushLearn",
        (350, 0),
        (330, 880),
        wired=wires,
        init_text="make it warmer",
        preset="custom",
        steps=200,
    )
    graph.add(
        "save",
        "InstructBrushSave",
        (350, 950),
        (330, 330),
        wired="instruction=learn.INSTRUCTION",
        name="retouched",
    )
    wires = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before instruction=learn.INSTRUCTION"
    graph.add("guider", "InstructBrushEditGuider", (730, 0), (320, 330), wired=wires)
    graph.sampling((1100, 0), "guider.GUIDER", "guider.LATENT")
    graph.save("result", (1440, 0), "Retouched", "decode.IMAGE", "retouched")
    graph.preview("picture", (1440, 390), (330, 300), "Before", "new.before")
    graph.preview("truth", (1440, 750), (330, 300), "By the expert", "new.after")
    graph.note(
        "## Retouch like an expert\n\nThe pairs show photographs as the camera stores them and as an expert "
        "developed them: a tone that words do not describe. One instruction learns it from all pairs, and "
        "retouches the photographs of a folder one after the other. No pair shows the new photograph. "
        "The pocket editor smears the fine detail of photographs; a full-size model keeps it.\n\n"
        "**With your own photographs:** put pairs into a folder in ComfyUI's `input` folder, before as "
        "`0_0.tif` and after as `0_1.jpg`, and so on; 16 bits are fine. PPR10K (source and one expert) is "
        "such a set. Choose an InstructPix2Pix checkpoint, the preset *paper*, "
        "and ten pairs or more that one expert made. For a folder without pairs use **Load Image (from "
        "Folder)** as the image of **Edit Guider**, or `python -m instructbrush apply`.",
        (730, 390),
        (320, 540),
    )
    return graph
