"""Graph parts that the tests of the reasoning nodes share."""

from typing import Any

import torch

from instructbrush.tests.comfy.graphs import Parts

MLLM = "mllm/tiny"
CONNECTOR = "tiny.safetensors"
WISH = "it should look as if hours had passed"
ANSWER = '{"instruction": "make it night", "reason": "hours pass"}'


def make_connector(comfy: Any, mllm_folder: Any, trained: bool = True, **changes: Any) -> Any:
    """A connector between an MLLM and the pocket editor. ``changes`` are fields of its config."""
    connectors = comfy.pack("core.reasoning.connector")
    mllm = comfy.pack("core.encoders.mllm").Mllm(mllm_folder)
    editor = comfy.pack("core.editing.loading").load_editor()
    fields = {
        "mllm_name": mllm.name,
        "mllm_fingerprint": mllm.fingerprint,
        "text_fingerprint": connectors.text_fingerprint(editor.text_encoder.state_dict()),
        **changes,
    }
    config = connectors.config_for(editor.description.family, mllm.width, **fields)
    connector = connectors.new_connector(config).eval().requires_grad_(False)
    if trained:
        connector.project_out.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(4))
    return connector


def load_mllm(graph: Any, name: str = MLLM, precision: str = "auto") -> Any:
    return graph.node("InstructBrushLoadMllm", mllm_name=name, precision=precision).out(0)


def load_connector(graph: Any, name: str = CONNECTOR) -> Any:
    return graph.node("InstructBrushLoadConnector", connector_name=name).out(0)


def explain(comfy: Any, graph: Any, image: torch.Tensor, wish: str = WISH, **changes: Any) -> Any:
    """Explain Instruction; the node."""
    image = comfy.give(graph, image)
    return graph.node("InstructBrushExplain", mllm=load_mllm(graph), image=image, wish=wish, **changes)


def encode(
    comfy: Any,
    graph: Any,
    parts: Parts,
    image: torch.Tensor,
    words: str = WISH,
    mllm: Any = None,
    connector: Any = None,
) -> Any:
    """Encode Instruction; its CONDITIONING."""
    return graph.node(
        "InstructBrushEncodeInstruction",
        mllm=mllm or load_mllm(graph),
        connector=connector or load_connector(graph),
        clip=parts.clip,
        image=comfy.give(graph, image),
        words=words,
    ).out(0)


def clip_encode(graph: Any, parts: Parts, words: str) -> Any:
    """Stock CLIP Text Encode; its CONDITIONING."""
    return graph.node("CLIPTextEncode", clip=parts.clip, text=words).out(0)
