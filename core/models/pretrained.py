"""Checks and loads models from local folders in transformers' layout."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, first_line
from .config_checks import check_sources
from .weights import folder_weights, read_config, read_json

# Sets of files, one of which must exist.
FileSets = tuple[tuple[str, ...], ...]
PROCESSOR_FILES: FileSets = (("preprocessor_config.json",), ("processor_config.json",))
TOKENIZER_FILES: FileSets = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
# Settings beside config.json that processors and tokenizers follow.
_SETTINGS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class PretrainedFolder:
    """A model's folder.

    Loading downloads nothing, runs no code of the folder, and reads only ``.safetensors`` weights.
    """

    kind: str
    """Kind of model in messages, e.g. "MLLM"."""
    name: str
    """Name in messages."""
    folder: Path
    public: str
    """A public model of this kind."""
    files: str
    """The files of a complete folder."""

    @property
    def title(self) -> str:
        """Kind and name, for messages."""
        return f"{self.kind} '{self.name}'"

    @property
    def advice(self) -> str:
        """What belongs into the folder, for messages."""
        return (
            f"Put {self.public}, or another model of its kind, into {self.folder}: {self.files}. Nothing is "
            "downloaded automatically."
        )

    def check(self, types: Container[str], else_says: str, *needed: FileSets) -> dict[str, Any]:
        """Checks file names, headers and settings without loading the model.

        Args:
            types: ``model_type`` in config.json of all models of this kind.
            else_says: what the message says about another type, e.g. "is not a SAM".
            needed: of each, one set of files must exist. Empty ones are ignored.

        Returns:
            The settings in config.json. ``model_type`` is text.

        Raises:
            ModelError: the folder cannot be loaded; the message names it and tells what belongs there.
        """
        if not self.folder.is_dir():
            raise ModelError(f"{self.title}: there is no folder {self.folder}. {self.advice}")
        if not (self.folder / "config.json").is_file():
            raise ModelError(f"{self.title}: config.json is missing. {self.advice}")
        config = read_config(self.folder / "config.json")
        config["model_type"] = model_type = str(config.get("model_type"))[:80]
        if model_type not in types:
            raise ModelError(
                f"{self.title}: its config.json says '{model_type}', which {else_says}. {self.advice}"
            )
        for sets in filter(None, needed):
            if not any(all((self.folder / name).is_file() for name in names) for names in sets):
                missing = " or ".join(" and ".join(names) for names in sets)
                raise ModelError(f"{self.title}: {missing} is missing. {self.advice}")
        for name in _SETTINGS:
            if (self.folder / name).is_file():
                check_sources(read_json(self.folder / name), f"{self.folder.name}/{name}")
        refuse_adapter(self.folder, self.title)
        # Raises for weights that are missing, pickled, truncated or damaged.
        folder_weights(self.folder, ("model",))
        return config

    def load(self, from_pretrained: Callable[..., Any], **options: Any) -> Any:
        """Calls a ``from_pretrained`` of transformers.

        Raises:
            ModelError: transformers cannot load the folder, or a package is missing.
        """
        try:
            return from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False, **options
            )
        except ImportError as error:
            raise ModelError(
                f"{self.title}: a package that its weights or files need is missing "
                f"({first_line(error)}). Install it, or get the model in fp16 or bf16."
            ) from error
        except Exception as error:  # unknown configurations make transformers fail in any way
            raise ModelError(
                f"{self.title}: transformers cannot load {self.folder} ({first_line(error)}). Download its "
                f"files again: {self.files}. A newer kind of model may need a newer transformers."
            ) from error

    def load_network(self, from_pretrained: Callable[..., Any], **options: Any) -> Any:
        """Loads a frozen network.

        Raises:
            ModelError: weights are missing, or see ``load``.
        """
        network, report = self.load(
            from_pretrained, use_safetensors=True, output_loading_info=True, **options
        )
        # transformers would replace missing weights with random numbers.
        missing = sorted(report["missing_keys"])
        if missing:
            raise ModelError(
                f"{self.title}: {len(missing)} weights such as {missing[0]} are missing in {self.folder}. "
                "The file is incomplete or belongs to another config.json. Download the model again."
            )
        return network.eval().requires_grad_(False)


def refuse_adapter(folder: Path, title: str) -> None:
    """Checks that a folder holds no adapter, whose weights transformers would load unchecked.

    Raises:
        ModelError: it does.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{title}: {folder} holds an adapter (adapter_config.json), which is not supported. Merge the "
            "adapter into its model, or take the whole model without it."
        )
