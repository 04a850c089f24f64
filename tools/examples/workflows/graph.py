"""Describes an example workflow, from which make_workflows.py makes the file in the front end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructbrush.tools.examples.make_examples import INSTRUCTIONS

EDIT, SECOND = INSTRUCTIONS


@dataclass
class Graph:
    """A workflow before the front end builds it.

    title: file name without suffix.
    shown: names of the nodes whose images make up the workflow's preview, one column each.
    nodes: name in this graph -> type, place, size, title and widgets. Node ids follow the order.
    links: (from node, output, to node, input).
    inputs, outputs: (node, widget, label; "" keeps the widget's) and nodes that the workflow shows as a page
        (ComfyUI's App Mode). Without them it opens as a graph.
    """

    title: str
    shown: tuple[str, ...]
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

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
        """Adds a node. `wired` lists its links as "input=node.output input=node.output"."""
        self.nodes[name] = {"type": kind, "at": at, "size": size, "title": title, "widgets": widgets}
        for wire in wired.split():
            target, _, source = wire.partition("=")
            node, _, output = source.partition(".")
            self.links.append((node, output, name, target))

    def pairs(self, name: str, at: tuple[int, int], title: str, folder: Path) -> None:
        """Adds Load Edit Pairs with one of the pack's example folders."""
        choice = f"{folder.name} (example)"
        self.add(name, "InstructBrushLoadPairs", at, (300, 360), title=title, folder=choice)

    def save(self, name: str, at: tuple[int, int], title: str, source: str, prefix: str) -> None:
        """Adds Save Image for the output `source`, written as "node.output"."""
        wired = f"images={source}"
        self.add(name, "SaveImage", at, (330, 330), title=title, wired=wired, filename_prefix=prefix)

    def preview(self, name: str, at: tuple[int, int], size: tuple[int, int], title: str, source: str) -> None:
        """Adds Preview Image for the output `source`, written as "node.output"."""
        self.add(name, "PreviewImage", at, size, title=title, wired=f"images={source}")

    def note(self, text: str, at: tuple[int, int], size: tuple[int, int]) -> None:
        """Adds a Markdown note."""
        self.nodes[f"note {len(self.nodes)}"] = {
            "type": "MarkdownNote",
            "at": at,
            "size": size,
            "title": "",
            "widgets": {"": text},
        }

    def sampling(
        self,
        at: tuple[int, int],
        guider: str,
        latent: str,
        *,
        noise: str = "",
        sampler: str = "",
        suffix: str = "",
    ) -> None:
        """Adds noise, sampler, scheduler, sampling and VAE Decode, one below the other.

        The image is at ``decode{suffix}.IMAGE``. With `noise` and `sampler` these outputs are used instead.
        """
        x, y = at
        if not noise:
            noise = f"noise{suffix}.NOISE"
            sampler = f"sampler{suffix}.SAMPLER"
            self.add(
                f"noise{suffix}",
                "RandomNoise",
                (x, y),
                (290, 90),
                noise_seed=1,
                control_after_generate="fixed",
            )
            self.add(
                f"sampler{suffix}", "KSamplerSelect", (x, y + 140), (290, 60), sampler_name="euler_ancestral"
            )
        self.add(
            f"steps{suffix}",
            "BasicScheduler",
            (x, y + 250),
            (290, 110),
            wired="model=model.MODEL",
            scheduler="normal",
            steps=20,
        )
        sigmas = f"steps{suffix}.SIGMAS"
        wires = f"noise={noise} guider={guider} sampler={sampler} sigmas={sigmas} latent_image={latent}"
        self.add(f"sample{suffix}", "SamplerCustomAdvanced", (x, y + 410), (290, 130), wired=wires)
        wires = f"samples=sample{suffix}.output vae=model.VAE"
        self.add(f"decode{suffix}", "VAEDecode", (x, y + 590), (290, 60), wired=wires)
