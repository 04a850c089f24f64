"""Masks and graphs for the tests of the region nodes."""

import torch

from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, make_image, sampled

DEFAULTS = {
    "when_refused": "stop",
    "shape": "fine",
    "grow": 0,
    "feather": 0,
    "fill_holes": False,
    "drop_fragments": 0.0,
    "min_area": 0.01,
    "max_area": 0.9,
    "max_fragments": 500,
    "threshold": 0.5,
}


def square(left, top, right, bottom, side=64):
    mask = torch.zeros(1, side, side)
    mask[:, top:bottom, left:right] = 1
    return mask


def left_mask():
    return square(0, 0, 32, 64)


def close(first, second, tolerance=2e-5):
    return torch.allclose(first, second, atol=tolerance * second.abs().max().item())


def cleaning(comfy, mask, **changes):
    graph = comfy.graph()
    return graph, graph.node(
        "InstructBrushCleanRegion", mask=comfy.give(graph, mask), **{**DEFAULTS, **changes}
    )


def softened(comfy, fine, **inputs):
    graph = comfy.graph()
    links = {
        name: value if isinstance(value, str | float) else comfy.give(graph, value)
        for name, value in inputs.items()
    }
    return graph, graph.node("InstructBrushSoftRegion", mask=comfy.give(graph, fine), **{"s": 0.5, **links})


class Regions:
    """A graph that edits images, to which regions can be added."""

    def __init__(self, comfy, count=1):
        self.comfy = comfy
        self.graph = comfy.graph()
        parts = Parts(self.graph)
        self.model = parts.model
        self.words, self.negative, self.latent = conditioned(
            self.graph, parts, self.give(make_image(0, count))
        )

    def give(self, value):
        return self.comfy.give(self.graph, value)

    def branch(self, learned):
        self.model, conditioning = applied(self.graph, self.comfy, self.model, self.words, learned)
        return conditioning

    def combine(self, *pairs, **more):
        inputs = {}
        for number, (conditioning, mask) in enumerate(pairs, 1):
            inputs |= {
                f"conditioning_{number}": conditioning,
                f"mask_{number}": self.give(mask) if isinstance(mask, torch.Tensor) else mask,
            }
        return self.graph.node("InstructBrushCombineRegions", **inputs, **more)

    def sample(self, positive, steps=1):
        return self.comfy.values(
            self.graph, sampled(self.graph, self.model, positive, self.negative, self.latent, steps=steps)
        )[0]["samples"]
