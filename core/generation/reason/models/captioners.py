"""Captioners: BLIP-2 and other vision-language models from local folders, and language models that see."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch

from ....encoders.mllm import Mllm
from ....errors import ModelError
from ....models.builtin import POCKET_READER_FOLDER
from ....models.hub_folders import model_folder, model_title
from ....models.pretrained import PROCESSOR_FILES, TOKENIZER_FILES, PretrainedFolder
from ....models.weights import read_config
from ....reasoning.answers import one_line, without_thoughts
from ....storage.image_files import decode_image
from ....storage.image_tensors import to_image
from ....storage.parquet import image_bytes
from ...errors import Refused
from ...language.models import LanguageModel, Question, ask_for
from ..prompts import CAPTION_TASK

UNUSABLE = "the caption cannot be used"

_PUBLIC_BLIP2 = "Salesforce/blip2-opt-2.7b"
_BLIP2_FILES = (
    "config.json, model.safetensors (or its numbered parts), preprocessor_config.json, tokenizer.json, "
    "tokenizer_config.json"
)

# The pocket reader learned to answer this question with a caption.
_POCKET_QUESTION = "describe the picture"
_MOST_TOKENS = 60
_MOST_CHARACTERS = 300
_LABEL = re.compile(r"^(?:caption|description|answer|assistant)\s*:\s*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^(?:i(?:'m| am) (?:sorry|unable)|sorry\b|i can(?:no|')t|as an? (?:ai|language))", re.IGNORECASE
)


class Captioner(Protocol):
    """Describes images in one sentence."""

    def caption(self, cell: Mapping[str, Any], name: str) -> str:
        """Returns the caption of an image.

        Args:
            cell: the image's cell.
            name: the row's name, for messages.

        Raises:
            Refused: the answer is no caption.
            DataError: the cell is empty.
            PairError: the image cannot be read.
        """
        ...


@dataclass(frozen=True)
class FolderCaptioner:
    """A captioner from a local folder in transformers' layout: BLIP-2, or a vision-language model with a chat
    template, such as LLaVA. Without a folder, the built-in reader.

    Calling it raises ``ModelError`` if the folder cannot be loaded.
    """

    folder: str = ""
    device: str = field(default="cpu", repr=False)
    half: bool = False
    """Whether weights are loaded in fp16."""

    def __call__(self) -> Captioner:
        """Loads the model."""
        folder = model_folder(self.folder) if self.folder else POCKET_READER_FOLDER
        dtype = torch.float16 if self.half else None
        if _model_type(folder) == "blip-2":
            return Blip2Captioner(folder, self.device, dtype or torch.float32)
        mllm = Mllm(folder, self.device, dtype)
        if mllm.reads_task:
            return MllmCaptioner(mllm, "", CAPTION_TASK)
        return MllmCaptioner(mllm, _POCKET_QUESTION, "")


@dataclass(frozen=True)
class AskedCaptioner:
    """A language model that sees images as a captioner."""

    model: Callable[[], LanguageModel]
    tries: int = 3

    def __call__(self) -> Captioner:
        """Loads the model.

        Raises:
            ModelError: it sees no images.
        """
        model = self.model()
        if not model.sees_images:
            raise ModelError(f"Captions: '{model.name}' does not see images. Name a vision-language model.")
        return LanguageCaptioner(model, self.tries)


class Blip2Captioner:
    """BLIP-2, which continues an empty text with a caption. Deterministic.

    Args:
        folder: a folder in transformers' layout with ``.safetensors`` weights.
        device: where the model runs.
        dtype: dtype of the weights.

    Raises:
        ModelError: the folder or a file is missing, damaged, pickled or of another kind.
    """

    def __init__(self, folder: Path, device: torch.device | str, dtype: torch.dtype) -> None:
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        self.name = model_title(folder)
        source = PretrainedFolder("BLIP-2", self.name, folder, _PUBLIC_BLIP2, _BLIP2_FILES)
        source.check(("blip-2",), "is not a BLIP-2", PROCESSOR_FILES, TOKENIZER_FILES)
        self._processor = source.load(Blip2Processor.from_pretrained)
        network = source.load_network(Blip2ForConditionalGeneration.from_pretrained)
        self._network = network.to(device, dtype)

    @torch.no_grad()
    def caption(self, cell: Mapping[str, Any], name: str) -> str:
        """See ``Captioner.caption``."""
        image = to_image(decode_image(BytesIO(image_bytes(cell, name)), name))
        inputs = self._processor(images=image, return_tensors="pt").to(
            self._network.device, self._network.dtype
        )
        ids = self._network.generate(**inputs, max_new_tokens=_MOST_TOKENS, do_sample=False, num_beams=1)
        return _refusing(self._processor.batch_decode(ids, skip_special_tokens=True)[0])


class MllmCaptioner:
    """A vision-language model that is asked for a caption.

    Args:
        mllm: the model.
        words: the words that it gets beside the image.
        task: the task, see core/encoders/mllm_chat.py.
    """

    def __init__(self, mllm: Mllm, words: str, task: str) -> None:
        self._mllm = mllm
        self._words = words
        self._task = task

    def caption(self, cell: Mapping[str, Any], name: str) -> str:
        """See ``Captioner.caption``."""
        image = decode_image(BytesIO(image_bytes(cell, name)), name)
        return _refusing(self._mllm.answer(image, self._words, _MOST_TOKENS, self._task))


class LanguageCaptioner:
    """A language model that sees images.

    Args:
        model: the model.
        tries: how often it is asked until its answer is a caption.
    """

    def __init__(self, model: LanguageModel, tries: int) -> None:
        self._model = model
        self._tries = tries

    def caption(self, cell: Mapping[str, Any], name: str) -> str:
        """See ``Captioner.caption``."""
        question = Question(CAPTION_TASK, image=image_bytes(cell, name), most_tokens=2 * _MOST_TOKENS)
        return ask_for(self._model, question, read_caption, self._tries)


def read_caption(answer: str) -> str:
    """Reads a caption of one line.

    Raises:
        ValueError: it is empty, too long, or no caption.
    """
    text = one_line(without_thoughts(answer)[0])
    text = _LABEL.sub("", text).strip(" \"'“”").rstrip(".")
    if not any(letter.isalpha() for letter in text):
        raise ValueError("it has no words")
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters; at most {_MOST_CHARACTERS} are read")
    if _REFUSAL.match(text):
        raise ValueError("it is no caption")
    return text


def _refusing(answer: str) -> str:
    """Reads a caption of a model that would answer the same again."""
    try:
        return read_caption(answer)
    except ValueError as error:
        raise Refused(UNUSABLE, f'{error}: "{one_line(answer)[:200]}"') from error


def _model_type(folder: Path) -> str:
    config = folder / "config.json"
    return str(read_config(config).get("model_type")) if config.is_file() else ""
