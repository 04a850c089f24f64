"""Example workflows that measure and judge results."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import NEW
from instructbrush.tools.examples.workflows.graph import EDIT, FILL, SECOND, Graph


def measured() -> Graph:
    """Compares an edit with the true results."""
    graph = Graph("21 Measure an edit against the truth")
    graph.column("Show")
    graph.model()
    graph.pairs("new", "New images, and the true results", NEW)
    graph.column("Use")
    graph.load("instruction", EDIT)
    graph.edit("edit", "new.before", "instruction.INSTRUCTION")
    graph.column("Compare")
    graph.add("clip", "InstructBrushLoadOpenClip")
    wires = "edited=edit.edited truth=new.after before=new.before open_clip=clip.OPEN_CLIP"
    graph.add("evaluate", "InstructBrushEvaluate", height=FILL, wired=wires)
    graph.column("")
    graph.compare("edit.edited", "new.after", "Edited and true result")
    graph.save("result", "Edited", "edit.edited", f"{EDIT}_measured")
    graph.note(
        "Images with a known result show how good an edit is: PSNR, SSIM and LPIPS, and whether it goes in "
        "the same direction in CLIP. Use pairs that nothing was learned from. Needs torchmetrics and lpips: "
        "see README, Install."
    )
    return graph


def judged() -> Graph:
    """Shows two edits without their names and asks which is better."""
    graph = Graph("22 Judge two edits without names", (("judge", "first"), ("judge", "second")))
    graph.column("Show")
    graph.model()
    graph.pairs("new", "Images to edit", NEW)
    graph.column("Use")
    graph.load("light", EDIT, "First instruction")
    graph.load("color", SECOND, "Second instruction")
    graph.column("")
    graph.add(
        "batch",
        "RebatchImages",
        title="Both images at once",
        collapsed=True,
        wired="images=new.before",
        batch_size=2,
    )
    graph.edit("edit", "batch.IMAGE", "light.INSTRUCTION", title="Edit by the first")
    graph.edit("other", "batch.IMAGE", "color.INSTRUCTION", title="Edit by the second")
    graph.column("Compare", 380)
    wires = "first=edit.edited second=other.edited source=batch.IMAGE"
    graph.add("judge", "InstructBrushPreference", wired=wires, study="two instructions")
    graph.note(
        "Results stand side by side in random order, without names. Press 1 or 2 for the better one; the "
        "node rates the methods."
    )
    return graph
