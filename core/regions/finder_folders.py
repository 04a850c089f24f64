"""Checks and loads the folders (in transformers' layout) of models that find regions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.nn import Module

from ..errors import ModelError
from ..models.hub_folders import model_folder, model_title
from ..models.pretrained import PROCESSOR_FILES, FileSets, PretrainedFolder

_BERT_FILES = (("tokenizer.json",), ("vocab.txt",))
_CLIP_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True)
class FolderKind:
    """A kind of model folder."""

    title: str
    """Name in messages."""
    classes: Mapping[str, tuple[str, str]]
    """``model_type`` in config.json -> names of transformers' classes of the network and its processor."""
    public: str
    """A public model of this kind."""
    tokenizer: FileSets = ()
    """Sets of tokenizer files, one of which must exist; empty if the model reads no words."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Overrides for the model's configuration."""

    @property
    def files(self) -> str:
        """The files that belong into a folder of this kind."""
        tokenizer = " or ".join(" and ".join(files) for files in self.tokenizer)
        names = "config.json, model.safetensors, preprocessor_config.json"
        return f"{names}, {tokenizer}, tokenizer_config.json" if tokenizer else names


GROUNDING_DINO = FolderKind(
    "Grounding DINO",
    {
        "grounding-dino": ("GroundingDinoForObjectDetection", "GroundingDinoProcessor"),
        "mm-grounding-dino": ("MMGroundingDinoForObjectDetection", "GroundingDinoProcessor"),
    },
    "IDEA-Research/grounding-dino-tiny",
    _BERT_FILES,
    # Otherwise some versions of transformers compile a CUDA extension when the model is built.
    {"disable_custom_kernels": True},
)
SAM = FolderKind(
    "SAM",
    # SAM 2's public folders declare video models; only their image part is loaded.
    {
        "sam": ("SamModel", "SamProcessor"),
        "sam2": ("Sam2Model", "Sam2Processor"),
        "sam2_video": ("Sam2Model", "Sam2Processor"),
    },
    "facebook/sam-vit-base",
)
CLIPSEG = FolderKind(
    "CLIPSeg",
    {"clipseg": ("CLIPSegForImageSegmentation", "CLIPSegProcessor")},
    "CIDAS/clipseg-rd64-refined",
    _CLIP_FILES,
)


def load_folder(folder: Path, kind: FolderKind) -> tuple[Any, Any]:
    """Loads a network, frozen and in fp32 on the CPU.

    Args:
        folder: a folder in transformers' layout.
        kind: the expected kind.

    Returns:
        The network, and transformers' processor for its images and words.

    Raises:
        ModelError: the folder or a file is missing, damaged or pickled, or the model is of another kind.
    """
    import transformers

    model_type = check_folder(folder, kind)
    source = _source(folder, kind)
    network_class, processor_class = kind.classes[model_type]
    network = getattr(transformers, network_class, None)
    processor = getattr(transformers, processor_class, None)
    if network is None or processor is None:
        raise ModelError(
            f"{source.title}: transformers {transformers.__version__} is too old for its kind, {model_type}. "
            "Update transformers."
        )
    frozen: Module = source.load_network(network.from_pretrained, **kind.settings).float()
    return frozen, source.load(processor.from_pretrained)


def check_folder(folder: Path, kind: FolderKind) -> str:
    """Checks file names, headers and settings of a folder without loading it.

    Returns:
        The ``model_type`` in its config.json.

    Raises:
        ModelError: see ``load_folder``.
    """
    source = _source(folder, kind)
    else_says = f"is not a {kind.title} ({', '.join(kind.classes)})"
    config = source.check(kind.classes, else_says, PROCESSOR_FILES, kind.tokenizer)
    return str(config["model_type"])


def _source(folder: Path, kind: FolderKind) -> PretrainedFolder:
    folder = model_folder(folder)
    return PretrainedFolder(kind.title, model_title(folder), folder, kind.public, kind.files)
