"""The graph that Edit by Steps expands to: a chain of the pack's and ComfyUI's own nodes, one part a step.

Every input is a link, so ComfyUI's cache knows it. A step whose edit and input image stay the same is not
computed again, for example when the number of steps changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_execution.graph_utils import GraphBuilder, is_link
from comfy_execution.utils import get_executing_context

from ...core.reasoning.edit_lists import Edit

Link = list[Any]


@dataclass(frozen=True)
class StepSettings:
    """How the steps are made."""

    text_scale: float
    image_scale: float
    in_regions: bool
    """Whether a finder is connected, so that each step edits in the region of its objects."""
    reads_mask: bool
    """Whether the model reads the region's mask."""
    grow: int
    """Pixels by which a region grows."""


@dataclass(frozen=True)
class StepGraph:
    """An expansion, and the links to its results."""

    nodes: dict[str, Any]
    edited: Link
    steps: Link
    report: Link | str


def step_graph(
    inputs: Mapping[str, Any], edits: Sequence[Edit], settings: StepSettings, report: str
) -> StepGraph:
    """Builds the graph.

    Must be called while the node runs, because ComfyUI then knows which item of a list runs.

    Args:
        inputs: the node's inputs as the prompt has them: links or values.
        edits: one or more edits, in order.
        settings: see ``StepSettings``.
        report: the beginning of the report.
    """
    return _Chain(inputs, settings).build(edits, report)


def runs_in_expansion(hidden: Any) -> bool:
    """Whether a node runs inside of another one, so that its text would be shown below the outer node.

    Args:
        hidden: the node's hidden inputs, with ``unique_id`` and ``dynprompt``.
    """
    return hidden.dynprompt.get_display_node_id(hidden.unique_id) != hidden.unique_id


class _Chain:
    def __init__(self, inputs: Mapping[str, Any], settings: StepSettings) -> None:
        self._graph = GraphBuilder()
        context = get_executing_context()
        self._index = (context.list_index if context is not None else None) or 0
        self._inputs = {name: self._picked(value) for name, value in inputs.items()}
        self._settings = settings

    def build(self, edits: Sequence[Edit], report: str) -> StepGraph:
        images: list[Link] = []
        image: Any = self._inputs["image"]
        written: Link | str = report
        for number, edit in enumerate(edits, 1):
            image, found = self._step(image, edit)
            images.append(image)
            if found is not None:
                written = self._joined(self._joined(written, f"Step {number}: {edit}"), found)
        batch = {f"images.image{place}": each for place, each in enumerate(images)}
        steps = self._graph.node("BatchImagesNode", **batch).out(0)
        return StepGraph(self._graph.finalize(), images[-1], steps, written)

    def _picked(self, value: Any) -> Any:
        # A link may hold a list; ComfyUI runs this node once for each item.
        if not is_link(value):
            return value
        return self._graph.node("InstructBrushPickFromList", items=value, index=self._index).out(0)

    def _joined(self, first: Link | str, second: Link | str) -> Link:
        return self._graph.node("StringConcatenate", string_a=first, string_b=second, delimiter="\n").out(0)

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: self._inputs[name] for name in names if name in self._inputs}

    def _step(self, image: Link, edit: Edit) -> tuple[Link, Link | None]:
        """Adds one edit. Returns the edited image, and what was found about its region."""
        given = self._given("model", "clip", "vae")
        mask = found = latent = None
        if self._settings.in_regions:
            mask, found = self._region(image, edit)
            encoded = self._graph.node("VAEEncode", pixels=image, vae=given["vae"]).out(0)
            region = self._graph.node(
                "InstructBrushRegionEdit", model=given["model"], latent=encoded, mask=mask, blend_every=2
            )
            given["model"], latent = region.out(0), region.out(1)
            if self._settings.reads_mask:
                given["mask"] = mask
        guider = self._graph.node(
            "InstructBrushEditGuider",
            image=image,
            words=edit.instruction,
            text_scale=self._settings.text_scale,
            image_scale=self._settings.image_scale,
            strength=1.0,
            **given,
        )
        sampled = self._graph.node(
            "SamplerCustomAdvanced",
            guider=guider.out(0),
            latent_image=latent or guider.out(1),
            **self._given("noise", "sampler", "sigmas"),
        ).out(0)
        edited = self._graph.node("VAEDecode", samples=sampled, vae=self._inputs["vae"]).out(0)
        if mask is not None:
            edited = self._graph.node(
                "InstructBrushPasteBack", edited=edited, original=image, mask=mask, feather=0
            ).out(0)
        return edited, found

    def _region(self, image: Link, edit: Edit) -> tuple[Link, Link]:
        node = self._graph.node(
            "InstructBrushFindEditedObject",
            image=image,
            instruction=edit.instruction,
            objects=edit.region,
            when_missing="whole image",
            **self._given("finder", "mllm"),
        )
        mask = node.out(0)
        if self._settings.grow:
            mask = self._graph.node(
                "GrowMask", mask=mask, expand=self._settings.grow, tapered_corners=True
            ).out(0)
        return mask, node.out(2)
