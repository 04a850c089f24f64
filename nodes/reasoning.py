"""Nodes for instructions that need reasoning: a vision-language model (MLLM) reads words and image."""

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ..core.encoders.mllm import Mllm
from ..core.reasoning.connector import Connector
from ..core.reasoning.explain import MOST_TOKENS
from ..core.reasoning.explain_edits import MOST_EDITS, explain_edits
from ..core.storage.image_tensors import image_batch
from .comfy.encoders import mllms
from .comfy.encoders.progress import node_progress
from .comfy.encoders.residency import prepare
from .comfy.folders import paths
from .comfy.sampling import text_encoding
from .comfy.types import Clip
from .shared.node import Choice, FileFingerprints, NameChoice, Node, check_names
from .shared.socket_types import ConnectorSocket, MllmSocket

_MLLM_FILES = FileFingerprints(lambda name: paths.folder_state(mllms.folder_of(name)))
_CONNECTOR_FILES = FileFingerprints(lambda name: paths.file_state(mllms.connector_file(name)))


class LoadMllm(Node):
    """Loads a vision-language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = mllms.names()
        return io.Schema(
            node_id="InstructBrushLoadMllm",
            display_name="Load MLLM",
            category="InstructBrush/loading",
            description="Loads a vision-language model such as LLaVA-1.5 or Qwen2-VL, which reads an image "
            "together with words, from a folder in models/mllm or models/LLM. ComfyUI moves it to the "
            "device when it is needed, and frees its memory when the editor needs room.",
            search_aliases=[
                "llava",
                "qwen vl",
                "vision language model",
                "vlm",
                "multimodal",
                "reasonpix2pix",
                "pocket reader",
            ],
            inputs=[
                NameChoice(
                    "mllm_name",
                    options=names,
                    default=names[0],
                    tooltip="The built-in reader knows the pocket editor's drawings. For photographs, put "
                    "the folder of a transformers model into models/mllm: llava-hf/llava-1.5-7b-hf, a "
                    "Qwen2-VL or another. Key R refreshes the list.",
                ),
                Choice(
                    "precision",
                    options=list(mllms.PRECISIONS),
                    default="auto",
                    tooltip="Precision of the weights. auto: as stored; fp32 on the CPU, and for bf16 on "
                    "cards that lack it. 8 and 4 bit need a GPU and the package bitsandbytes; such a model "
                    "stays on the GPU until it is unloaded.",
                ),
            ],
            outputs=[
                MllmSocket.Output(
                    display_name="MLLM", tooltip="The model, for Explain Instruction and Encode Instruction."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, mllm_name: str | None = None) -> bool | str:
        return check_names(mllms.folder_of, mllm_name)

    @classmethod
    def fingerprint_inputs(cls, mllm_name: str | None = None, **_rest: Any) -> str:
        return _MLLM_FILES.fingerprint(mllm_name)

    @classmethod
    def execute(cls, mllm_name: str, precision: str) -> io.NodeOutput:
        _MLLM_FILES.record(mllm_name)
        return io.NodeOutput(mllms.load(mllm_name, precision))


class ExplainInstruction(Node):
    """Turns a wish into an explicit instruction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushExplain",
            display_name="Explain Instruction (MLLM)",
            category="InstructBrush/reasoning",
            description="Turns a wish that names no edit, such as 'she prefers a face mask to sunglasses', "
            "into an instruction for this image that every editing model follows. Needs no training. Uses "
            "the first image of a batch.",
            search_aliases=[
                "rewrite instruction",
                "implicit instruction",
                "reasoning edit",
                "llava prompt",
                "reasonpix2pix",
                "wish to instruction",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                MllmSocket.Input("mllm", tooltip="The model that looks at the image, from Load MLLM."),
                io.Image.Input(
                    "image",
                    tooltip="The image to edit. Only the first image of a batch is used. A list of images "
                    "gives a list of instructions.",
                ),
                io.String.Input(
                    "wish",
                    default="",
                    multiline=True,
                    placeholder="it should look as if hours had passed",
                    tooltip="The wish in your own words: what you would like.",
                ),
                io.Int.Input(
                    "max_tokens",
                    optional=True,
                    default=MOST_TOKENS,
                    min=8,
                    max=4096,
                    tooltip="Length limit of an answer, in tokens.",
                    advanced=True,
                ),
                io.Int.Input(
                    "max_edits",
                    optional=True,
                    default=1,
                    min=1,
                    max=MOST_EDITS,
                    tooltip="Largest number of edits that the wish may need. 1 asks for one edit. With more "
                    "the model lists them, and the pocket reader explains each clause of the wish: separate "
                    "clauses by ', and', ';' or a full stop.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="instruction",
                    tooltip="The edit in one line, for CLIP Text Encode, Edit Guider and others; several "
                    "edits are joined by 'and'. If the model gives no usable answer, this is your own text.",
                ),
                io.String.Output(
                    display_name="reason",
                    tooltip="The model's reason. Empty if your own text is used.",
                ),
                io.String.Output(
                    display_name="edits",
                    tooltip="One edit a line, for Edit by Steps, with the object that changes after a "
                    "vertical bar if the model names one.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        mllm: Mllm,
        image: torch.Tensor,
        wish: str,
        max_tokens: int = MOST_TOKENS,
        max_edits: int = 1,
    ) -> io.NodeOutput:
        frame = image_batch(image, "Image")[0, ..., :3]
        if wish.strip():
            prepare(mllm)
        progress = node_progress(cls.hidden.unique_id)
        found, own_words = explain_edits(mllm, frame, wish, max_edits, max_tokens, progress)
        instruction = " and ".join(edit.instruction for edit in found.edits)
        for remark in found.remarks:
            logging.warning("InstructBrush: %s", remark)
        remarks = " ".join(found.remarks)
        comments = [found.reason, f"Warning: {remarks}" if own_words else remarks]
        shown = [found.text if max_edits > 1 else instruction, *(text for text in comments if text)]
        return io.NodeOutput(instruction, found.reason, found.text, ui={"text": ["\n\n".join(shown)]})


class LoadConnector(Node):
    """Loads a connector between an MLLM and an editor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = mllms.connector_names()
        return io.Schema(
            node_id="InstructBrushLoadConnector",
            display_name="Load Connector",
            category="InstructBrush/loading",
            description="Loads a trained connector from models/connectors: the part of ReasonPix2Pix that "
            "passes what a vision-language model has read to an editing model. It belongs to one MLLM and "
            "to the editing model that was fine-tuned with it.",
            search_aliases=[
                "reasonpix2pix",
                "mllm connector",
                "mllm adapter",
                "pocket connector",
                "llava connector",
            ],
            inputs=[
                NameChoice(
                    "connector_name",
                    options=names,
                    default=names[0],
                    tooltip="The built-in connector belongs to the pocket reader and the pocket reasoning "
                    "editor. Others are .safetensors files in models/connectors. Key R refreshes the list.",
                )
            ],
            outputs=[
                ConnectorSocket.Output(
                    display_name="CONNECTOR", tooltip="The connector, for Encode Instruction."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, connector_name: str | None = None) -> bool | str:
        return check_names(mllms.connector_file, connector_name)

    @classmethod
    def fingerprint_inputs(cls, connector_name: str | None = None) -> str:
        return _CONNECTOR_FILES.fingerprint(connector_name)

    @classmethod
    def execute(cls, connector_name: str) -> io.NodeOutput:
        _CONNECTOR_FILES.record(connector_name)
        return io.NodeOutput(mllms.load_connector_named(connector_name))


class EncodeInstruction(Node):
    """Encodes words together with the image, as a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushEncodeInstruction",
            display_name="Encode Instruction (MLLM)",
            category="InstructBrush/reasoning",
            description="Encodes words as CLIP Text Encode does, and adds what a vision-language model "
            "reads from them and the image (ReasonPix2Pix). Use it for the positive conditioning of the "
            "editing model that was fine-tuned with the connector, and CLIP Text Encode for the empty ones. "
            "Results are cached.",
            search_aliases=[
                "reasonpix2pix",
                "mllm encode",
                "llava conditioning",
                "reasoning instruction",
                "implicit instruction",
                "clip text encode mllm",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MllmSocket.Input(
                    "mllm", tooltip="The MLLM that the connector was trained with, from Load MLLM."
                ),
                ConnectorSocket.Input("connector", tooltip="From Load Connector."),
                io.Clip.Input("clip", tooltip="The text encoder of the editing model."),
                io.Image.Input(
                    "image",
                    tooltip="The image to edit, or a batch. Each image gets its own text states, in the "
                    "batch's order.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    placeholder="it should look as if hours had passed",
                    tooltip="What to do, as an explicit instruction or a wish. Empty words give the same as "
                    "CLIP Text Encode of an empty text.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="For Edit Guider's conditioning, InstructPixToPixConditioning, Apply "
                    "Instruction or a sampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, mllm: Mllm, connector: Connector, clip: Clip, image: torch.Tensor, words: str
    ) -> io.NodeOutput:
        images = image_batch(image, "Image")[..., :3]
        conditioning = text_encoding.encode(clip, words)
        for warning in mllms.check_fits(connector, mllm, clip, conditioning):
            logging.warning("InstructBrush: %s", warning)
        if not words.strip():
            return io.NodeOutput(conditioning)
        hidden, mask = mllms.states(
            mllm, images, words, connector.config.task, node_progress(cls.hidden.unique_id)
        )
        return io.NodeOutput(mllms.encode(connector, conditioning, hidden, mask))
