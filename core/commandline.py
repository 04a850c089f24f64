"""``python -m instructbrush``: learn and apply instructions without ComfyUI."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .editing.folder import edit_pictures
from .editing.injection import Injection, inject
from .editing.sampler import edit_latents
from .errors import InstructBrushError, PairError
from .evaluation import command as evaluation
from .finetuning import command as finetuning
from .instruction.file import load_instruction, read_header, save_instruction
from .instruction.inspect import facts
from .learning.captions import caption_pictures
from .learning.checkpoint import load_checkpoint, save_checkpoint
from .learning.objective import Direction, PairLatents
from .learning.pairs import PICTURES, load_pairs, read_picture
from .learning.phrases import unique_phrases
from .learning.settings import preset_for
from .learning.trainer import Trainer
from .models.clip import OpenClipModel, load_clip, pocket_clip
from .models.loading import DiffusersEditor, describe, load_editor
from .pictures import thumbnail
from .reasoning import command as reasoning

_CHECKPOINT_EVERY = 100
_BATCH = 8 if torch.cuda.is_available() else 2
_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 an error a user can mend (one line on stderr), 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except InstructBrushError as error:
        print(f"instructbrush: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("instructbrush: interrupted", file=sys.stderr)
        return 130
    return 0


def learn(options: argparse.Namespace) -> None:
    """Learn an instruction from a folder of pairs. Stopped with Ctrl-C it leaves a checkpoint, and the same command goes on from there."""
    out = Path(options.out)
    if out.exists() and not options.overwrite:
        raise InstructBrushError(f"'{out}' exists already. Choose another name, or add --overwrite.")
    editor = _editor(options)
    preset = preset_for(editor.description.family.name, options.space)
    given = {"steps": options.steps, "objective": options.objective, "learning_rate": options.learning_rate}
    settings = replace(preset, seed=options.seed, **{name: value for name, value in given.items() if value is not None})
    pairs = load_pairs(options.pairs, options.size)
    for pair in pairs:
        if any(side % 8 for side in pair.before.shape[:2]):
            raise PairError(f"Pair '{pair.name}' is {pair.before.shape[1]} x {pair.before.shape[0]}: sides must be multiples of 8. Add --size 512 (or 128).")
    latents = PairLatents.encode(pairs, editor.encode_images, editor.scale, editor.condition)
    clip = _clip(options, editor) if options.begin != "words" or settings.direction_weight else None
    init = options.init
    if options.begin == "phrases":
        init = unique_phrases(_needed(clip), pairs).init_text
    elif options.begin == "caption":
        init = caption_pictures(_needed(clip), [pair.after for pair in pairs]).text
    if options.begin != "words":
        print(f"instructbrush: learning begins with '{init}'", file=sys.stderr)
    if clip is None:
        settings = replace(settings, direction_weight=0.0)
    context, null = editor.encode_text([init, ""])
    direction = Direction.of(pairs, clip) if clip is not None and settings.direction_weight else None
    trainer = Trainer(editor.denoiser, latents, context, null, settings, init, editor.count_tokens(init), direction)
    checkpoint = out.with_name(f".{out.stem}.checkpoint")
    if checkpoint.exists():
        load_checkpoint(trainer, checkpoint)
        print(f"instructbrush: going on from step {trainer.steps_done} ({checkpoint})", file=sys.stderr)
    with tqdm(total=settings.steps, initial=trainer.steps_done, desc="learning", unit="step") as bar:

        def advance(done: int, total: int) -> None:
            bar.update()
            if done % _CHECKPOINT_EVERY == 0 and done < total:
                save_checkpoint(trainer, checkpoint)

        try:
            trainer.run(advance)
        except KeyboardInterrupt:
            save_checkpoint(trainer, checkpoint)
            raise
    save_instruction(trainer.instruction(out.stem), out, overwrite=options.overwrite, thumbnail=thumbnail(pairs))
    checkpoint.unlink(missing_ok=True)
    print(f"{out}: {trainer.steps_done} steps, loss {trainer.instruction().info.final_loss:.4f}")


def _clip(options: argparse.Namespace, editor: DiffusersEditor) -> OpenClipModel | None:
    """The CLIP that was named; else the pocket editor's own for the pocket editor, and none for another model."""
    if options.clip:
        return load_clip(options.clip, Path(options.clip_folder or "."), options.device)
    return pocket_clip(options.device) if editor.description.family.name == "pocket" else None


def _needed(clip: OpenClipModel | None) -> OpenClipModel:
    if clip is None:
        raise InstructBrushError("Finding words for the pairs takes a CLIP. Add --clip ViT-L-14/openai and --clip-folder DIR, or give the words with --init.")
    return clip


def apply(options: argparse.Namespace) -> None:
    """Apply an instruction to every picture of a folder."""
    instruction = load_instruction(options.instruction)
    editor = _editor(options)
    for remark in instruction.check_fits(editor.description):
        print(f"instructbrush: {remark}", file=sys.stderr)
    injection = inject(instruction, options.strength, end_timestep=options.end, device=editor.denoiser.device)
    _edit_folder(options, editor, editor.encode_text([""])[0], injection)


def edit(options: argparse.Namespace) -> None:
    """Edit every picture of a folder by words."""
    editor = _editor(options)
    _edit_folder(options, editor, editor.encode_text([options.words])[0], None)


def inspect(options: argparse.Namespace) -> None:
    """Print what an instruction file says of itself; of a blend, every part."""
    for number, part in enumerate(read_header(options.file)):
        if number:
            print()
        for name, value in facts(part.info, part.weight).items():
            print(f"{name:>10}: {value}")


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


def _editor(options: argparse.Namespace) -> DiffusersEditor:
    """The model that was named, in half precision where a GPU computes with a full-size one, unless told otherwise."""
    precision = options.precision
    if precision == "auto":
        full_size = describe(options.model).family.name != "pocket"
        precision = "fp16" if full_size and torch.device(options.device).type == "cuda" else "fp32"
    return load_editor(options.model, options.device, _PRECISIONS[precision])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="instructbrush", description="Learn edits from before/after pairs and apply them to pictures.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: object, text: str, group: Any = commands) -> argparse.ArgumentParser:
        sub = group.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    def model_options(sub: argparse.ArgumentParser, seed: bool = True) -> None:
        sub.add_argument("--model", help="diffusers folder or .safetensors checkpoint (default: the built-in pocket editor)")
        sub.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        if seed:
            sub.add_argument("--seed", type=int, default=0)
            sub.add_argument(
                "--precision", choices=("auto", *_PRECISIONS), default="auto", help="auto: fp16 for a full-size model on a GPU, fp32 otherwise"
            )

    def picture_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--images", required=True, help="folder of pictures")
        sub.add_argument("--out", required=True, help="folder for the results (PNG, same names and sizes)")
        sub.add_argument("--text-scale", type=float, help="s_T (default 7.5, pocket editor 2)")
        sub.add_argument("--image-scale", type=float, default=1.5, help="s_I")
        sub.add_argument("--steps", type=int, default=20)
        sub.add_argument("--batch", type=_positive, default=_BATCH, help=f"pictures of one size at once (default {_BATCH}); fewer where memory runs out")

    learning = command("learn", learn, "Learn an instruction from a folder of before/after pairs.")
    model_options(learning)
    learning.add_argument("--pairs", required=True, help="folder: {i}_0/{i}_1 pictures, before/ and after/, or pairs.json")
    learning.add_argument("--out", required=True, help="instruction file to write (.safetensors)")
    learning.add_argument("--init", default="", help="words that come close to the edit")
    learning.add_argument(
        "--begin",
        choices=("words", "phrases", "caption"),
        default="words",
        help="where learning begins: --init, phrases that tell before from after (InstructBrush), or a caption of the pictures after (Visii)",
    )
    learning.add_argument(
        "--space", choices=("attention", "text"), default="attention", help="attention: keys and values of every layer; text: text states (Visii)"
    )
    learning.add_argument("--clip", help="CLIP for phrases, captions and Visii's direction, such as ViT-L-14/openai (pocket editor: its own)")
    learning.add_argument("--clip-folder", help="folder of its .safetensors")
    learning.add_argument("--steps", type=int)
    learning.add_argument("--learning-rate", type=float)
    learning.add_argument("--objective", choices=("plain", "guided"))
    learning.add_argument("--size", type=int, help="scale and crop every picture to a square of this many pixels")
    learning.add_argument("--overwrite", action="store_true")

    applying = command("apply", apply, "Apply an instruction to a folder of pictures.")
    model_options(applying)
    picture_options(applying)
    applying.add_argument("--instruction", required=True, help="instruction file")
    applying.add_argument("--strength", type=float, default=1.0)
    applying.add_argument("--end", type=int, default=0, help="T of the paper's Fig. 3: the instruction acts for timesteps T and above")

    editing = command("edit", edit, "Edit a folder of pictures by words.")
    model_options(editing)
    picture_options(editing)
    editing.add_argument("--words", required=True)

    benching = command("bench", evaluation.bench, "Compare methods on TOP-Bench, MagicBrush, Emu Edit Test or reasoning: learn from pairs, edit, measure.")
    model_options(benching, seed=False)
    evaluation.add_options(benching)

    tuning = command("train-region", finetuning.train_region, "Tune a model into one that reads masks, on UltraEdit's data or one's own (needs accelerate).")
    finetuning.add_options(tuning)

    thinking = command("reason", None, "Instructions that need a thought: what is done with a vision-language model.").add_subparsers(
        required=True, metavar="what"
    )
    joining = command("train", reasoning.train, "Tune a model together with a connector to a vision-language model (needs accelerate).", thinking)
    reasoning.add_options(joining)

    inspecting = command("inspect", inspect, "Show what an instruction file says of itself.")
    inspecting.add_argument("file")
    return parser
