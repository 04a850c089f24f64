"""Language models that read words alone, from a folder in transformers' layout."""

import hashlib
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...encoders.decoding import Decoded, Decoding, decode
from ...encoders.mllm_chat import without_marks
from ...encoders.mllm_folders import check_bits, folder_fingerprint, stored_bits, stored_dtype
from ...encoders.mllm_loading import WeightsPlan, load_network
from ...errors import ModelError, first_line
from ...models.hub_folders import model_folder, model_title
from ...models.pretrained import TOKENIZER_FILES, PretrainedFolder

FILES = (
    "config.json, model.safetensors (or its numbered parts), tokenizer.json, tokenizer_config.json, "
    "chat_template.jinja"
)
_KIND = "Language model"
_PUBLIC = "Qwen/Qwen2.5-7B-Instruct"


class TextModel:
    """A frozen language model from a local folder. Settings are read at once, weights on first use.

    Args:
        folder: a folder in transformers' layout, or ``models--owner--name`` of the Hugging Face cache. Reads
            only ``.safetensors`` weights and runs no code of the folder.
        device: where the model runs.
        dtype: dtype of the weights; None uses the stored one, but fp32 on the CPU.
        bits: 8 or 4 to quantize the weights with bitsandbytes; None uses ``dtype``.

    Raises:
        ModelError: the folder or a file is missing, damaged, pickled or of another kind, there is no chat
            template, or bitsandbytes is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        bits: int | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.folder = model_folder(folder)
        self.name = model_title(self.folder)
        self._source = PretrainedFolder(_KIND, self.name, self.folder, _PUBLIC, FILES)
        else_says = "transformers does not know as a model that answers in words"
        self._source.check(_text_types(), else_says, TOKENIZER_FILES)
        stored = stored_bits(self.folder)
        self.bits = stored or check_bits(bits, self.name, _KIND)
        device = torch.device(device)
        self.dtype = dtype or (torch.float32 if device.type == "cpu" else stored_dtype(self.folder))
        self._plan = WeightsPlan(device, self.dtype, self.bits, stored_quantized=stored is not None)
        self._config: Any = self._source.load(AutoConfig.from_pretrained)
        self._tokenizer: Any = self._source.load(AutoTokenizer.from_pretrained)
        self._network: Any = None
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"{self._source.title}: it has no chat template, so it cannot be asked. Choose a model that "
                f"follows instructions, or put its chat_template.jinja into {self.folder}."
            )
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        text = f"{folder_fingerprint(self.folder)}\n{self.prompt('words')}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        """Hash of weights, settings and the chat template, independent of ``dtype``."""

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens in a chat with its answer."""
        return int(getattr(self._config, "max_position_embeddings", None) or 2**31)

    @property
    def network(self) -> Any:
        """The model of transformers. Loaded on first use.

        Raises:
            ModelError: the weights do not fit the configuration.
        """
        if self._network is None:
            self._network = load_network(self._source, self._plan, self._tokenizer, "AutoModelForCausalLM")
        return self._network

    def prompt(self, words: str) -> str:
        """Returns the chat as text. Removes marks of the chat from the words.

        Raises:
            ModelError: the model's chat template cannot be used.
        """
        plain = without_marks(words, self._tokenizer.all_special_tokens, lines=True)
        chat = [{"role": "user", "content": plain}]
        try:
            return str(self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
        except Exception as error:  # chat templates can fail in any way
            raise ModelError(
                f"{self._source.title}: its chat template cannot be used ({first_line(error)}). "
                f"Download its files again: {FILES}."
            ) from error

    def reply(self, words: str, decoding: Decoding) -> Decoded:
        """Answers words. Deterministic.

        Raises:
            ModelError: the words leave no room for an answer, or see ``prompt``.
        """
        network = self.network
        # The template writes the tokens that begin a chat.
        inputs = self._tokenizer(self.prompt(words), return_tensors="pt", add_special_tokens=False)
        length = inputs["input_ids"].shape[1]
        room = self.max_tokens - length
        if room < 1:
            raise ModelError(
                f"{self._source.title}: the words are {length} tokens long; with an answer it reads "
                f"{self.max_tokens}. Use fewer words."
            )
        inputs = {name: inputs[name].to(network.device) for name in ("input_ids", "attention_mask")}
        decoding = replace(decoding, most_tokens=min(decoding.most_tokens, room))
        return decode(network, self._tokenizer, inputs, decoding)


def is_text_type(model_type: str) -> bool:
    """Whether transformers has a model of this type that continues a text."""
    return model_type in _text_types()


def _text_types() -> Container[str]:
    from transformers.models.auto import modeling_auto

    return modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
