"""A language model from a local folder, with or without eyes, behind the protocol of language models."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...encoders.decoding import Decoding
from ...encoders.mllm import Mllm
from ...errors import BuildError, ModelError, PairError
from ...models.builtin import POCKET_READER_FOLDER
from ...models.hub_folders import model_folder
from ...models.weights import read_config
from ...storage.image_files import decode_image
from ..errors import Refused
from .cache import AnswerCache, CachedModel
from .models import Answer, Question, check_image
from .text_model import TextModel, is_text_type

UNREAD = "the model cannot read the question"
UNREADABLE_IMAGE = "the image cannot be read"
POCKET = "pocket"
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Files that only models with eyes have.
_EYES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, repr=False)
class LocalSettings:
    """Which local model is asked. Its ``repr`` holds what determines the answers: weights, not the folder.

    Raises:
        BuildError: the dtype or the bits are unknown.
    """

    folder: str | Path = POCKET
    """A folder in transformers' layout, or "pocket": the built-in pocket reader."""
    device: str = "cpu"
    dtype: str | None = None
    """fp32, fp16 or bf16. None uses the stored one, but fp32 on the CPU."""
    bits: int | None = None
    """8 or 4 to quantize the weights when they are loaded."""

    def __post_init__(self) -> None:
        if self.dtype not in (None, *_DTYPES) or self.bits not in (None, 4, 8):
            raise BuildError(
                f"Language model {self.folder}: dtype {self.dtype} with {self.bits} bits is unknown. Choose "
                "fp32, fp16 or bf16, and 8 bits, 4 bits or none."
            )

    def __repr__(self) -> str:
        return f"LocalSettings({self._fingerprint})"

    def open(self, answers: Path) -> CachedModel:
        """Returns the model with its answers kept in a folder. Weights are loaded with the first question.

        Raises:
            ModelError: the folder cannot be loaded.
        """
        return CachedModel(LocalModel(self), AnswerCache(answers))

    @cached_property
    def _fingerprint(self) -> str:
        return LocalModel(self).fingerprint


class LocalModel:
    """A model from a local folder.

    Args:
        settings: which one.

    Raises:
        ModelError: the folder cannot be loaded.
    """

    def __init__(self, settings: LocalSettings) -> None:
        folder = model_folder(POCKET_READER_FOLDER if settings.folder == POCKET else settings.folder)
        dtype = _DTYPES.get(settings.dtype or "")
        self._model: Mllm | TextModel = (
            TextModel(folder, settings.device, dtype, settings.bits)
            if _reads_words_only(folder)
            else Mllm(folder, settings.device, dtype, settings.bits)
        )
        # Errors of the chat template concern all rows, so they come before the first.
        prompt, model = self._model.prompt("words"), self._model
        text = f"{model.fingerprint}\n{model.dtype}\n{model.bits}\n{prompt}"
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """The model's name, from its folder."""
        return self._model.name

    @property
    def fingerprint(self) -> str:
        """Hash of weights, settings, chat template and precision."""
        return self._fingerprint

    @property
    def sees_images(self) -> bool:
        """Whether it is a vision-language model."""
        return isinstance(self._model, Mllm)

    def ask(self, question: Question) -> Answer:
        """Answers a question: at temperature 0 the most probable tokens, else drawn with the question's seed.

        Raises:
            Refused: the image or the text cannot be read.
            BuildError: memory ran out.
            ModelError: the weights cannot be loaded.
        """
        check_image(self, question)
        if question.image is None and isinstance(self._model, Mllm) and self._model.needs_image:
            raise BuildError(
                f"Language model '{self.name}' answers only about images, but a question has none. Name "
                "another model for this stage."
            )
        image = None if question.image is None else _decoded(question.image)
        decoding = Decoding(question.most_tokens, question.temperature, question.seed)
        try:
            _ = self._model.network  # errors of the weights concern all rows
            return self._reply(question.text, image, decoding)
        except torch.OutOfMemoryError as error:
            raise BuildError(
                f"Language model '{self.name}': memory ran out. Use fewer --jobs, 8 or 4 bits, or a smaller "
                "model. The same command continues."
            ) from error

    def _reply(self, text: str, image: Tensor | None, decoding: Decoding) -> Answer:
        try:
            if isinstance(self._model, TextModel):
                decoded = self._model.reply(text, decoding)
            else:
                decoded = self._model.reply(image, text, decoding)
        except ModelError as error:
            raise Refused(UNREAD, str(error)) from error
        return Answer(decoded.text, decoded.cut_off, decoded.input_tokens, decoded.output_tokens)


def _reads_words_only(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    model_type = str(read_config(folder / "config.json").get("model_type"))
    return is_text_type(model_type) and not any((folder / name).is_file() for name in _EYES)


def _decoded(image: bytes) -> Tensor:
    try:
        return decode_image(io.BytesIO(image), "image")
    except PairError as error:
        raise Refused(UNREADABLE_IMAGE, str(error)) from error
