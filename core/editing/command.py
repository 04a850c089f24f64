"""``apply`` and ``edit``: pictures of a folder, edited by an instruction or by words."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import InstructBrushError
from ..instruction.file import load_instruction
from ..models.editor import DiffusersEditor
from ..options import add_model_options, named_editor, positive
from ..picture_files import PICTURES, read_picture
from .folder import edit_pictures
from .injection import Injection, inject
from .sampler import edit_latents

_BATCH = 8 if torch.cuda.is_available() else 2


def add_options(applying: argparse.ArgumentParser, editing: argparse.ArgumentParser) -> None:
    """The options of ``apply`` and ``edit``."""
    for parser in (applying, editing):
        add_model_options(parser)
        parser.add_argument("--images", required=True, help="folder of pictures")
        parser.add_argument("--out", required=True, help="folder for the results (PNG, same names and sizes)")
        parser.add_argument("--text-scale", type=float, help="s_T (default 7.5, pocket editor 2)")
        parser.add_argument("--image-scale", type=float, default=1.5, help="s_I")
        parser.add_argument("--steps", type=int, default=20)
        parser.add_argument("--batch", type=positive, default=_BATCH, help=f"pictures of one size at once (default {_BATCH}); fewer where memory runs out")
    applying.add_argument("--instruction", required=True, help="instruction file")
    applying.add_argument("--strength", type=float, default=1.0)
    applying.add_argument("--end", type=int, default=0, help="T of the paper's Fig. 3: the instruction acts for timesteps T and above")
    editing.add_argument("--words", required=True)


def apply(options: argparse.Namespace) -> None:
    """Apply an instruction to every picture of a folder."""
    instruction = load_instruction(options.instruction)
    editor = named_editor(options)
    for remark in instruction.check_fits(editor.description):
        print(f"instructbrush: {remark}", file=sys.stderr)
    injection = inject(instruction, options.strength, end_timestep=options.end, device=editor.denoiser.device)
    _edit_folder(options, editor, editor.encode_text([""])[0], injection)


def edit(options: argparse.Namespace) -> None:
    """Edit every picture of a folder by words."""
    editor = named_editor(options)
    _edit_folder(options, editor, editor.encode_text([options.words])[0], None)


def _edit_folder(options: argparse.Namespace, editor: DiffusersEditor, context: Tensor, injection: Injection | None) -> None:
    source, out = Path(options.images), Path(options.out)
    if not source.is_dir():
        raise InstructBrushError(f"Images folder '{source}' does not exist. Give a folder of pictures.")
    pictures = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    if not pictures:
        raise InstructBrushError(f"Images folder '{source}' holds no pictures ({', '.join(sorted(PICTURES))}).")
    names = [path.stem for path in pictures]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise InstructBrushError(f"Images folder '{source}' holds two pictures named '{doubled}': their results would overwrite each other. Rename one.")
    if out.resolve() == source.resolve():
        raise InstructBrushError(f"Results would be written among the inputs in '{out}'. Give another --out folder.")
    text_scale = editor.description.family.default_text_scale if options.text_scale is None else options.text_scale
    null = editor.encode_text([""])[0]
    out.mkdir(parents=True, exist_ok=True)

    def edited(batch: Tensor) -> Tensor:
        latents = edit_latents(
            editor.denoiser,
            editor.condition(batch),
            context,
            null,
            injection,
            steps=options.steps,
            text_scale=text_scale,
            image_scale=options.image_scale,
            seed=[options.seed] * len(batch),
        )
        return editor.decode(latents)

    with tqdm(total=len(pictures), desc="editing", unit="picture") as bar:
        edit_pictures(pictures, out, read_picture, edited, options.batch, bar.update)
    print(f"{out}: {len(pictures)} pictures")
