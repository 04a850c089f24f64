"""Loads the processor and the network of a vision-language model with transformers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError, first_line
from .mllm_chat import LLAVA_TEMPLATE
from .mllm_folders import FILES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MllmSource:
    """A folder of a vision-language model."""

    name: str
    """Name in messages."""
    folder: Path
    model_type: str
    """``model_type`` in config.json."""
    kind: str = "MLLM"
    """Kind of model in messages."""
    files: str = FILES
    """The files of a complete folder, for messages."""

    @property
    def title(self) -> str:
        """Kind and name, for messages."""
        return f"{self.kind} '{self.name}'"


@dataclass(frozen=True)
class WeightsPlan:
    """How the weights of a model are loaded."""

    device: torch.device
    dtype: torch.dtype
    bits: int | None
    """8 or 4 for quantized weights."""
    stored_quantized: bool
    """Whether the weights are quantized in the folder, and not when they are loaded."""


def from_folder(source: MllmSource, load: Callable[..., Any], **options: Any) -> Any:
    """Calls a ``from_pretrained`` of transformers, without downloads and without code of the folder.

    Raises:
        ModelError: transformers cannot load the folder, or a package is missing.
    """
    try:
        return load(str(source.folder), local_files_only=True, trust_remote_code=False, **options)
    except ImportError as error:
        raise ModelError(
            f"{source.title}: a package that its weights or files need is missing "
            f"({first_line(error)}). Install it, or get the model in fp16 or bf16."
        ) from error
    except Exception as error:  # unknown configurations make transformers fail in any way
        raise ModelError(
            f"{source.title}: transformers cannot load {source.folder} ({first_line(error)}). "
            f"Download its files again: {source.files}. A newer kind of model may need a newer transformers."
        ) from error


def load_processor(source: MllmSource, config: Any) -> Any:
    """Loads transformers' processor of images and words.

    Raises:
        ModelError: the folder has no processor of images and words, or no chat template.
    """
    from transformers import AutoProcessor

    processor = from_folder(source, AutoProcessor.from_pretrained)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{source.title}: {source.folder} holds nothing that prepares both images and words. "
            f"Download its files again: {FILES}."
        )
    # Padding at the end keeps the positions of all tokens.
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if source.model_type == "llava":
        _complete_llava(processor, config)
    if not processor.chat_template:
        raise ModelError(
            f"{source.title}: it has no chat template. "
            f"Put chat_template.jinja or chat_template.json of the model into {source.folder}."
        )
    return processor


def _complete_llava(processor: Any, config: Any) -> None:
    """Adds the settings that older folders of LLaVA-1.5 lack."""
    processor.chat_template = processor.chat_template or LLAVA_TEMPLATE
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = int(config.vision_config.model_type == "clip_vision_model")


def load_network(
    source: MllmSource, plan: WeightsPlan, tokenizer: Any, auto: str = "AutoModelForImageTextToText"
) -> Any:
    """Loads a frozen network.

    Args:
        source: its folder.
        plan: how its weights are loaded.
        tokenizer: its tokenizer.
        auto: name of transformers' class that loads it.

    Raises:
        ModelError: the weights do not fit the configuration, or see ``from_folder``.
    """
    import transformers

    network, report = from_folder(
        source,
        getattr(transformers, auto).from_pretrained,
        use_safetensors=True,
        output_loading_info=True,
        **_weight_options(plan),
    )
    # transformers would replace missing weights with random numbers.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{source.title}: {len(missing)} weights such as {missing[0]} are missing in "
            f"{source.folder}. The file is incomplete or belongs to another config.json. Download the model "
            "again."
        )
    # Replaces the folder's settings, whose sampling and penalties would apply to answers.
    own = network.generation_config
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    network.generation_config = transformers.GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    network = network.eval().requires_grad_(False)
    return network if plan.bits else move_network(network, plan.device, source.title)


def _weight_options(plan: WeightsPlan) -> dict[str, Any]:
    import transformers

    # transformers 5 renamed this setting.
    dtype_key = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    options: dict[str, Any] = {dtype_key: plan.dtype}
    if not plan.bits:
        return options
    options["device_map"] = {"": plan.device}
    if plan.stored_quantized:
        return options
    settings: dict[str, Any] = {"load_in_8bit": True}
    if plan.bits == 4:
        settings = {
            "load_in_4bit": True,
            "bnb_4bit_compute_dtype": plan.dtype,
            "bnb_4bit_quant_type": "nf4",
        }
    options["quantization_config"] = transformers.BitsAndBytesConfig(**settings)
    return options


def move_network(network: Any, device: torch.device, title: str) -> Any:
    """Moves a network to a device. A network that cannot be moved stays, with a warning in the log."""
    try:
        return network.to(device)
    except ValueError as error:  # transformers refuses to move quantized weights
        logger.warning("%s stays on %s: %s", title, network.device, first_line(error))
        return network
