"""Nodes that find init texts: Unique Phrases, Caption Init, and their CLIP."""

from typing import Any

import torch
from comfy_api.latest import io

from ...core.diffusion.schedule import SEEDS
from ...core.encoders.clip import OpenClipModel
from ...core.learning.init_text.captions import TOKENS, CaptionSettings, caption_images, default_steps
from ...core.learning.init_text.choosing import (
    OFFERED,
    PhraseChoice,
    TakenPhrases,
    candidates,
    take_phrases,
)
from ...core.learning.init_text.phrases import PHRASES, PhraseSettings, UniquePhrases, unique_phrases
from ...core.learning.init_text.vocabulary import POCKET
from ...core.pairs.pairs import EditPairs
from ..comfy.encoders import open_clip as clips
from ..comfy.encoders.progress import node_progress
from ..comfy.encoders.residency import prepare
from ..comfy.folders import paths
from ..shared.kept_results import KeptResults
from ..shared.node import Choice, FileFingerprints, NameChoice, Node, check_names
from ..shared.socket_types import OpenClip, Pairs

_AUTO = "auto"
_WORDS = "flavors, mediums, movements"
_LISTS = [
    _AUTO,
    POCKET,
    _WORDS,
    f"{_WORDS}, artists",
    f"{_WORDS}, artists, trending",
    f"{_WORDS}, artists, trending, {POCKET}",
]
_DEFAULT_ETA = -1.0
_TAKE_BEST, _TAKE_NONE = "take the best", "take none"

# A click on a phrase searches nothing again.
_FOUND: KeptResults[UniquePhrases] = KeptResults(4)


def _clip_state(name: str) -> str:
    file = clips.file_of(name)
    return "" if file is None else paths.file_state(file)


_FILES = FileFingerprints(_clip_state)


class LoadOpenClip(Node):
    """Loads a CLIP that compares images with words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushLoadOpenClip",
            display_name="Load OpenCLIP",
            category="InstructBrush/loading",
            description="Loads a CLIP with its image and text encoders, for Unique Phrases, Caption Init "
            "and measuring. The pocket CLIP comes with the pack; larger ones are in models/open_clip.",
            search_aliases=[
                "open_clip",
                "clip model",
                "clip interrogator",
                "vit-l-14",
                "vit-h-14",
                "image text similarity",
            ],
            inputs=[
                NameChoice(
                    "clip_name",
                    options=clips.names(),
                    default=clips.POCKET_TITLE,
                    tooltip="The built-in CLIP knows the pocket editor's drawings. For photographs put a "
                    "file into models/open_clip, named after architecture and weights: "
                    "ViT-L-14-openai.safetensors. Key R refreshes the list.",
                )
            ],
            outputs=[
                OpenClip.Output(
                    display_name="OPEN_CLIP",
                    tooltip="The CLIP, for Unique Phrases, Caption Init and measuring.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, clip_name: str | None = None) -> bool | str:
        return check_names(clips.file_of, clip_name)

    @classmethod
    def fingerprint_inputs(cls, clip_name: str | None = None) -> str:
        return _FILES.fingerprint(clip_name)

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        _FILES.record(clip_name)
        return io.NodeOutput(clips.load(clip_name))


class UniquePhrasesNode(Node):
    """Finds words for the difference between the images before and after."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushUniquePhrases",
            display_name="Unique Phrases",
            category="InstructBrush/learning",
            description="Finds words for an edit, such as 'turn a photo into a sketch': a phrase that fits "
            "the images before but not those after, and one that fits the images after but not those before "
            "(InstructBrush, Eq. 6 and 7). Connect the words to init_text of Learn Instruction.",
            search_aliases=[
                "init text",
                "initialize instruction",
                "describe edit",
                "clip interrogator",
                "phrase sensitivity",
                "find words",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Pairs.Input("pairs", tooltip="Images before and after the edit."),
                OpenClip.Input(
                    "open_clip",
                    tooltip="The CLIP that compares images with words. The paper does not name its own; "
                    "clip-interrogator, which its phrases come from, has ViT-L-14 for SD1.5 and ViT-H-14 for "
                    "SD2.",
                ),
                io.Int.Input(
                    "phrases",
                    default=PHRASES,
                    min=1,
                    max=32,
                    tooltip="How many phrases describe the images of each side (r in the paper). The unique "
                    "phrase is one of them.",
                ),
                io.Float.Input(
                    "eta",
                    default=_DEFAULT_ETA,
                    min=_DEFAULT_ETA,
                    max=100.0,
                    step=0.005,
                    round=0.0001,
                    tooltip="How much better a phrase must fit its own side than the other one. The paper "
                    "has 0.15 and names no CLIP for it. auto (-1) is our value for the CLIP: 0.15 for "
                    "ViT-H-14, 0.03 for ViT-L-14, 0.25 for the pocket CLIP. Higher accepts fewer phrases.",
                ),
                Choice(
                    "word_lists",
                    options=_LISTS,
                    default=_AUTO,
                    tooltip="Lists of phrases. auto: pocket for the pocket CLIP, otherwise flavors, mediums "
                    "and movements of the package clip-interrogator, which must be installed. The paper "
                    "takes the whole vocabulary, with artists and trending, which name people and sites.",
                ),
                io.Float.Input(
                    "similarity_scale",
                    optional=True,
                    default=1.0,
                    min=0.001,
                    max=100.0,
                    step=0.1,
                    round=0.001,
                    tooltip="The similarities are multiplied by this factor before they are compared with "
                    "eta. 1 keeps the cosines.",
                    advanced=True,
                ),
                Choice(
                    "weak_phrases",
                    options=[_TAKE_BEST, _TAKE_NONE],
                    default=_TAKE_BEST,
                    optional=True,
                    tooltip="If no phrase of the images after reaches the strictness (eta): take the best "
                    "uses those of the fitting phrases that differ most, if they reach half of it. take "
                    "none gives no words, as in the paper.",
                    advanced=True,
                ),
                io.String.Input(
                    "chosen",
                    default="",
                    optional=True,
                    socketless=True,
                    dynamic_prompts=False,
                    extra_dict={"hidden": True},
                    tooltip="The phrases that you took in the node, as JSON: "
                    '{"before": ["a photo"], "after": ["snow"]}. Empty takes the unique phrases.',
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="init_text",
                    tooltip="The words, for Learn Instruction. Empty when no phrase tells the images apart.",
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="Every phrase with its side and its sensitivity, and why the words were chosen.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        pairs: EditPairs,
        open_clip: OpenClipModel,
        phrases: int,
        eta: float,
        word_lists: str,
        similarity_scale: float = 1.0,
        weak_phrases: str = _TAKE_BEST,
        chosen: str = "",
    ) -> io.NodeOutput:
        choice = PhraseChoice.parse(chosen)
        settings = PhraseSettings(
            count=phrases,
            eta=None if eta == _DEFAULT_ETA else eta,
            scale=similarity_scale,
            lists=None if word_lists == _AUTO else word_lists.split(", "),
            offered=OFFERED,
        )
        progress = node_progress(cls.hidden.unique_id)

        def search() -> UniquePhrases:
            prepare(open_clip)
            return unique_phrases(open_clip, pairs, settings, clips.cache_folder(), progress)

        found = _FOUND.get((pairs, open_clip), (phrases, eta, word_lists, similarity_scale), search)
        taken = take_phrases(found, choice, weak_phrases == _TAKE_BEST)
        table = taken.describe(found)
        shown: Any = {"text": [table], "phrases": [_panel_data(found, taken)]}
        return io.NodeOutput(taken.init_text, table, ui=shown)


def _panel_data(found: UniquePhrases, taken: TakenPhrases) -> dict[str, Any]:
    """The data of the chips, images before first, and what became of the choice."""
    return {
        "phrases": [
            {
                "text": phrase.text,
                "side": phrase.side,
                "sensitivity": phrase.sensitivity,
                "before": phrase.fit_before,
                "after": phrase.fit_after,
                "weak": phrase.sensitivity < found.eta,
                "taken": (phrase.side, phrase.text) in taken.taken,
            }
            for phrase in candidates(found)
        ],
        "eta": found.eta,
        "init_text": taken.init_text,
        "by_user": taken.by_user,
        "gone": taken.gone,
    }


class CaptionInit(Node):
    """Finds words for what the images after the edit show."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushCaptionInit",
            display_name="Caption Init",
            category="InstructBrush/learning",
            description="Finds words for what the images after the edit show, by gradients (PEZ hard "
            "prompts, as in Visii). The words may be hard to read. Connect them to init_text of Learn "
            "Instruction. Unique Phrases describes the edit itself and usually works better.",
            search_aliases=[
                "pez",
                "hard prompt",
                "prompt inversion",
                "init text",
                "visii",
                "image to prompt",
                "prompts made easy",
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Pairs.Input(
                    "pairs", tooltip="Images before and after the edit. The images after it are described."
                ),
                OpenClip.Input(
                    "open_clip", tooltip="The CLIP that compares images with words. Visii uses ViT-H-14."
                ),
                io.Int.Input(
                    "tokens",
                    default=TOKENS,
                    min=1,
                    max=75,
                    tooltip="Length of the text in tokens. A token is about one word.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="Number of iterations. auto (0) is the CLIP's default: 3000 (Visii), 300 for the "
                    "pocket CLIP.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEEDS - 1,
                    control_after_generate=False,
                    tooltip="The same seed and images find the same words.",
                ),
                io.Float.Input(
                    "learning_rate",
                    optional=True,
                    default=0.1,
                    min=0.0001,
                    max=10.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="Step size of the search.",
                    advanced=True,
                ),
                io.Float.Input(
                    "weight_decay",
                    optional=True,
                    default=0.1,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="Weight decay of the search: higher values keep the tokens closer to the middle "
                    "of the token space.",
                    advanced=True,
                ),
                io.Int.Input(
                    "batch_size",
                    optional=True,
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Number of images in each iteration, drawn at random.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.String.Output(display_name="init_text", tooltip="The words, for Learn Instruction."),
                io.String.Output(
                    display_name="report",
                    tooltip="The words, how well they fit, and whether the tokenizer reads them as the "
                    "tokens that were found.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        pairs: EditPairs,
        open_clip: OpenClipModel,
        tokens: int,
        steps: int,
        seed: int,
        learning_rate: float = 0.1,
        weight_decay: float = 0.1,
        batch_size: int = 1,
    ) -> io.NodeOutput:
        prepare(open_clip)
        settings = CaptionSettings(
            tokens, steps or default_steps(open_clip), learning_rate, weight_decay, batch_size, seed
        )
        show = node_progress(cls.hidden.unique_id)
        with torch.inference_mode(False):
            images = [pair.after.clone() for pair in pairs]
            caption = caption_images(open_clip, images, settings, lambda done, total, _: show(done, total))
        return io.NodeOutput(caption.text, caption.describe(), ui={"text": [caption.describe()]})
