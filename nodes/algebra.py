"""Nodes that compute with instructions, and one that looks inside them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
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
from .comfy.sampling import text_encoding
from .comfy.sampling.comfy_denoiser import ComfyDenoiser
from .comfy.types import Clip, Model
from .shared.node import Node
from .shared.previews import previews
from .shared.socket_types import InstructionSocket, thumbnail_of, with_thumbnail

_BLEND_INPUTS = 4


class ScaleInstruction(Node):
    """Makes an instruction stronger, weaker or negative."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushScale",
            display_name="Scale Instruction",
            category="InstructBrush/instruction",
            description=(
                "Makes an instruction stronger or weaker, or reverses it. The factor is saved with the "
                "instruction."
            ),
            search_aliases=[
                "negate instruction",
                "invert instruction",
                "instruction strength",
                "weaken instruction",
                "multiply instruction",
            ],
            inputs=[
                InstructionSocket.Input("instruction", tooltip="The instruction to scale."),
                io.Float.Input(
                    "factor",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip=(
                        "1 keeps the instruction unchanged, 0 removes its effect, values in between mix it "
                        "with the words. Values above 1 exaggerate it; -1 reverses it."
                    ),
                ),
            ],
            outputs=[InstructionSocket.Output(display_name="INSTRUCTION", tooltip="The scaled instruction.")],
        )

    @classmethod
    def execute(cls, instruction: Instruction | Blend, factor: float) -> io.NodeOutput:
        return io.NodeOutput(scale(instruction, factor))


class BlendInstructions(Node):
    """Adds up instructions by weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = []
        for number in range(1, _BLEND_INPUTS + 1):
            inputs += [
                InstructionSocket.Input(
                    f"instruction_{number}",
                    optional=number > 1,
                    tooltip="An instruction or a blend. All instructions must fit one model.",
                ),
                io.Float.Input(
                    f"weight_{number}",
                    default=0.5,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    optional=number > 1,
                    tooltip=(
                        "Weight of this instruction. Weights that sum to 1 mix; 1 and 1 add both effects; a "
                        "negative weight removes an effect."
                    ),
                ),
            ]
        return io.Schema(
            node_id="InstructBrushBlend",
            display_name="Blend Instructions",
            category="InstructBrush/instruction",
            description="Mixes up to four instructions by weights. Their kinds and numbers of rows may "
            "differ. A blend can be blended again, and Save Instruction writes it as one file.",
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
        for number in range(2, _BLEND_INPUTS + 1):
            instruction = others.get(f"instruction_{number}")
            if instruction is not None:
                terms.append((others.get(f"weight_{number}", 0.5), instruction))
        return io.NodeOutput(blend(terms))


class ComposeInstructions(Node):
    """Joins two instructions side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushCompose",
            display_name="Compose Instructions",
            category="InstructBrush/instruction",
            description="Puts the learned rows of two instructions side by side, like two phrases in one "
            "sentence. The model attends to both in full, while a blend mixes them.",
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
                    tooltip=(
                        "The instruction whose rows follow. It must be of the same kind and learned on the "
                        "same family of models."
                    ),
                ),
            ],
            outputs=[
                InstructionSocket.Output(
                    display_name="INSTRUCTION", tooltip="One instruction with the rows of both."
                )
            ],
        )

    @classmethod
    def execute(cls, first: Instruction | Blend, second: Instruction | Blend) -> io.NodeOutput:
        return io.NodeOutput(with_thumbnail(compose(first, second), thumbnail_of(first, second)))


class AddWordsToInstruction(Node):
    """Joins an instruction and words (Visii's hybrid)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushAddWords",
            display_name="Add Words to Instruction",
            category="InstructBrush/instruction",
            description="Writes words after the learned rows (Visii's hybrid). The instruction says how to "
            "edit, the words add what to change. Words that do not fit the text window are cut; the node "
            "shows the cut words.",
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
                    "instruction",
                    optional=True,
                    tooltip="The instruction that gets the words. In a blend, each part gets them. Without "
                    "it, there is none after this node either, and Edit Guider edits by its own words.",
                ),
                io.Clip.Input("clip", tooltip="Text encoder of the model that you use the instruction with."),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    tooltip="The words to add. If empty, the instruction is unchanged.",
                ),
            ],
            outputs=[
                InstructionSocket.Output(
                    display_name="INSTRUCTION", tooltip="The instruction with the words after it."
                ),
                io.String.Output(display_name="cut", tooltip="The words that did not fit; empty if all fit."),
            ],
        )

    @classmethod
    def execute(cls, clip: Clip, words: str, instruction: Instruction | Blend | None = None) -> io.NodeOutput:
        words = words.strip()
        if instruction is None or not words:
            return io.NodeOutput(instruction, "", ui={"text": ["0 tokens of words after the learned rows"]})
        counts = text_encoding.count_in_windows(clip, words)
        states = text_encoding.encode_first_windows(clip, [words])[0]
        hybrid, cut = with_words(instruction, states, counts[0], words)
        cut += sum(counts[1:])
        kept = sum(counts) - cut
        lost = _last_words(clip, words, kept) if cut else ""
        remark = f"{kept} tokens of words after the learned rows"
        if lost:
            remark += f". The text window is full; these words are cut: {lost}"
            logging.warning(
                "InstructBrush: Add Words to Instruction: the text window is full; words that are cut: %s",
                lost,
            )
        return io.NodeOutput(hybrid, lost, ui={"text": [remark]})


class InspectInstruction(Node):
    """Shows what is inside an instruction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushInspect",
            display_name="Inspect Instruction",
            category="InstructBrush/instruction",
            description="Shows how an instruction was learned, how far it moved from its init text in every "
            "segment and layer, and which words are closest to its rows. With MODEL and CLIP connected, it "
            "shows more.",
            search_aliases=[
                "instruction info",
                "instruction header",
                "nearest words",
                "instruction norms",
                "what was learned",
            ],
            is_output_node=True,
            inputs=[
                InstructionSocket.Input(
                    "instruction",
                    tooltip="The instruction to inspect. The report shows every part of a blend.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "The model that the instruction was learned on. With it, norms are relative to the "
                        "init text, and keys and values can be compared with words."
                    ),
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The model's text encoder. Finds the words nearest to the learned rows.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip=(
                        "Words to compare the learned rows with, separated by commas. If empty, common "
                        "editing words are used."
                    ),
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The report as text."),
                io.Image.Output(
                    display_name="norms",
                    tooltip="Bars for every segment and layer: keys blue, values orange.",
                ),
                io.Image.Output(
                    display_name="thumbnail",
                    tooltip=(
                        "Before and after of a pair it was learned from; one gray pixel if it has no "
                        "thumbnail."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        instruction: Instruction | Blend,
        model: Model | None = None,
        clip: Clip | None = None,
        words: str = "",
    ) -> io.NodeOutput:
        remarks = instruction.check_fits(describe(model)) if model is not None else []
        word_states = None if clip is None else _word_states(clip, words)
        with _projection(model) as project:
            text = "\n".join([*remarks, report(instruction, project, word_states)])
            bars = from_image(draw_norms(instruction, project))
        image = thumbnail_of(instruction)
        thumbnail = from_image(image or Image.new("RGB", (1, 1), "gray"))
        shown = [bars, thumbnail] if image else [bars]
        return io.NodeOutput(text, bars[None], thumbnail[None], ui={**previews(shown), "text": [text]})


@contextmanager
def _projection(model: Model | None) -> Iterator[Projection | None]:
    """Opens the model's projections of text states to keys and values; None without a model."""
    with torch.inference_mode(False):
        if model is None:
            yield None
            return
        denoiser = ComfyDenoiser(model)
        with denoiser.projecting():
            yield denoiser.project


def _last_words(clip: Clip, words: str, kept: int) -> str:
    """Returns the words after the first ``kept`` tokens. A word that is cut in two is one of them."""
    split = words.split()
    for number in range(len(split), 0, -1):
        if sum(text_encoding.count_in_windows(clip, " ".join(split[:number]))) <= kept:
            return " ".join(split[number:])
    return words


def _word_states(clip: Clip, words: str) -> WordStates:
    """Encodes words. A word's state is that of its last token, which attends to the whole word."""
    chosen = list(dict.fromkeys(word.strip() for word in words.replace("\n", ",").split(",") if word.strip()))
    if words.strip() and not chosen:
        raise InstructionError(
            f"Inspect Instruction: '{words}' holds no words. Write words separated by commas, or leave the "
            "field empty."
        )
    counts = {word: text_encoding.count_tokens(clip, word) for word in chosen or COMMON_WORDS}
    if not chosen:
        # Prefer common words that are one token, because the others are split into pieces.
        counts = {word: count for word, count in counts.items() if count == 1} or counts
    states = text_encoding.encode_first_windows(clip, list(counts))
    return list(counts), torch.stack(
        [rows[count] for rows, count in zip(states, counts.values(), strict=True)]
    )
