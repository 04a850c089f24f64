"""Describes example workflows and blueprints, of which make_workflows.py makes files in the front end."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructbrush.tools.examples.make_examples import INSTRUCTIONS

EDIT, SECOND = INSTRUCTIONS
FILL = -1
WIDTH = 300
NARROW = 250
"""Width of the columns of a workflow that has five."""


@dataclass
class Graph:
    """A workflow before the front end builds it.

    title: file name without suffix, which ComfyUI shows.
    shown: (node, its input or output with images) of each column of the workflow's preview image.
    nodes: name in this graph -> type, size, title and widgets. Node ids follow the order. A type is a node or
        the title of a blueprint.
    links: (from node, output, to node, input).
    columns: title of the group, width and names of the nodes of each column, from left to right.
    inputs, outputs: (node, widget, label; "" keeps the widget's) and nodes that the workflow shows as a page
        (ComfyUI's App Mode). Without them it opens as a graph.
    runs: False if it needs a model that the pack does not bring.
    """

    title: str
    shown: tuple[tuple[str, str], ...] = (("compare", "image_a"), ("compare", "image_b"))
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    runs: bool = True

    @property
    def ids(self) -> dict[str, int]:
        """Name -> id that the front end gives the node."""
        return {name: number for number, name in enumerate(self.nodes, 1)}

    @property
    def extra(self) -> dict[str, Any]:
        """The entries that make the workflow a page."""
        if not self.outputs:
            return {}
        inputs = [[self.ids[node], widget] for node, widget, _ in self.inputs]
        return {
            "linearMode": True,
            "linearData": {"inputs": inputs, "outputs": [self.ids[node] for node in self.outputs]},
        }

    def column(self, title: str = "", width: int = WIDTH) -> None:
        """Starts a column: the nodes that are added next stand below each other in it.

        Groups are numbered in their order. Without a title the column goes on with the group before.
        """
        titles = [column["title"] for column in self.columns]
        if title:
            title = f"{len(dict.fromkeys(titles)) + 1} {title}"
        elif titles:
            title = titles[-1]
        self.columns.append({"title": title, "width": width, "nodes": []})

    def add(
        self,
        name: str,
        kind: str,
        /,
        *,
        height: int = 0,
        title: str = "",
        wired: str = "",
        collapsed: bool = False,
        properties: dict[str, Any] | None = None,
        **widgets: Any,
    ) -> None:
        """Adds a node to the last column. `wired` lists its links as "input=node.output input=node.output".

        A node with the height FILL takes the space that its column has left.
        """
        self.nodes[name] = {
            "type": kind,
            "height": height,
            "title": title,
            "collapsed": collapsed,
            "properties": properties or {},
            "widgets": widgets,
        }
        self.columns[-1]["nodes"].append(name)
        for wire in wired.split():
            target, _, source = wire.partition("=")
            node, _, output = source.partition(".")
            self.links.append((node, output, name, target))

    def model(self, name: str = "pocket editor (built in)") -> None:
        """Adds Load InstructPix2Pix as "model"."""
        self.add("model", "InstructBrushLoadModel", model_name=name)

    def pairs(self, name: str, title: str, folder: Path, *, wired: str = "") -> None:
        """Adds Load Edit Pairs with one of the pack's example folders."""
        example = f"{folder.name} (example)"
        self.add(name, "InstructBrushLoadPairs", title=title, wired=wired, folder=example)

    def photo(self, title: str, image: str) -> None:
        """Adds Load Image, and its scaling to the model's size, whose output is "sized.IMAGE"."""
        self.add("photo", "LoadImage", height=300, title=title, image=image)
        self.add(
            "sized",
            "ImageScaleToTotalPixels",
            title="To the model's size",
            collapsed=True,
            wired="image=photo.IMAGE megapixels=model.megapixels",
            upscale_method="area",
        )

    def load(self, name: str, instruction: str, title: str = "") -> None:
        """Adds Load Instruction."""
        self.add(name, "InstructBrushLoad", title=title, name=f"{instruction}.safetensors")

    def edit(self, name: str, image: str, instruction: str, *, title: str = "", **widgets: Any) -> None:
        """Adds the blueprint that edits an image by an instruction. The edited image is its "edited"."""
        wires = f"model=model.MODEL clip=model.CLIP vae=model.VAE image={image} instruction={instruction}"
        self.add(name, "Edit Image by Instruction", title=title, wired=wires, **widgets)

    def save(self, name: str, title: str, source: str, prefix: str, height: int = 290) -> None:
        """Adds Save Image for the output `source`, written as "node.output"."""
        self.add(
            name,
            "SaveImage",
            height=height,
            title=title,
            wired=f"images={source}",
            filename_prefix=prefix,
        )

    def preview(self, name: str, title: str, source: str, height: int = 200) -> None:
        """Adds Preview Image for the output `source`, written as "node.output"."""
        self.add(name, "PreviewImage", height=height, title=title, wired=f"images={source}")

    def compare(self, first: str, second: str, title: str = "Compare: drag the line") -> None:
        """Adds core's Compare Images, which fills its column."""
        wires = f"image_a={first} image_b={second}"
        self.add("compare", "ImageCompare", height=FILL, title=title, wired=wires)

    def note(self, text: str, *, height: int = 90) -> None:
        """Adds a Markdown note above the first columns: two, or more if a group would be split."""
        titles = [column["title"] for column in self.columns]
        span = next(end for end in range(2, len(titles)) if titles[end] != titles[end - 1])
        self.nodes["note"] = {
            "type": "MarkdownNote",
            "height": height,
            "span": span,
            "title": self.title.split(" ", 1)[1].removesuffix(".app"),
            "collapsed": False,
            "properties": {},
            "widgets": {"": f"#### {text}"},
        }
        self.columns[0]["nodes"].insert(0, "note")


@dataclass
class Blueprint(Graph):
    """A subgraph that people find in the node library, and that the workflows consist of.

    number: number of the blueprint; its node ids start at 100 times this number, so that those of two
        blueprints never meet in a workflow.
    takes: (name, label, inputs of its nodes): inputs of the subgraph. A widget among them becomes a widget.
    sampling: such inputs of noise and scheduler, which come last.
    gives: (name, label, output of a node).
    public: False if only example workflows use it.
    """

    number: int = 0
    description: str = ""
    aliases: tuple[str, ...] = ()
    takes: list[tuple[str, ...]] = field(default_factory=list)
    sampling: list[tuple[str, ...]] = field(default_factory=list)
    gives: list[tuple[str, str, str]] = field(default_factory=list)
    public: bool = True

    @property
    def described(self) -> dict[str, Any]:
        """What build_graphs.js needs."""
        return {
            "title": self.title,
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"instructbrush/{self.title}")),
            "first": 100 * self.number + 1,
            "nodes": self.nodes,
            "links": self.links,
            "columns": self.columns,
            "takes": self.takes + self.sampling,
            "gives": self.gives,
            "category": "InstructBrush",
            "description": self.description,
            "aliases": list(self.aliases),
        }

    def take(self, name: str, label: str, *targets: str) -> None:
        """Adds an input, connected to inputs ("node.input") of its nodes."""
        self.takes.append((name, label, *targets))

    def give(self, name: str, label: str, source: str) -> None:
        """Adds an output: the output `source` ("node.output") of one of its nodes."""
        self.gives.append((name, label, source))

    def take_model(self, model: str, clip: str, vae: str) -> None:
        """Adds the inputs of a model for nodes (names separated by spaces), the scheduler and the decoder."""
        linked = {(node, name) for _, _, node, name in self.links}
        for name, nodes in (("model", f"{model} steps"), ("clip", clip), ("vae", f"{vae} decode")):
            users = [node for node in nodes.split() if node in self.nodes and (node, name) not in linked]
            self.take(name, name, *(f"{node}.{name}" for node in users))

    def noise(self) -> None:
        """Adds noise and sampler, and the seed as an input."""
        self.add("noise", "RandomNoise", noise_seed=1, control_after_generate="fixed")
        self.add("sampler", "KSamplerSelect", sampler_name="euler_ancestral")
        self.sampling.append(("seed", "Seed", "noise.noise_seed"))

    def scheduler(self) -> None:
        """Adds the scheduler, and the number of steps as an input. Its "model" is left to connect."""
        self.add("steps", "BasicScheduler", scheduler="normal", steps=20)
        self.sampling.append(("steps", "Sampling steps", "steps.steps"))

    def sample(self, guider: str, latent: str, *, noise: str = "", sampler: str = "") -> None:
        """Adds noise, sampler, scheduler, sampling and decoding; the image is at "decode.IMAGE".

        With `noise` and `sampler` these outputs are used instead. An empty `guider` or `latent` and
        "decode.vae" are left to connect.
        """
        self.column()
        if not noise:
            noise, sampler = "noise.NOISE", "sampler.SAMPLER"
            self.noise()
        self.scheduler()
        self.column()
        wires = [f"noise={noise}", f"sampler={sampler}", "sigmas=steps.SIGMAS"]
        wires[1:1] = [f"guider={guider}"] if guider else []
        wires += [f"latent_image={latent}"] if latent else []
        self.add("sample", "SamplerCustomAdvanced", wired=" ".join(wires))
        self.add("decode", "VAEDecode", wired="samples=sample.output")
