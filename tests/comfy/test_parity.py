"""Parity: where an instruction has nothing to say the graph is the stock graph to the bit, and the two engines compute the same."""

import torch

from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, instruction, picture, sampled


def latent_of(comfy, graph, link):
    return comfy.values(graph, link)[0]["samples"]


def stock(comfy, **changes):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, picture()))
    return latent_of(comfy, graph, sampled(graph, parts.model, positive, negative, latent, **changes))


def with_instruction(comfy, learned, wire_model=True, **changes):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, picture()))
    model, marked = applied(graph, comfy, parts.model, positive, learned, **changes)
    return latent_of(comfy, graph, sampled(graph, model if wire_model else parts.model, marked, negative, latent))


def test_parity_strength_zero_is_the_stock_graph(comfy):
    assert torch.equal(with_instruction(comfy, instruction(comfy), strength=0.0), stock(comfy))


def test_parity_an_empty_timestep_range_is_the_stock_graph(comfy):
    assert torch.equal(with_instruction(comfy, instruction(comfy), end_timestep=1000), stock(comfy))


def test_parity_a_model_that_attends_but_carries_no_instruction_is_the_stock_model(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, picture()))
    model, _ = applied(graph, comfy, parts.model, positive, instruction(comfy))
    assert torch.equal(latent_of(comfy, graph, sampled(graph, model, positive, negative, latent)), stock(comfy))


def test_an_instruction_changes_the_result(comfy):
    assert not torch.allclose(with_instruction(comfy, instruction(comfy)), stock(comfy), atol=1e-3)
