"""``python -m instructbrush``: learn and apply instructions without ComfyUI."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .devices import named_device
from .editing import command as editing
from .errors import InstructBrushError, PairError
from .evaluation import command as evaluation
from .finetuning import command as finetuning
from .instruction.file import read_header, save_instruction
from .instruction.inspect import facts
from .learning.captions import caption_pictures
from .learning.checkpoint import load_checkpoint, save_checkpoint
from .learning.objective import Direction, PairLatents
from .learning.pairs import load_pairs, thumbnail
from .learning.phrases import unique_phrases
from .learning.settings import preset_for
from .learning.trainer import Trainer
from .models.clip import OpenClipModel, load_clip, pocket_clip
from .models.editor import DiffusersEditor
from .options import add_model_options, named_editor
from .reasoning import command as reasoning

_CHECKPOINT_EVERY = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 an error a user can mend (one line on stderr), 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        if "device" in options:
            options.device = str(named_device(options.device))
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
    editor = named_editor(options)
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


def inspect(options: argparse.Namespace) -> None:
    """Print what an instruction file says of itself; of a blend, every part."""
    for number, part in enumerate(read_header(options.file)):
        if number:
            print()
        for name, value in facts(part.info, part.weight).items():
            print(f"{name:>10}: {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="instructbrush", description="Learn edits from before/after pairs and apply them to pictures.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: object, text: str, group: Any = commands) -> argparse.ArgumentParser:
        sub = group.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    learning = command("learn", learn, "Learn an instruction from a folder of before/after pairs.")
    add_model_options(learning)
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

    editing.add_options(
        command("apply", editing.apply, "Apply an instruction to a folder of pictures."),
        command("edit", editing.edit, "Edit a folder of pictures by words."),
    )

    benching = command("bench", evaluation.bench, "Compare methods on TOP-Bench, MagicBrush, Emu Edit Test or reasoning: learn from pairs, edit, measure.")
    add_model_options(benching, seed=False)
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
