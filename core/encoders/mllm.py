"""Frozen vision-language models (MLLMs), which encode an image and words as states, or answer in words.

LLaVA-1.5 is the reference; other models that transformers runs have the same interface.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict

from ..errors import ModelError, first_line
from ..models.builtin import resolved
from ..progress import Progress
from ..storage.image_tensors import to_image
from .decoding import Decoded, Decoding, decode
from .mllm_chat import STATES_TASK, chat, without_marks
from .mllm_folders import (
    check_bits,
    check_folder,
    folder_fingerprint,
    mllm_source,
    stored_bits,
    stored_dtype,
)
from .mllm_loading import WeightsPlan, load_network, load_processor

# Smallest side of an image in pixels.
_MIN_SIDE = 8


class Mllm:
    """A frozen vision-language model from a local folder.

    Settings are read at once, weights on first use.

    Args:
        folder: a folder in transformers' layout, or ``models--owner--name`` of the Hugging Face cache. Reads
            only ``.safetensors`` weights and runs no code of the folder.
        device: where the model runs.
        dtype: dtype of the weights; None uses the stored one, but fp32 on the CPU.
        bits: 8 or 4 to quantize the weights with bitsandbytes; None uses ``dtype``. Weights that are
            quantized in the folder stay as they are.

    Raises:
        ModelError: the folder or a file is missing, damaged, pickled or of another kind, or bitsandbytes is
            not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        bits: int | None = None,
    ) -> None:
        from transformers import AutoConfig

        self.folder = resolved(folder)
        self._source = mllm_source(self.folder)
        self.name = self._source.name
        self.model_type = check_folder(self.folder)
        stored = stored_bits(self.folder)
        self.bits = stored or check_bits(bits, self.name)
        device = torch.device(device)
        self.dtype = dtype or (torch.float32 if device.type == "cpu" else stored_dtype(self.folder))
        self._plan = WeightsPlan(device, self.dtype, self.bits, stored_quantized=stored is not None)
        self._config: Any = self._source.load(AutoConfig.from_pretrained)
        self._processor = load_processor(self._source, self._config)
        self._network: Any = None
        self._module: Module | None = None
        self.fingerprint = folder_fingerprint(self.folder)
        """Hash of weights and settings, independent of ``dtype``."""

    @property
    def width(self) -> int:
        """D: channels of the states."""
        return int(self._config.get_text_config().hidden_size)

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens in a chat, including the image's."""
        return int(getattr(self._config.get_text_config(), "max_position_embeddings", None) or 2**31)

    @property
    def module(self) -> Module:
        """The network, for moving it between devices. Loaded on first use.

        Raises:
            ModelError: the weights do not fit the configuration.
        """
        if self._module is None:
            self._network = load_network(self._source, self._plan, self._processor.tokenizer)
            # ComfyUI sets module.device, which transformers' models forbid, so a module wraps them.
            self._module = ModuleDict({"mllm": self._network}).eval()
        return self._module

    @property
    def network(self) -> Any:
        """The model of transformers. Loaded on first use."""
        _ = self.module
        return self._network

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._module is not None

    @property
    def device(self) -> torch.device:
        """The current device, or the one that the weights will be loaded onto."""
        return next(self._module.parameters()).device if self._module is not None else self._plan.device

    def free(self) -> None:
        """Frees the weights. They are loaded again on next use."""
        self._network = None
        self._module = None

    def prompt(self, words: str, task: str = STATES_TASK, image: bool = True, lines: bool = False) -> str:
        """Returns the chat as text. Removes marks of the chat from the words.

        Args:
            words: the user's words.
            task: see mllm_chat.py.
            image: whether the chat has an image, as one mark.
            lines: keeps the lines of the words.

        Raises:
            ModelError: the model's chat template cannot be used.
        """
        plain = without_marks(words, [*self._processor.tokenizer.all_special_tokens, self._image_mark], lines)
        try:
            return str(
                self._processor.apply_chat_template(
                    chat(plain, task, image), add_generation_prompt=True, tokenize=False
                )
            )
        except Exception as error:  # chat templates can fail in any way
            raise ModelError(
                f"MLLM '{self.name}': its chat template cannot be used ({first_line(error)}). "
                f"Download its files again: {self._source.files}."
            ) from error

    @property
    def reads_task(self) -> bool:
        """Whether the model reads the task of a chat. The template of a model for one task leaves it out."""
        return self.prompt("words", "one") != self.prompt("words", "another")

    @property
    def needs_image(self) -> bool:
        """Whether every chat has an image, as in the template of a model for one task."""
        return self._image_mark in self.prompt("words", "", image=False)

    @property
    def _image_mark(self) -> str:
        return str(getattr(self._processor, "image_token", "<image>"))

    @torch.no_grad()
    def states(
        self, images: Sequence[Tensor], texts: Sequence[str], task: str = STATES_TASK
    ) -> tuple[Tensor, Tensor]:
        """Encodes chats as the last layer's states after the final norm: F(x, I) of ReasonPix2Pix, Eq. 8.

        Shorter chats are padded at the end, so that neither attention nor positions change.

        Args:
            images: B images [H, W, 3] in 0..1, of any sizes.
            texts: B instructions or wishes.
            task: see mllm_chat.py.

        Returns:
            States fp32 [B, L, D], zero on padding, and a mask bool [B, L], false on padding; both on the
            model's device.

        Raises:
            ModelError: an image or a text is invalid, or the states are not finite.
        """
        if not texts or len(images) != len(texts):
            raise ModelError(
                f"MLLM '{self.name}': {len(images)} images and {len(texts)} texts do not make pairs. "
                "Give one text for each image."
            )
        network = self.network
        inputs = self.inputs(images, texts, task)
        inner = network.base_model
        if inner is network:  # older kinds have no inner model without the language head
            hidden = network(**inputs, use_cache=False, output_hidden_states=True).hidden_states[-1].float()
        else:
            hidden = inner(**inputs, use_cache=False, output_hidden_states=False).last_hidden_state.float()
        mask = inputs["attention_mask"].bool()
        hidden = hidden.masked_fill(~mask[..., None], 0)
        if not hidden.isfinite().all():
            raise ModelError(
                f"MLLM '{self.name}': its states are not finite in {str(self.dtype).removeprefix('torch.')}. "
                "Load it in bf16 or fp32."
            )
        return hidden, mask

    def answer(
        self,
        image: Tensor,
        words: str,
        max_new_tokens: int = 200,
        task: str = "",
        progress: Progress | None = None,
    ) -> str:
        """Answers an image and words. Deterministic: takes the most probable token each time.

        Args:
            image: [H, W, 3] in 0..1.
            words: the user's words.
            max_new_tokens: largest number of tokens in the answer.
            task: see mllm_chat.py.
            progress: called after every token.

        Raises:
            ModelError: ``max_new_tokens`` is below 1, or see ``states``.
        """
        prompt = self.prompt(words, task)
        return self._decode([image], prompt, Decoding(max_new_tokens), progress).text

    def reply(self, image: Tensor | None, words: str, decoding: Decoding) -> Decoded:
        """Answers words of several lines, and an image if there is one. Deterministic.

        Args:
            image: [H, W, 3] in 0..1.
            words: all that the model is told.
            decoding: how the answer is chosen.

        Raises:
            ModelError: the model always reads an image and there is none, or see ``answer``.
        """
        prompt = self.prompt(words, "", image is not None, lines=True)
        if image is None and self.needs_image:
            raise ModelError(
                f"MLLM '{self.name}': it always reads an image, and there is none. Add an image."
            )
        return self._decode([] if image is None else [image], prompt, decoding)

    def _decode(
        self,
        images: Sequence[Tensor],
        prompt: str,
        decoding: Decoding,
        progress: Progress | None = None,
    ) -> Decoded:
        if decoding.most_tokens < 1:
            raise ModelError(
                f"MLLM '{self.name}': an answer of {decoding.most_tokens} tokens is empty. Allow at least 1."
            )
        network = self.network
        inputs = self._encode(images, [prompt])
        room = self.max_tokens - inputs["input_ids"].shape[1]
        if room < 1:
            raise ModelError(
                f"MLLM '{self.name}': image and words fill all {self.max_tokens} tokens it reads, "
                "so it cannot answer. Use fewer words."
            )
        decoding = replace(decoding, most_tokens=min(decoding.most_tokens, room))
        return decode(network, self._processor.tokenizer, inputs, decoding, progress)

    def inputs(self, images: Sequence[Tensor], texts: Sequence[str], task: str) -> dict[str, Any]:
        """Prepares chats as the inputs of the network, on the model's device.

        Raises:
            ModelError: an image or a text is invalid.
        """
        return self._encode(images, [self.prompt(text, task) for text in texts])

    def _encode(self, images: Sequence[Tensor], prompts: list[str]) -> dict[str, Any]:
        pil_images = [[to_image(_checked_image(image, self.name))] for image in images]
        # Some templates begin with the token that the tokenizer would add again.
        start = getattr(self._processor.tokenizer, "bos_token", None)
        has_start = bool(start) and prompts[0].startswith(start)
        try:
            inputs = self._processor(
                text=prompts,
                images=pil_images or None,
                padding=True,
                return_tensors="pt",
                add_special_tokens=not has_start,
            )
        except Exception as error:  # processors can fail in any way
            raise ModelError(
                f"MLLM '{self.name}': it cannot read this image and these words ({first_line(error)}). Use "
                "another image, other words or another model."
            ) from error
        length = inputs["input_ids"].shape[1]
        if length > self.max_tokens:
            raise ModelError(
                f"MLLM '{self.name}': image and words are {length} tokens long; it reads {self.max_tokens}. "
                "Use fewer words."
            )
        return dict(inputs.to(self.device, self.dtype))


def load_mllm(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    bits: int | None = None,
    lazily: bool = False,
) -> Mllm:
    """Loads a vision-language model. Downloads nothing.

    Args:
        folder: see ``Mllm``.
        device: see ``Mllm``.
        dtype: see ``Mllm``.
        bits: see ``Mllm``.
        lazily: loads the weights on first use, which never comes if all states are cached (see
            core/reasoning/state_cache.py).

    Raises:
        ModelError: see ``Mllm``.
    """
    mllm = Mllm(folder, device, dtype, bits)
    if not lazily:
        _ = mllm.module
    return mllm


def _checked_image(image: Tensor, name: str) -> Tensor:
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _MIN_SIDE:
        raise ModelError(
            f"MLLM '{name}': an image of shape {list(image.shape)} does not fit; "
            f"[height, width, 3] with sides from {_MIN_SIDE} is needed."
        )
    if not image.isfinite().all():
        raise ModelError(
            f"MLLM '{name}': the image holds values that are not finite. Check the node that made it."
        )
    return image
