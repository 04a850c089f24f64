"""Example workflows for wishes that a vision-language model reads."""

from __future__ import annotations

from instructbrush.tools.examples.make_examples import CHANGED, TWO_WISHES, WISH, WISHED
from instructbrush.tools.examples.workflows.graph import FILL, Graph

MODEL = "model=model.MODEL clip=model.CLIP vae=model.VAE image=new.before"


def explained_wish() -> Graph:
    """Explains a wish for each image and edits by the explanation."""
    graph = Graph("17 Explain a wish, then edit")
    _show(graph, WISHED)
    graph.add("edit", "Explain and Edit", wired=MODEL, wish=WISH)
    graph.add("words", "PreviewAny", height=150, title="Words for each image", wired="source=edit.words")
    graph.add("why", "PreviewAny", height=150, title="Reason", wired="source=edit.reason")
    _compare(graph, "explained_wish")
    graph.note(
        "What hours passed means depends on the image. A vision-language model says which edit fulfils the "
        "wish. The pocket reader knows only drawings; for photos choose LLaVA or Qwen2-VL."
    )
    return graph


def several_edits() -> Graph:
    """Explains two wishes as a list of edits and makes them one after the other, each in its region."""
    graph = Graph("18 Explain a wish, then edit step by step")
    _show(graph, CHANGED)
    graph.add("edit", "Explain and Edit by Steps", wired=MODEL, wish=TWO_WISHES)
    graph.add("report", "PreviewAny", height=150, title="What was done", wired="source=edit.report")
    graph.preview("each", "After each edit", "edit.after_each", FILL)
    _compare(graph, "edited_by_steps")
    graph.note(
        "The wish becomes a list of edits. They are made one after the other, each on the result of the one "
        "before and only on the object that it names."
    )
    return graph


def edited_object() -> Graph:
    """Finds the object that an explained wish edits, and edits only there."""
    graph = Graph("19 Explain a wish, then edit what it names")
    _show(graph, CHANGED)
    graph.add("edit", "Edit What the Wish Names", wired=MODEL, wish=TWO_WISHES.split(",")[0])
    graph.add("report", "PreviewAny", height=150, title="What was found", wired="source=edit.report")
    graph.add("region", "MaskPreview", height=FILL, title="Region", wired="mask=edit.region")
    _compare(graph, "edited_object")
    graph.note(
        "**Find Edited Object** asks which objects the explained edit changes, and finds them (UltraEdit). "
        "All else keeps its pixels."
    )
    return graph


def encoded_wish() -> Graph:
    """Encodes the same words together with each of two images."""
    graph = Graph("20 Let a model read words and image together")
    _show(graph, WISHED, "pocket reasoning editor (built in)")
    graph.add("edit", "Read Words with the Image and Edit", wired=MODEL, words=WISH)
    _compare(graph, "encoded_wish")
    graph.note(
        "The same words ask for a sunset where the sun is up, and for the night where it is not. A connector "
        "passes what the reader sees to an editor that was fine-tuned with it (ReasonPix2Pix)."
    )
    return graph


def _show(graph: Graph, folder: object, model: str = "pocket editor (built in)") -> None:
    graph.column("Show")
    graph.model(model)
    graph.pairs("new", "Images, and what is wished", folder)  # pyright: ignore[reportArgumentType]
    graph.column("Use", 340)


def _compare(graph: Graph, prefix: str) -> None:
    graph.column("Compare", 340)
    graph.compare("new.before", "edit.edited")
    graph.save("result", "Edited", "edit.edited", prefix)
