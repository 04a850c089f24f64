"""Checks the settings in a model's folder, such as its ``config.json``, before a library follows them."""

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from ..errors import ModelError

_MOST_LAYERS = 10_000
# In the names of settings whose numbers are layers, blocks or heads to build, unless they are sizes.
_COUNTED = re.compile("layer|depth|block|stage|head|repeat")
_SIZES = frozenset(
    ("size", "dim", "dims", "channel", "channels", "width", "len", "length", "theta", "id", "ids")
)

# timm loads models named like this from the hub or from another folder.
_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
_BLANKS = dict.fromkeys(range(33))
_BACKBONES = ("backbone", "use_timm_backbone")
_OUTSIDE = (
    "use_pretrained_backbone",
    # A model of sound; the class descriptions of OneFormer; the font of Pix2Struct.
    "audio_tokenizer_name_or_path",
    "class_info_file",
    "is_vqa",
    # Files that replace those that are checked.
    "configuration_files",
    "transformers_weights",
    "checkpoint_path",
)
# Its tokenizers always come from the hub.
_OUTSIDE_PROCESSOR = "MgpstrProcessor"
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
# Those that need no kernel of the hub.
_OWN_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")


def check_counts(settings: Any, what: str) -> None:
    """Checks that no setting asks for more layers than any network has, which would take hours to build.

    Args:
        settings: what a JSON file holds.
        what: the file's name, for messages.

    Raises:
        ModelError: one does.
    """
    for table in _tables(settings):
        for name, value in table.items():
            if not _COUNTED.search(name):
                continue
            if isinstance(value, list) and len(value) > _MOST_LAYERS:
                raise ModelError(
                    f"{what}: {name} lists more than {_MOST_LAYERS} values. The file is damaged; download it "
                    "again."
                )
            if not _SIZES.isdisjoint(name.lower().split("_")):
                continue
            if any(isinstance(each, int | float) and each > _MOST_LAYERS for each in _values(value)):
                raise ModelError(
                    f"{what}: {name} is above {_MOST_LAYERS}. The file is damaged; download it again."
                )


def check_sources(settings: Any, what: str) -> None:
    """Checks that no setting makes a library load something else than the model's own files.

    Args:
        settings: what a JSON file holds.
        what: the file's name, for messages.

    Raises:
        ModelError: one does.
    """
    for table in _tables(settings):
        for name, value in table.items():
            if _leads_outside(table, name, value):
                raise ModelError(
                    f"{what}: with {name} = {str(value)[:80]}, something else than the model's own files "
                    "would be loaded, maybe from a server, which is not supported. Remove this setting, or "
                    "choose another model."
                )


def _leads_outside(table: Mapping[str, Any], name: str, value: Any) -> bool:
    if name in _OUTSIDE:
        return bool(value)
    if name in _BACKBONES and value and not _is_timm_network(table):
        return True
    if name.endswith(_IMPLEMENTATIONS):
        # A table holds one for each part of the network.
        parts = list(value.values()) if isinstance(value, dict) else value
        return any(isinstance(each, str) and _needs_kernel(each) for each in _values(parts))
    texts = [each for each in _values(value) if isinstance(each, str)]
    if name == "processor_class" and _OUTSIDE_PROCESSOR in texts:
        return True
    return any(each.translate(_BLANKS).lower().startswith(_SOURCES) for each in texts)


def _is_timm_network(table: Mapping[str, Any]) -> bool:
    """Whether a table describes a network that timm builds without its weights."""
    name = str(table.get("backbone"))
    return table.get("model_type") == "timm_backbone" and bool(re.fullmatch(r"[\w.-]+", name))


def _needs_kernel(implementation: str) -> bool:
    """Whether transformers would load a kernel from the hub, for all but its own ones if it can."""
    own = implementation.removeprefix("paged|") in _OWN_IMPLEMENTATIONS
    return "/" in implementation or (not own and find_spec("kernels") is not None)


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    """Yields all tables in a value, at any depth."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, dict):
            yield inner
            pending += inner.values()
        elif isinstance(inner, list):
            pending += inner


def _values(value: Any) -> Iterator[Any]:
    """Yields a value, or what a list and the lists in it hold. Leaves out tables."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, list):
            pending += inner
        elif not isinstance(inner, dict):
            yield inner
