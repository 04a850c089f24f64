"""Checks and loads the folders (in transformers' layout) of models that find regions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.nn import Module

from ..errors import ModelError, first_line
from ..models.hub_folders import model_folder, model_title
from ..models.weights import folder_weights, read_config

_BERT_FILES = (("tokenizer.json",), ("vocab.txt",))
_CLIP_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_PROCESSOR_FILES = (("preprocessor_config.json",), ("processor_config.json",))


@dataclass(frozen=True)
class FolderKind:
    """A kind of model folder."""

    title: str
    """Name in messages."""
    classes: Mapping[str, tuple[str, str]]
    """``model_type`` in config.json -> names of transformers' classes of the network and its processor."""
    public: str
    """A public model of this kind."""
    tokenizer: tuple[tuple[str, ...], ...] = ()
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

    Downloads nothing, runs no code of the folder, and reads only ``.safetensors`` weights.

    Args:
        folder: a folder in transformers' layout.
        kind: the expected kind.

    Returns:
        The network, and transformers' processor for its images and words.

    Raises:
        ModelError: the folder or a file is missing, damaged or pickled, or the model is of another kind.
    """
    import transformers

    folder = model_folder(folder)
    model_type = check_folder(folder, kind)
    name = model_title(folder)
    network_class, processor_class = kind.classes[model_type]
    network = getattr(transformers, network_class, None)
    processor = getattr(transformers, processor_class, None)
    if network is None or processor is None:
        raise ModelError(
            f"{kind.title} '{name}': transformers {transformers.__version__} is too old for its kind, "
            f"{model_type}. Update transformers."
        )
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = network.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **options, **kind.settings
        )
        prepared = processor.from_pretrained(str(folder), **options)
    except Exception as error:  # unknown configurations make transformers fail in any way
        raise ModelError(
            f"{kind.title} '{name}': transformers cannot load {folder} ({first_line(error)}). "
            f"Download its files again: {kind.files}."
        ) from error
    # transformers would replace missing weights with random numbers.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{kind.title} '{name}': {len(missing)} weights such as {missing[0]} are missing in {folder}. "
            "The file is incomplete or belongs to another config.json. Download the model again."
        )
    frozen: Module = model.float().eval().requires_grad_(False)
    return frozen, prepared


def check_folder(folder: Path, kind: FolderKind) -> str:
    """Checks file names, headers and settings of a folder without loading it.

    Returns:
        The ``model_type`` in its config.json.

    Raises:
        ModelError: see ``load_folder``.
    """
    folder = model_folder(folder)
    here = f"{kind.title} '{model_title(folder)}'"
    advice = (
        f"Put {kind.public}, or another model of its kind, into {folder}: {kind.files}. "
        "Nothing is downloaded automatically."
    )
    if not folder.is_dir():
        raise ModelError(f"{here}: there is no folder {folder}. {advice}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{here}: config.json is missing. {advice}")
    config = read_config(folder / "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in kind.classes:
        raise ModelError(
            f"{here}: its config.json says '{model_type}', which is not a {kind.title} "
            f"({', '.join(kind.classes)}). {advice}"
        )
    if any(config.get(key) for key in ("backbone", "use_timm_backbone", "use_pretrained_backbone")):
        raise ModelError(
            f"{here}: its config.json takes a part of the network from elsewhere (backbone), "
            f"which is not supported. {advice}"
        )
    for sets in (_PROCESSOR_FILES, kind.tokenizer):
        if sets and not any(all((folder / name).is_file() for name in names) for names in sets):
            raise ModelError(
                f"{here}: {' or '.join(' and '.join(names) for names in sets)} is missing. {advice}"
            )
    # Raises for weights that are missing, pickled, truncated or damaged.
    folder_weights(folder, ("model",))
    return model_type
