"""Example workflows that compare settings and results."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW
from instructbrush.tools.examples.workflows.graph import EDIT, Graph


def sweep() -> Graph:
    """Applies an instruction down to several timesteps T and draws a contact sheet."""
    graph = Graph("sweep_when_the_instruction_acts", ("result",))
    graph.add("model", "InstructBrushLoadModel", (0, 0), (300, 110))
    graph.add("instruction", "InstructBrushLoad", (0, 170), (300, 240), name=f"{EDIT}.safetensors")
    graph.pairs("new", (0, 470), "Images to edit", NEW)
    graph.add("batch", "RebatchImages", (0, 890), (300, 60), wired="images=new.before", batch_size=2)
    graph.add("values", "InstructBrushSweepValues", (350, 0), (320, 130), values="1000:0:-200", name="T")
    graph.add(
        "words",
        "CLIPTextEncode",
        (350, 190),
        (320, 110),
        title="Words below T (empty: no edit)",
        wired="clip=model.CLIP",
        text="",
    )
    wires = (
        "model=model.MODEL conditioning=words.CONDITIONING instruction=instruction.INSTRUCTION "
        "end_timestep=values.whole"
    )
    graph.add("apply", "InstructBrushApply", (350, 360), (320, 190), wired=wires)
    wires = (
        "model=apply.MODEL clip=model.CLIP vae=model.VAE image=batch.IMAGE conditioning=apply.CONDITIONING"
    )
    graph.add("guider", "InstructBrushEditGuider", (720, 0), (320, 330), wired=wires)
    graph.sampling((1090, 0), "guider.GUIDER", "guider.LATENT")
    wires = "images=decode.IMAGE labels=values.labels source=batch.IMAGE"
    graph.add("sheet", "InstructBrushContactSheet", (1430, 0), (620, 330), wired=wires, title=EDIT)
    graph.save("result", (1430, 400), "Contact sheet", "sheet.sheet", f"{EDIT}_sweep")
    graph.note(
        "## When the instruction acts\n\n**Sweep Values** gives a list, and the nodes behind it run once for "
        "each value. Here the value is *end_timestep* of **Apply Instruction**: the instruction acts from "
        "timestep 1000 (pure noise) down to T, and no words act below. At T = 1000 there is no edit, at "
        "T = 0 the edit is complete. Colors and layout come first, fine detail comes last (InstructBrush, "
        "Fig. 3).\n\nFor another setting connect *values* to another input, such as *strength*, and change "
        "the range and the name. `python -m instructbrush sweep` does the same for a folder.",
        (720, 400),
        (320, 400),
    )
    return graph
