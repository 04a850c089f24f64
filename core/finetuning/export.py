"""Writes a fine-tuned model as a diffusers folder: the new UNet and copies of the source's other parts."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..editing.editor import DiffusersEditor
from ..models.builtin import part_files, part_folder
from ..models.weights import read_json
from ..storage.files import replaced_folder

# Part -> its library and default class in model_index.json.
_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "EulerAncestralDiscreteScheduler"),
}
# Part -> file names of its weights, without extension.
_WEIGHT_STEMS = {
    "vae": ("diffusion_pytorch_model",),
    "text_encoder": ("model",),
    "tokenizer": (),
    "scheduler": (),
}


def save_model(editor: DiffusersEditor, source: Path, out: Path) -> Path:
    """Writes the editor as a diffusers folder, which may replace an older one, see ``replaced_folder``.

    Args:
        editor: its current UNet is written.
        source: the diffusers folder that the editor came from; the other parts are copied.
        out: the new folder.

    Returns:
        ``out``.

    Raises:
        StorageError: the folder cannot be written. An older folder stays unchanged.
    """
    with replaced_folder(out) as unfinished:
        _write(editor, source, unfinished)
    return out


def _write(editor: DiffusersEditor, source: Path, out: Path) -> None:
    editor.denoiser.unet.save_pretrained(out / "unet", safe_serialization=True, max_shard_size="100GB")
    for part, stems in _WEIGHT_STEMS.items():
        folder = part_folder(source, part)
        if folder.is_dir():
            (out / part).mkdir()
            for file in [*part_files(source, part, stems), *folder.glob("*.json"), *folder.glob("*.txt")]:
                shutil.copyfile(file, out / part / file.name)
    (out / "model_index.json").write_text(json.dumps(_model_index(source, out), indent=2), encoding="utf-8")


def _model_index(source: Path, out: Path) -> dict[str, Any]:
    """Returns the content of ``model_index.json``: the source's entries, and what diffusers needs besides."""
    index = read_json(source / "model_index.json") if (source / "model_index.json").is_file() else {}
    entries = {name: entry for name, entry in index.items() if name in _CLASSES}
    for part, (library, default) in _CLASSES.items():
        config = out / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        named = str(read_json(config).get("_class_name", default)) if config.is_file() else default
        entries.setdefault(part, [library, named])
    return {
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        **entries,
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
