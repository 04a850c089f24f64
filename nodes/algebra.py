"""Nodes that calculate with instructions, and one that looks inside them."""

import logging
from contextlib import nullcontext
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image

from ..core.errors import InstructionError
from ..core.instruction.algebra import blend, compose, scale, with_words
from ..core.instruction.inspect import COMMON_WORDS, Projection, WordStates, report
from ..core.instruction.instruction import Blend, Instruction
from ..core.instruction.norm_chart import draw_norms
from ..core.storage.image_tensors import from_image
from .comfy.models.description import describe
from .comfy.sampling import text_encoding as text
from .comfy.sampling.comfy_denoiser import ComfyDenoiser
from .shared.node import Node
from .shared.previews import previews
from .shared.socket_types import InstructionSocket, thumbnail_of, with_thumbnail

_BLENDED = 4


class ScaleInstruction(Node):
    """An instruction, stronger, weaker or the other way."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushScale",
            display_name="Scale Instruction",
            category="InstructBrush/instruction",
            description="Makes an instruction stronger or weaker, or turns it round: a step from the conditioning's words the other way. "
            "The factor is saved with it.",
            search_aliases=[
                "negate instruction",
                "invert instruction",
                "instruction strength",
                "weaken instruction",
                "multiply instruction",
            ],
            inputs=[
                InstructionSocket.Input("instruction", tooltip="What to scale."),
                io.Float.Input(
                    "factor",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="1 leaves it as it is, 0 takes its effect away, between them it mixes with the words; beyond 1 exaggerates, -1 is the opposite.",
                ),
            ],
            outputs=[InstructionSocket.Output(display_name="INSTRUCTION", tooltip="The scaled instruction.")],
        )

    @classmethod
    def execute(cls, instruction: Instruction | Blend, factor: float) -> io.NodeOutput:
        return io.NodeOutput(scale(instruction, factor))


class BlendInstructions(Node):
    """A weighted sum of instructions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = []
        for number in range(1, _BLENDED + 1):
            inputs += [
                InstructionSocket.Input(
                    f"instruction_{number}",
                    optional=number > 1,
                    tooltip="An instruction, or a blend. All must fit one model.",
                ),
                io.Float.Input(
                    f"weight_{number}",
                    default=0.5,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    optional=number > 1,
                    tooltip="How much of it. Weights that sum to 1 mix; 1 and 1 add both effects; a negative one takes an effect away.",
                ),
            ]
        return io.Schema(
            node_id="InstructBrushBlend",
            display_name="Blend Instructions",
            category="InstructBrush/instruction",
            description="Mixes up to four instructions by weights, also of different kinds and numbers of rows. Blends can be blended again, and Save "
            "Instruction writes a blend as one file.",
            search_aliases=[
                "mix instructions",
                "interpolate instructions",
                "add instructions",
                "merge instructions",
                "combine edits",
                "average instructions",
            ],
            inputs=inputs,
            outputs=[InstructionSocket.Output(display_name="INSTRUCTION", tooltip="The weighted sum.")],
        )

    @classmethod
    def execute(cls, instruction_1: Instruction | Blend, weight_1: float, **others: Any) -> io.NodeOutput:
        terms = [(weight_1, instruction_1)]
        for number in range(2, _BLENDED + 1):
            instruction = others.get(f"instruction_{number}")
            if instruction is not None:
                terms.append((others.get(f"weight_{number}", 0.5), instruction))
        return io.NodeOutput(blend(terms))


class ComposeInstructions(Node):
    """Two instructions side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushCompose",
            display_name="Compose Instructions",
            category="InstructBrush/instruction",
            description="Puts the learned rows of two instructions side by side, as two phrases in one sentence: the model attends to both, each in "
            "full, where a blend mixes them.",
            search_aliases=[
                "concatenate instructions",
                "join instructions",
                "chain edits",
                "combine edits",
                "two instructions",
            ],
            inputs=[
                InstructionSocket.Input("first", tooltip="The instruction whose rows come first."),
                InstructionSocket.Input(
                    "second",
                    tooltip="The instruction whose rows follow. Of the same kind, learned on the same family of models.",
                ),
            ],
            outputs=[
                InstructionSocket.Output(
                    display_name="INSTRUCTION", tooltip="Both in one, with as many rows as both together."
                )
            ],
        )

    @classmethod
    def execute(cls, first: Instruction | Blend, second: Instruction | Blend) -> io.NodeOutput:
        return io.NodeOutput(with_thumbnail(compose(first, second), thumbnail_of(first, second)))


class AddWordsToInstruction(Node):
    """The hybrid of an instruction and words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushAddWords",
            display_name="Add Words to Instruction",
            category="InstructBrush/instruction",
            description="Writes words after the learned rows (Visii's hybrid): the instruction says how, the words add what. Words that do not fit the text "
            "window are cut, and the node says which.",
            search_aliases=[
                "hybrid instruction",
                "visii hybrid",
                "instruction and prompt",
                "append words",
                "extend instruction",
            ],
            has_intermediate_output=True,
            inputs=[
                InstructionSocket.Input(
                    "instruction", tooltip="What comes before the words. Each part of a blend gets them."
                ),
                io.Clip.Input(
                    "clip", tooltip="The text encoder of the model that the instruction is used with."
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    tooltip="What to add. Empty leaves the instruction as it is.",
                ),
            ],
            outputs=[
                InstructionSocket.Output(
                    display_name="INSTRUCTION", tooltip="The instruction with the words after it."
                ),
                io.String.Output(
                    display_name="cut", tooltip="The words that did not fit; empty when all do."
                ),
            ],
        )

    @classmethod
    def execute(cls, instruction: Instruction | Blend, clip: Any, words: str) -> io.NodeOutput:
        words = words.strip()
        counts = text.count_in_windows(clip, words) if words else [0]
        states = text.encode_first_windows(clip, [words])[0]
        hybrid, cut = with_words(instruction, states, counts[0], words)
        cut += sum(counts[1:])
        lost = _last_words(clip, words, sum(counts) - cut) if cut else ""
        remark = f"{sum(counts) - cut} tokens of words after the learned rows"
        if lost:
            remark += f". Cut, because the text window is full: {lost}"
            logging.warning("InstructBrush: Add Words to Instruction: no room for: %s", lost)
        return io.NodeOutput(hybrid, lost, ui={"text": [remark]})


class InspectInstruction(Node):
    """A look inside an instruction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushInspect",
            display_name="Inspect Instruction",
            category="InstructBrush/instruction",
            description="Shows how an instruction was learned, how far it went from its beginning in every segment and layer, and which words its rows come "
            "near to. With MODEL and CLIP it tells more.",
            search_aliases=[
                "instruction info",
                "instruction header",
                "nearest words",
                "instruction norms",
                "what was learned",
            ],
            is_output_node=True,
            inputs=[
                InstructionSocket.Input("instruction", tooltip="What to look at; of a blend, every part."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model it was learned on: norms become relative to the init phrase, and keys and values can be named.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The model's text encoder: finds the words nearest to the learned rows.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Words to compare with, separated by commas. Empty compares with common words of editing.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="What the node shows, as text."),
                io.Image.Output(
                    display_name="norms",
                    tooltip="Bars for every segment and layer: keys blue, values orange.",
                ),
                io.Image.Output(
                    display_name="thumbnail",
                    tooltip="Before and after of a pair it was learned from; one grey pixel when it knows none.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, instruction: Instruction | Blend, model: Any = None, clip: Any = None, words: str = ""
    ) -> io.NodeOutput:
        remarks = instruction.check_fits(describe(model)) if model is not None else []
        known = None if clip is None else _word_states(clip, words)
        denoiser = None if model is None else _denoiser(model)
        with torch.inference_mode(False), nullcontext() if denoiser is None else denoiser.projecting():
            project: Projection | None = None if denoiser is None else denoiser.project
            told = "\n".join([*remarks, report(instruction, project, known)])
            bars = draw_norms(instruction, project)
        frame = thumbnail_of(instruction)
        frames = [from_image(image)[None] for image in (bars, frame or Image.new("RGB", (1, 1), "grey"))]
        images = previews(each[0] for each in frames[: 2 if frame else 1])
        return io.NodeOutput(told, *frames, ui={**images, "text": [told]})


def _denoiser(model: Any) -> ComfyDenoiser:
    with torch.inference_mode(False):
        return ComfyDenoiser(model)


def _last_words(clip: Any, words: str, kept: int) -> str:
    """The words beyond the first ``kept`` tokens; one that is cut through counts as lost."""
    split = words.split()
    for number in range(len(split), 0, -1):
        if sum(text.count_in_windows(clip, " ".join(split[:number]))) <= kept:
            return " ".join(split[number:])
    return words


def _word_states(clip: Any, words: str) -> WordStates:
    """Every word with the state of its last token, which has seen the whole word."""
    chosen = list(dict.fromkeys(word.strip() for word in words.replace("\n", ",").split(",") if word.strip()))
    if words.strip() and not chosen:
        raise InstructionError(
            f"Inspect Instruction: '{words}' holds no words. Write some, separated by commas, or leave it empty."
        )
    counts = {word: text.count_tokens(clip, word) for word in chosen or COMMON_WORDS}
    if not chosen:
        # A common word that the text encoder takes in pieces is none of its own words.
        counts = {word: count for word, count in counts.items() if count == 1} or counts
    states = text.encode_first_windows(clip, list(counts))
    return list(counts), torch.stack(
        [rows[count] for rows, count in zip(states, counts.values(), strict=True)]
    )
