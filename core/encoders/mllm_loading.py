"""Loads the processor and the network of a vision-language model with transformers."""

import logging
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError, first_line
from ..models.pretrained import PretrainedFolder
from .mllm_chat import LLAVA_TEMPLATE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsPlan:
    """How the weights of a model are loaded."""

    device: torch.device
    dtype: torch.dtype
    bits: int | None
    """8 or 4 for quantized weights."""
    stored_quantized: bool
    """Whether the weights are quantized in the folder, and not when they are loaded."""


def load_processor(source: PretrainedFolder, config: Any) -> Any:
    """Loads transformers' processor of images and words.

    Args:
        source: the model's folder.
        config: the model's configuration, of transformers.

    Raises:
        ModelError: the folder has no processor of images and words, or no chat template.
    """
    from transformers import AutoProcessor

    processor = source.load(AutoProcessor.from_pretrained)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{source.title}: {source.folder} holds nothing that prepares both images and words. "
            f"Download its files again: {source.files}."
        )
    # Padding at the end keeps the positions of all tokens.
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if config.model_type == "llava":
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
    source: PretrainedFolder, plan: WeightsPlan, tokenizer: Any, auto: str = "AutoModelForImageTextToText"
) -> Any:
    """Loads a frozen network that answers.

    Args:
        source: its folder.
        plan: how its weights are loaded.
        tokenizer: its tokenizer.
        auto: name of transformers' class that loads it.

    Raises:
        ModelError: the weights do not fit the configuration, or see ``PretrainedFolder.load``.
    """
    import transformers

    network = source.load_network(getattr(transformers, auto).from_pretrained, **_weight_options(plan))
    # Replaces the folder's settings, whose sampling and penalties would apply to answers.
    own = network.generation_config
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    network.generation_config = transformers.GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
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
