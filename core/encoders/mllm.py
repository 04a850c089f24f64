"""Frozen vision-language models: an image and words to states or to an answer. LLaVA-1.5 first, and whatever transformers runs behind the same interface.

A chat has one message: the image, a task (what to do with the words), and the words, as the image and two texts of transformers' chat format. A model
that was trained for the very task (the pocket reader) may leave the task out in its chat template.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict

from ..errors import ModelError
from ..models.builtin import TITLES
from ..models.hub_folders import model_folder, model_title
from ..models.weights import fingerprint, folder_weights, read_config, read_json
from ..progress import Progress
from ..storage.image_tensors import to_image

logger = logging.getLogger(__name__)

PUBLIC = "llava-hf/llava-1.5-7b-hf"
FILES = "config.json, model.safetensors (or its numbered parts), preprocessor_config.json, tokenizer.json, tokenizer_config.json, chat_template.json"
STATES_TASK = "What should be changed in this picture to fulfil this wish?"
"""The task that comes before the words when states are taken."""

_PROCESSOR_FILES = (("preprocessor_config.json",), ("processor_config.json",))
_TOKENIZER_FILES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_SIDE = 8
"""Pixels that an image's sides need at least."""
_LLAVA_CHAT = (
    "{% for message in messages %}USER: <image>\n{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's chat, for folders from before they carried one."""
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Mllm:
    """A frozen vision-language model from a local folder. Its settings are read at once, its weights when they are first needed.

    Args:
        folder: in transformers' layout, or the Hugging Face cache's ``models--owner--name``. Only ``.safetensors`` weights are read, and no code of the
            folder is run.
        device: where it shall run.
        dtype: of its weights; None as stored, but fp32 on the CPU.
        bits: 8 or 4 to hold the weights so with bitsandbytes; None for ``dtype``. Weights that are quantised in their folder stay as they are.

    Raises:
        ModelError: the folder or a file of it is missing, damaged, pickled or of another kind, or bitsandbytes is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        bits: int | None = None,
    ) -> None:
        from transformers import AutoConfig

        self.folder = model_folder(folder)
        self.name = TITLES.get(self.folder) or model_title(self.folder)
        self.model_type = check_folder(self.folder)
        stored = stored_bits(self.folder)
        self._quantised = stored is not None
        self.bits = stored or _checked_bits(bits, self.name)
        self._device = torch.device(device)
        self.dtype = dtype or (torch.float32 if self._device.type == "cpu" else stored_dtype(self.folder))
        self._config: Any = self._tried(AutoConfig.from_pretrained)
        self._processor = self._read_processor()
        self._network: Any = None
        self._module: Module | None = None
        self.fingerprint = _fingerprint(self.folder)
        """Of weights and settings, whatever precision they are loaded in."""

    @property
    def width(self) -> int:
        """D: the channels of its states."""
        return int(self._config.get_text_config().hidden_size)

    @property
    def room(self) -> int:
        """Tokens it reads at most, the image's included."""
        return int(getattr(self._config.get_text_config(), "max_position_embeddings", None) or 2**31)

    @property
    def module(self) -> Module:
        """Its network, for who moves it between devices; loaded on first use.

        Raises:
            ModelError: the weights do not fit the configuration.
        """
        if self._module is None:
            self._network = self._load()
            # transformers' models let nobody set their device; around them ComfyUI can keep its books.
            self._module = ModuleDict({"mllm": self._network}).eval()
        return self._module

    @property
    def loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self._module is not None

    @property
    def device(self) -> torch.device:
        """Where it runs now, or will."""
        return next(self._module.parameters()).device if self._module is not None else self._device

    def free(self) -> None:
        """Let go of the weights; they are read again when they are needed again."""
        self._network = self._module = None

    def prompt(self, words: str, task: str = STATES_TASK) -> str:
        """The chat as the model reads it, with one mark where the image is. The words are data: marks of the chat in them are taken out.

        Raises:
            ModelError: the model's chat template cannot be used.
        """
        texts = [f"{task}\n", self._plain(words)] if task else [self._plain(words)]
        content = [{"type": "image"}, *({"type": "text", "text": text} for text in texts)]
        try:
            return str(
                self._processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
                )
            )
        except Exception as error:  # A foreign template can fail in any way.
            raise ModelError(
                f"MLLM '{self.name}': its chat template cannot be used ({_reason(error)}). Get its files again: {FILES}."
            ) from error

    @torch.no_grad()
    def states(
        self, images: Sequence[Tensor], texts: Sequence[str], task: str = STATES_TASK
    ) -> tuple[Tensor, Tensor]:
        """The last layer's states of the chat, after the final norm, at the positions of image and words: F(x, I) of ReasonPix2Pix, Eq. 8.

        Shorter chats are padded at their end, where nothing that counts attends to and no position moves.

        Args:
            images: B images [H, W, 3] in 0..1, of any sizes.
            texts: B instructions or wishes.
            task: see the module.

        Returns:
            fp32 [B, L, D], zero where there is padding, and bool [B, L], true elsewhere; on the model's device.

        Raises:
            ModelError: an image or a text does not fit, or the states are not finite.
        """
        if not texts or len(images) != len(texts):
            raise ModelError(
                f"MLLM '{self.name}': {len(images)} images and {len(texts)} texts do not make pairs. Give one text for each image."
            )
        network = self._ready()
        inputs = self._inputs(images, texts, task)
        inner = network.base_model
        # Older kinds have no inner model without the head.
        outputs = inner(**inputs, use_cache=False, output_hidden_states=inner is network)
        hidden = (outputs.hidden_states[-1] if inner is network else outputs.last_hidden_state).float()
        mask = inputs["attention_mask"].bool()
        hidden = hidden.masked_fill(~mask[..., None], 0)
        if not hidden.isfinite().all():
            raise ModelError(
                f"MLLM '{self.name}': its states are not finite in {str(self.dtype).removeprefix('torch.')}. Load it in bf16 or fp32."
            )
        return hidden, mask

    @torch.no_grad()
    def answer(
        self,
        image: Tensor,
        words: str,
        max_new_tokens: int = 200,
        task: str = "",
        progress: Progress | None = None,
    ) -> str:
        """What the model says to an image and words, always the same: the most probable token each time.

        Args:
            image: [H, W, 3] in 0..1.
            words: what is said to it.
            max_new_tokens: where it stops at the latest.
            task: see the module.
            progress: called after every token.

        Raises:
            ModelError: as :meth:`states`; also for fewer than one token.
        """
        from transformers import StoppingCriteriaList

        if max_new_tokens < 1:
            raise ModelError(
                f"MLLM '{self.name}': an answer of {max_new_tokens} tokens is none. Allow at least 1."
            )
        network = self._ready()
        inputs = self._inputs([image], [words], task)
        start = inputs["input_ids"].shape[1]
        most = min(max_new_tokens, self.room - start)
        if most < 1:
            raise ModelError(
                f"MLLM '{self.name}': image and words fill all {self.room} tokens it reads, so it cannot answer. Use fewer words."
            )

        def watch(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            if progress:
                progress(ids.shape[1] - start, most)
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        criteria: Any = StoppingCriteriaList([watch])  # type: ignore[list-item]
        ids = network.generate(
            **inputs, max_new_tokens=most, do_sample=False, num_beams=1, stopping_criteria=criteria
        )
        return str(self._processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True)).strip()

    def _inputs(self, frames: Sequence[Tensor], texts: Sequence[str], task: str) -> dict[str, Any]:
        images = [[to_image(_checked_image(image, self.name))] for image in frames]
        prompts = [self.prompt(text, task) for text in texts]
        # Some templates begin with what the tokenizer would put there a second time.
        start = getattr(self._processor.tokenizer, "bos_token", None)
        twice = bool(start) and prompts[0].startswith(start)
        try:
            inputs = self._processor(
                text=prompts, images=images, padding=True, return_tensors="pt", add_special_tokens=not twice
            )
        except Exception as error:  # A foreign processor can fail in any way.
            raise ModelError(
                f"MLLM '{self.name}': it cannot read this image and these words ({_reason(error)})."
            ) from error
        length = inputs["input_ids"].shape[1]
        if length > self.room:
            raise ModelError(
                f"MLLM '{self.name}': image and words are {length} tokens long, it reads {self.room}. Use fewer words."
            )
        return dict(inputs.to(self.device, self.dtype))

    def _plain(self, words: str) -> str:
        tokenizer = self._processor.tokenizer
        marks = {
            *tokenizer.all_special_tokens,
            str(getattr(self._processor, "image_token", "<image>")),
            "<image>",
        }
        for mark in marks:
            if mark.strip():
                words = words.replace(mark, " ")
        return " ".join(words.split())

    def _ready(self) -> Any:
        _ = self.module
        return self._network

    def _tried(self, load: Callable[..., Any], **options: Any) -> Any:
        try:
            return load(str(self.folder), local_files_only=True, trust_remote_code=False, **options)
        except Exception as error:  # A foreign configuration can make transformers fail in any way.
            if isinstance(error, ImportError):
                raise ModelError(
                    f"MLLM '{self.name}': a package that its weights or files need is missing ({_reason(error)}). Install it, or get the model in fp16 or bf16."
                ) from error
            raise ModelError(
                f"MLLM '{self.name}': transformers cannot load {self.folder} ({_reason(error)}). Get its files again: {FILES}. "
                "A newer kind of model may need a newer transformers."
            ) from error

    def _read_processor(self) -> Any:
        from transformers import AutoProcessor

        processor = self._tried(AutoProcessor.from_pretrained)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or not hasattr(processor, "image_processor"):
            raise ModelError(
                f"MLLM '{self.name}': {self.folder} holds nothing that prepares both images and words. Get its files again: {FILES}."
            )
        # Padding comes last, so that positions need no correction whatever the kind of positions is.
        tokenizer.padding_side = "right"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if self.model_type == "llava":
            self._complete(processor)
        if not processor.chat_template:
            raise ModelError(
                f"MLLM '{self.name}': it has no chat template. Put chat_template.jinja or chat_template.json of the model into {self.folder}."
            )
        return processor

    def _complete(self, processor: Any) -> None:
        """Folders of LLaVA-1.5 from before transformers kept these settings in them."""
        processor.chat_template = processor.chat_template or _LLAVA_CHAT
        if processor.patch_size is None:
            processor.patch_size = self._config.vision_config.patch_size
            processor.vision_feature_select_strategy = self._config.vision_feature_select_strategy
            processor.num_additional_image_tokens = int(
                self._config.vision_config.model_type == "clip_vision_model"
            )

    def _load(self) -> Any:
        import transformers
        from transformers import AutoModelForImageTextToText, GenerationConfig

        # The name of the setting before transformers 5.
        named = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
        options: dict[str, Any] = {named: self.dtype}
        if self._quantised:
            options["device_map"] = {"": self._device}
        elif self.bits:
            kinds: dict[str, Any] = (
                {"load_in_8bit": True}
                if self.bits == 8
                else {
                    "load_in_4bit": True,
                    "bnb_4bit_compute_dtype": self.dtype,
                    "bnb_4bit_quant_type": "nf4",
                }
            )
            options |= {
                "quantization_config": transformers.BitsAndBytesConfig(**kinds),
                "device_map": {"": self._device},
            }
        network, report = self._tried(
            AutoModelForImageTextToText.from_pretrained,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        # transformers itself would go on with random numbers in their place.
        absent = sorted(report["missing_keys"])
        if absent:
            raise ModelError(
                f"MLLM '{self.name}': {len(absent)} weights such as {absent[0]} are missing in {self.folder}. The file is incomplete or belongs to another "
                "config.json."
            )
        own, tokenizer = network.generation_config, self._processor.tokenizer
        # The folder's own settings of sampling and penalties would be taken for what is not said.
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        network.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
        )
        network = network.eval().requires_grad_(False)
        return self._placed(network)

    def _placed(self, network: Any) -> Any:
        """A network on the model's device, or where it is if it is bound to that place."""
        if self._quantised or self.bits:
            return network
        try:
            return network.to(self._device)
        except ValueError as error:  # how transformers refuses to move quantised weights
            logger.warning("MLLM '%s' stays on %s: %s", self.name, network.device, _reason(error))
            return network


def load_mllm(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    bits: int | None = None,
    lazily: bool = False,
) -> Mllm:
    """Load a vision-language model. No network is used.

    Args:
        folder, device, dtype, bits: see :class:`Mllm`.
        lazily: read the weights when they are first needed, which may be never where states were kept (:mod:`..reasoning.state_cache`).

    Raises:
        ModelError: see :class:`Mllm`.
    """
    mllm = Mllm(folder, device, dtype, bits)
    if not lazily:
        _ = mllm.module
    return mllm


def check_folder(folder: Path) -> str:
    """See from names, headers and settings that a folder can be loaded.

    Returns:
        The ``model_type`` of its config.json.

    Raises:
        ModelError: it cannot; the message names the folder and what belongs there.
    """
    folder = model_folder(folder)
    here = f"MLLM '{TITLES.get(folder) or model_title(folder)}'"
    advice = f"Put {PUBLIC}, or another vision-language model, into {folder}: {FILES}. Nothing is downloaded by itself."
    if not folder.is_dir():
        raise ModelError(f"{here}: there is no folder {folder}. {advice}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{here}: config.json is missing. {advice}")
    config = read_config(folder / "config.json")
    model_type = str(config.get("model_type"))[:80]
    if model_type not in _known_types():
        raise ModelError(
            f"{here}: its config.json says '{model_type}', which transformers does not know as a model that reads images and words. {advice}"
        )
    for sets in (_PROCESSOR_FILES, _TOKENIZER_FILES):
        if not any(all((folder / name).is_file() for name in names) for names in sets):
            raise ModelError(
                f"{here}: {' or '.join(' and '.join(names) for names in sets)} is missing. {advice}"
            )
    # Raises for weights that are missing, pickled, cut short or unsound.
    folder_weights(folder, ("model",))
    told = config.get("quantization_config")
    if (
        isinstance(told, dict)
        and "bitsandbytes" in str(told.get("quant_method"))
        and find_spec("bitsandbytes") is None
    ):
        raise ModelError(
            f"{here}: its weights are quantised with bitsandbytes, which is not installed. Run: pip install bitsandbytes. Or get the model in fp16 or bf16."
        )
    return model_type


def stored_bits(folder: Path) -> int | None:
    """How many bits the weights of a folder are quantised to; None where they are not. Such weights stay on the device that they are read to."""
    told = read_config(model_folder(folder) / "config.json").get("quantization_config")
    if not isinstance(told, dict) or not told:
        return None
    said = told.get("bits")
    return 4 if told.get("load_in_4bit") or said == 4 else 8


def stored_dtype(folder: Path) -> torch.dtype:
    """The precision that a folder's config.json says its weights have; fp16 where it says nothing, which LLaVA-1.5's are."""
    config = read_config(model_folder(folder) / "config.json")
    text: Any = config.get("text_config")
    said = [
        table.get(name)
        for table in (config, text if isinstance(text, dict) else {})
        for name in ("dtype", "torch_dtype")
    ]
    return next((_DTYPES[str(each)] for each in said if str(each) in _DTYPES), torch.float16)


def _known_types() -> Sequence[str]:
    from transformers.models.auto import modeling_auto

    return list(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256(fingerprint(dict(folder_weights(folder, ("model",)).tensors())).encode())
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json"):
        if (folder / name).is_file():
            digest.update(json.dumps(read_json(folder / name), sort_keys=True).encode())
    return digest.hexdigest()


def _checked_bits(bits: int | None, name: str) -> int | None:
    if bits not in (None, 4, 8):
        raise ModelError(f"MLLM '{name}': weights of {bits} bits are not known. Choose 8 or 4, or none.")
    if bits and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"MLLM '{name}': {bits} bits need the package bitsandbytes, which is not installed. Run: pip install bitsandbytes. Or choose fp16."
        )
    return bits


def _checked_image(image: Tensor, name: str) -> Tensor:
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _SIDE:
        raise ModelError(
            f"MLLM '{name}': an image of shape {list(image.shape)} does not fit; [height, width, 3] with sides from {_SIDE} is needed."
        )
    if not image.isfinite().all():
        raise ModelError(
            f"MLLM '{name}': the image holds values that are not finite. Look at the node that made it."
        )
    return image


def _reason(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
