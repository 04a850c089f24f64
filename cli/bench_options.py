"""Options of ``bench``, and which benchmarks each of them applies to."""

import argparse
from collections.abc import Sequence

from ..core.errors import EvaluationError
from ..core.evaluation.by_example.datasets.effect_files import SIDE
from ..core.evaluation.by_example.methods import DEFAULT_METHODS, METHODS
from ..core.evaluation.by_instruction.methods import ITEM_METHODS
from ..core.evaluation.preference.voting import VOTES
from .bench_pairs import CLEAN_IP2P, PAIR_BENCHMARKS, PPR10K, TOP_BENCH, add_pair_options
from .init_text import add_phrase_options
from .options import Several, finite_float

OUT_FOLDERS = {
    TOP_BENCH: "output/bench",
    CLEAN_IP2P: "output/clean-ip2p",
    PPR10K: "output/ppr10k",
    "magicbrush": "output/magicbrush",
    "emu-edit": "output/emu-edit",
    "reason": "output/reason",
}
"""Benchmark -> default folder of its results."""

_ITEM_BENCHMARKS = ("magicbrush", "emu-edit", "reason")
# Pixels; the deepest layers of the models need this many.
_LEAST_SIZE = 64
# Option -> the benchmarks it applies to. Options that are not listed apply to all benchmarks.
_APPLIES_TO = {
    "lpips": PAIR_BENCHMARKS,
    "steps": PAIR_BENCHMARKS,
    "set": PAIR_BENCHMARKS,
    "first_seed": PAIR_BENCHMARKS,
    "single_seed": PAIR_BENCHMARKS,
    "redo": PAIR_BENCHMARKS,
    "results": PAIR_BENCHMARKS,
    "find_scales": PAIR_BENCHMARKS,
    "eta": PAIR_BENCHMARKS,
    "lists": PAIR_BENCHMARKS,
    "cache": PAIR_BENCHMARKS,
    "fixed_noise": PAIR_BENCHMARKS,
    "directions": (CLEAN_IP2P,),
    "held_out": (CLEAN_IP2P,),
    "train_pairs": (PPR10K,),
    "test_pairs": (PPR10K,),
    "split": _ITEM_BENCHMARKS,
    "dino": _ITEM_BENCHMARKS,
    "captions": ("magicbrush",),
    "instruction": _ITEM_BENCHMARKS,
    "mllm": _ITEM_BENCHMARKS,
    "connector": _ITEM_BENCHMARKS,
    "tuned_model": _ITEM_BENCHMARKS,
    "study": _ITEM_BENCHMARKS,
    "study_items": _ITEM_BENCHMARKS,
    "study_vote": _ITEM_BENCHMARKS,
}


def check_options(options: argparse.Namespace) -> None:
    """Refuses options that do not apply to the benchmark, and values out of range.

    Raises:
        EvaluationError: names the option.
    """
    for name, benchmarks in _APPLIES_TO.items():
        value = getattr(options, name)
        # 0 is a value, too, and False is --no-find-scales, or a switch that is not given.
        is_given = value is not None and value != [] and (value is not False or name == "find_scales")
        if is_given and options.benchmark not in benchmarks:
            option = f"--{'no-' * (value is False)}{name.replace('_', '-')}"
            raise EvaluationError(
                f"{option} does nothing with --benchmark {options.benchmark}. Leave it out."
            )
    _check_size(options)
    for name in ("study_items", "study_vote"):
        if getattr(options, name) is not None and not options.study:
            raise EvaluationError(f"--{name.replace('_', '-')} does nothing without --study. Leave it out.")
    if options.study_items is not None and options.study_items < 1:
        raise EvaluationError(f"--study-items is {options.study_items}; it must be at least 1.")


def _check_size(options: argparse.Namespace) -> None:
    """Refuses sizes that the models cannot edit.

    Raises:
        EvaluationError: --size is too small, or no multiple of 8 for pairs, which are cropped to it.
    """
    size = options.size
    if size and size < _LEAST_SIZE:
        raise EvaluationError(
            f"--size is {size}; it must be at least {_LEAST_SIZE}, or 0 to keep the images' own sizes."
        )
    if size % 8 and options.benchmark in PAIR_BENCHMARKS:
        raise EvaluationError(
            f"--size is {size}; it must be a multiple of 8, such as {size - size % 8} or {size + -size % 8}."
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``bench`` except model and device."""
    parser.add_argument(
        "--benchmark",
        choices=tuple(OUT_FOLDERS),
        default="top-bench",
        help="which data set to compare on (default top-bench)",
    )
    parser.add_argument(
        "--data",
        required=True,
        help="folder of the benchmark. TOP-Bench: a folder for each effect, with 10 training and 5 test "
        "pairs. Clean-InstructPix2Pix: InstructPix2Pix's folders with prompt.json. PPR10K: "
        "train_val_images_tif_360p. MagicBrush: images/ and edit_sessions.json, or .parquet files. "
        "Emu Edit Test: .parquet files. Reasoning instructions: reason.json or .parquet files",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=SIDE,
        help=f"images are scaled and cropped to this many pixels: {_LEAST_SIZE} or more, a multiple of 8 "
        f"for pairs; 0 keeps them (default {SIDE})",
    )
    parser.add_argument(
        "--clip",
        help="CLIP for the metrics and the init text, such as ViT-L-14/openai (default: the pocket editor's)",
    )
    parser.add_argument("--clip-folder", help="folder of its .safetensors")
    parser.add_argument(
        "--lpips",
        help="AlexNet's ImageNet weights for LPIPS (.safetensors; tools/get_backbone.py gets them); "
        "without them that column stays empty",
    )
    add_pair_options(parser)
    _add_item_options(parser)
    all_methods = tuple(dict.fromkeys((*METHODS, *ITEM_METHODS)))
    add_run_options(parser, ", ".join(OUT_FOLDERS.values()), all_methods)
    parser.set_defaults(methods=None, out=None)


def _add_item_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("MagicBrush, Emu Edit Test and reasoning instructions")
    group.add_argument(
        "--split", help="which .parquet files to read (default: dev for MagicBrush, test for the others)"
    )
    group.add_argument(
        "--dino",
        help="folder of a DINO model in transformers' layout, such as facebook/dino-vits16; "
        "without it that column stays empty",
    )
    group.add_argument(
        "--captions",
        help="MagicBrush's local_descriptions.json for CLIP-T (default: the one beside edit_sessions.json)",
    )
    group.add_argument("--instruction", help="file of a learned instruction, for the method of that name")
    group.add_argument(
        "--mllm",
        help="folder of a vision-language model in transformers' layout, for explain and encode "
        "(default: the pocket reader)",
    )
    group.add_argument("--connector", help="file of a connector, for encode (default: the pocket reader's)")
    group.add_argument(
        "--tuned-model",
        help="the editor that was fine-tuned with the connector, for encode "
        "(default: the pocket reasoning editor)",
    )
    group.add_argument(
        "--study",
        metavar="FOLDER",
        help="also begin preference studies of the methods: FOLDER/single (MagicBrush), FOLDER/captioned "
        "(Emu Edit Test), FOLDER/direct and FOLDER/reasoning. If FOLDER is in ComfyUI's "
        "output/instructbrush_studies, the node Judge Preference opens them; once they are judged, the same "
        "command prints the ratings",
    )
    group.add_argument(
        "--study-items",
        type=int,
        metavar="N",
        help="number of examples drawn for each study (default: the papers', 500, or 100 for reasoning)",
    )
    group.add_argument(
        "--study-vote",
        choices=VOTES,
        help="pairs: the better of each two methods, or a tie. best: the best of all methods, as in "
        "ReasonPix2Pix (default: pairs; MagicBrush and Emu Edit Test ask by UltraEdit's three criteria)",
    )


def add_run_options(
    parser: argparse.ArgumentParser, out: str, methods: Sequence[str] = tuple(METHODS)
) -> None:
    """Adds the options that every benchmark has, also PocketBench in tools/."""
    parser.add_argument(
        "--methods",
        action=Several,
        choices=methods,
        default=list(DEFAULT_METHODS),
        metavar="METHOD",
        help=", ".join(methods),
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="number of seeds; every method runs with each",
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        metavar="N",
        help="leave the seeds before N to other runs into the same folder (default 0)",
    )
    parser.add_argument(
        "--single-seed",
        action=Several,
        default=[],
        metavar="METHOD",
        help="methods that run with seed 0 only",
    )
    parser.add_argument(
        "--seconds",
        type=finite_float,
        metavar="N",
        help="begin no result after N seconds and stop with exit code 3; the same command continues",
    )
    parser.add_argument(
        "--redo",
        action="store_true",
        help="make results anew that were made with other settings of their method; without it they are an "
        "error",
    )
    parser.add_argument(
        "--find-scales",
        action=argparse.BooleanOptionalAction,
        help="find s_T and s_I of methods that learn on their training pairs (default: yes, unless "
        "--text-scale or --image-scale is given; methods with the papers' settings never do)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="learning steps of every method (default: those of the presets; PocketBench: 250, but the "
        "paper's 1000 for instructbrush_paper and instructbrush_paper_guided)",
    )
    parser.add_argument(
        "--set",
        action=Several,
        default=[],
        metavar="SPACE.NAME=VALUE",
        help="learning settings that differ from the preset's, such as attention.objective=guided. A new "
        "learning_rate takes the final_learning_rate with it in proportion, unless that is set, too. The "
        "methods instructbrush_paper and instructbrush_paper_guided keep the paper's",
    )
    add_phrase_options(parser)
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="folder for the features of word lists (default: the folder phrases beside --out)",
    )
    parser.add_argument(
        "--fixed-noise",
        action="store_true",
        help="learn with fixed noise, and edit with the same noise (Visii); not for instructbrush_paper and "
        "instructbrush_paper_guided",
    )
    parser.add_argument(
        "--stored",
        action=Several,
        default=[],
        metavar="NAME=FOLDER",
        help="images that another program made of the test images, measured as the method NAME; they are "
        "FOLDER/EFFECT_OR_ITEM/NAME-SEED-INDEX.png, as the benchmark names its own",
    )
    parser.add_argument(
        "--sampling-steps", type=int, default=20, help="sampling steps of every edit (default 20)"
    )
    parser.add_argument("--text-scale", type=finite_float, help="s_T (default 7.5, pocket editor 2)")
    parser.add_argument("--image-scale", type=finite_float, help="s_I (default 1.5)")
    parser.add_argument(
        "--effects",
        action=Several,
        metavar="EFFECT",
        help="run only these effects (or items of other benchmarks)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with code 1 if effects or items cannot be read; otherwise they are skipped",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="number of processes, each with its share of the machine's threads",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="run on a Ray cluster instead: the one of RAY_ADDRESS, or one started here",
    )
    parser.add_argument(
        "--out",
        default=out,
        help=f"folder for results; the same command resumes a stopped run (default {out})",
    )
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="one .jsonl file of all results without their images, read before the run and written at its "
        "end, so that a run goes on where that of another machine stopped (default: none)",
    )
