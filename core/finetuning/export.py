"""A tuned model on disk: a diffusers folder that has a UNet of its own and everything else from the model that the run began with."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError

from ..editing.editor import DiffusersEditor
from ..models.builtin import part_files, part_folder
from ..models.weights import read_json
from ..storage.files import not_written

_STEMS = {"vae": ("diffusion_pytorch_model",), "text_encoder": ("model",), "tokenizer": (), "scheduler": ()}
"""Part -> names of its weights."""


def save_model(editor: DiffusersEditor, source: Path, out: Path) -> Path:
    """Write the editor as a diffusers folder, over an older one.

    Args:
        editor: its UNet, as it is now, is written.
        source: the diffusers folder that it came from; the other parts are copied.
        out: where the folder shall be. It is written beside that and then moved, so a folder of that name is always whole.

    Returns:
        ``out``.

    Raises:
        StorageError: it cannot be written. An older folder stays as it was.
    """
    made, older = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.older")
    shutil.rmtree(made, ignore_errors=True)
    try:
        _write(editor, source, made)
        shutil.rmtree(older, ignore_errors=True)
        if out.exists():
            out.replace(older)
        try:
            made.replace(out)
        except OSError:
            if older.exists():
                older.replace(out)
            raise
        shutil.rmtree(older, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(made, ignore_errors=True)
        raise not_written(out, error) from error
    return out


def _write(editor: DiffusersEditor, source: Path, made: Path) -> None:
    made.mkdir(parents=True)
    editor.denoiser.unet.save_pretrained(made / "unet", safe_serialization=True, max_shard_size="100GB")
    for part, stems in _STEMS.items():
        folder = part_folder(source, part)
        if folder.is_dir():
            (made / part).mkdir()
            for file in [*part_files(source, part, stems), *folder.glob("*.json"), *folder.glob("*.txt")]:
                shutil.copyfile(file, made / part / file.name)
    index = read_json(source / "model_index.json") if (source / "model_index.json").is_file() else {}
    index = {name: entry for name, entry in index.items() if name in _STEMS or name == "unet"}
    index |= {
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (made / "model_index.json").write_text(
        json.dumps(index | {"requires_safety_checker": False}, indent=2), encoding="utf-8"
    )
