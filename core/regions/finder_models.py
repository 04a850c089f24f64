"""Networks that find objects by words, from folders in transformers' layout, checked before anything is read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.nn import Module

from ..errors import ModelError
from ..models.hub_folders import model_folder, model_title
from ..models.weights import folder_weights, read_config

_BERT_FILES = (("tokenizer.json",), ("vocab.txt",))
_CLIP_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_PROCESSOR_FILES = (("preprocessor_config.json",), ("processor_config.json",))


@dataclass(frozen=True)
class FolderKind:
    """One kind of folder.

    Attributes:
        title: what messages call it.
        classes: ``model_type`` of its config.json -> transformers' class of the network, and of what prepares images and words for it.
        public: a public model of this kind.
        tokenizer: files of which one set must be there; none where it reads no words.
        settings: what its configuration is overridden with.
    """

    title: str
    classes: Mapping[str, tuple[str, str]]
    public: str
    tokenizer: tuple[tuple[str, ...], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> str:
        """What belongs into a folder of this kind."""
        words = " or ".join(" and ".join(files) for files in self.tokenizer)
        return "config.json, model.safetensors, preprocessor_config.json" + (
            f", {words}, tokenizer_config.json" if words else ""
        )


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
    # SAM 2's public folders call themselves video models; their image part is loaded.
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
    """Load a network, frozen and in fp32 on the CPU. No network is used, no code of the folder is run and only ``.safetensors`` files are read.

    Args:
        folder: in transformers' layout.
        kind: what it must be.

    Returns:
        The network, and transformers' processor of its images and words.

    Raises:
        ModelError: the folder or a file of it is missing, damaged or pickled, or it is of another kind.
    """
    import transformers

    folder = model_folder(folder)
    model_type, name = check_folder(folder, kind), model_title(folder)
    network, processor = (getattr(transformers, each, None) for each in kind.classes[model_type])
    if network is None or processor is None:
        raise ModelError(
            f"{kind.title} '{name}': transformers {transformers.__version__} is too old for its kind, {model_type}. Update transformers."
        )
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = network.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **options, **kind.settings
        )
        prepared = processor.from_pretrained(str(folder), **options)
    except Exception as error:  # A foreign configuration can make transformers fail in any way.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"{kind.title} '{name}': transformers cannot load {folder} ({reason[:300]}). Get its files again: {kind.files}."
        ) from error
    # transformers itself would go on with random numbers in their place.
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(
            f"{kind.title} '{name}': {len(absent)} weights such as {absent[0]} are missing in {folder}. The file is incomplete or belongs to another "
            "config.json."
        )
    frozen: Module = model.float().eval().requires_grad_(False)
    return frozen, prepared


def check_folder(folder: Path, kind: FolderKind) -> str:
    """See from names, headers and settings that a folder can be loaded.

    Returns:
        The ``model_type`` of its config.json.

    Raises:
        ModelError: as :func:`load_folder`.
    """
    folder = model_folder(folder)
    here = f"{kind.title} '{model_title(folder)}'"
    advice = f"Put {kind.public}, or another model of its kind, into {folder}: {kind.files}. Nothing is downloaded by itself."
    if not folder.is_dir():
        raise ModelError(f"{here}: there is no folder {folder}. {advice}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{here}: config.json is missing. {advice}")
    config = read_config(folder / "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in kind.classes:
        raise ModelError(
            f"{here}: its config.json says '{model_type}', which is no {kind.title} ({', '.join(kind.classes)}). {advice}"
        )
    if any(config.get(key) for key in ("backbone", "use_timm_backbone", "use_pretrained_backbone")):
        raise ModelError(
            f"{here}: its config.json takes a part of the network from elsewhere (backbone), which is not done. {advice}"
        )
    for sets in (_PROCESSOR_FILES, kind.tokenizer):
        if sets and not any(all((folder / name).is_file() for name in names) for names in sets):
            raise ModelError(
                f"{here}: {' or '.join(' and '.join(names) for names in sets)} is missing. {advice}"
            )
    # Raises for weights that are missing, pickled, cut short or unsound.
    folder_weights(folder, ("model",))
    return model_type
