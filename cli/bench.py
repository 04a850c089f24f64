"""``python -m instructbrush bench``: TOP-Bench or one of one's own, MagicBrush, Emu Edit Test and reasoning instructions, from the command line."""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..core.errors import EvaluationError, InstructBrushError
from ..core.evaluation.by_example.effects import EffectSource
from ..core.evaluation.by_example.methods import DEFAULT_METHODS, METHODS
from ..core.evaluation.by_example.report import write_report
from ..core.evaluation.by_example.results import EffectFolder, Outcome
from ..core.evaluation.by_example.run import EffectRunSettings
from ..core.evaluation.by_example.tables import text_tables
from ..core.evaluation.by_example.top_bench import SIDE, TABLE_3, read_top_bench
from ..core.evaluation.by_instruction import report as item_report
from ..core.evaluation.by_instruction.datasets.emu_edit import read_emu_edit
from ..core.evaluation.by_instruction.datasets.item_storage import StoredItem
from ..core.evaluation.by_instruction.datasets.magicbrush import read_magicbrush
from ..core.evaluation.by_instruction.datasets.reasoning import read_reason
from ..core.evaluation.by_instruction.methods import ITEM_METHODS
from ..core.evaluation.by_instruction.results import ItemFolder
from ..core.evaluation.by_instruction.run import ItemRunSettings
from ..core.evaluation.by_instruction.studies import begin_studies
from ..core.evaluation.by_instruction.tables import EMU_EDIT, MAGICBRUSH, REASON, text_table
from ..core.evaluation.metrics import mean
from ..core.evaluation.runner import run
from .options import add_scale_options, sampling_settings
from .terminal import say

_OUT = {
    "top-bench": "output/bench",
    "magicbrush": "output/magicbrush",
    "emu-edit": "output/emu-edit",
    "reason": "output/reason",
}
"""Benchmark -> where its results go."""
_FOREIGN = {
    "top-bench": ("split", "dino", "captions", "instruction", "mllm", "connector", "tuned_model", "study"),
    "magicbrush": ("lpips", "steps", "set", "study"),
    "emu-edit": ("lpips", "steps", "set", "captions", "study"),
    "reason": ("lpips", "steps", "set", "captions"),
}
"""Benchmark -> options that belong to another."""
_ITEM_DEFAULTS = {"reason": ("words", "explain", "encode", "encode_blind")}
"""Benchmark of items -> methods it is about; of others the words alone."""
_LISTED = 40
"""Names that an error lists; MagicBrush has hundreds."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench`` beside model and device."""
    parser.add_argument("--benchmark", choices=tuple(_OUT), default="top-bench")
    parser.add_argument(
        "--data",
        required=True,
        help="TOP-Bench's folder: one folder for each effect, with 10 training and 5 test pairs. MagicBrush's folder with images/ and edit_sessions.json, "
        "or with .parquet files; Emu Edit Test's with .parquet files; reasoning instructions: a folder with reason.json or .parquet files",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=SIDE,
        help=f"images are scaled and cropped to this many pixels; 0 keeps them (default {SIDE})",
    )
    parser.add_argument(
        "--clip", help="CLIP that judges and begins, such as ViT-L-14/openai (default: the pocket editor's)"
    )
    parser.add_argument("--clip-folder", help="folder of its .safetensors")
    parser.add_argument(
        "--lpips",
        help="AlexNet's ImageNet weights for LPIPS (.safetensors; tools/get_backbone.py brings them); else that column stays empty",
    )
    items = parser.add_argument_group("MagicBrush, Emu Edit Test and reasoning instructions")
    items.add_argument("--split", help="which .parquet files (default: dev of MagicBrush, test of others)")
    items.add_argument(
        "--dino",
        help="folder of a DINO in transformers' layout, such as facebook/dino-vits16; else that column stays empty",
    )
    items.add_argument(
        "--captions",
        help="MagicBrush's local_descriptions.json for CLIP-T (default: the one beside edit_sessions.json)",
    )
    items.add_argument("--instruction", help="file of a learned instruction, for the method of that name")
    items.add_argument(
        "--mllm",
        help="folder of a vision-language model in transformers' layout, for explain and encode (default: the pocket reader)",
    )
    items.add_argument("--connector", help="file of a connector, for encode (default: the pocket reader's)")
    items.add_argument(
        "--tuned-model",
        help="the editor that was tuned with the connector, for encode (default: the pocket reasoning editor)",
    )
    items.add_argument(
        "--study",
        metavar="FOLDER",
        help="reasoning instructions: also begin studies of preference between the methods, FOLDER/direct and FOLDER/reasoning. In ComfyUI's "
        "output/instructbrush_studies Judge Preference goes on with them; once they are judged the same command prints the ratings",
    )
    items.add_argument(
        "--study-items",
        type=int,
        default=100,
        metavar="N",
        help="so many items are drawn for each study (default 100)",
    )
    run_options(parser, ", ".join(_OUT.values()), tuple(dict.fromkeys((*METHODS, *ITEM_METHODS))))
    parser.set_defaults(methods=None, out=None)


def run_options(parser: argparse.ArgumentParser, out: str, methods: Sequence[str] = tuple(METHODS)) -> None:
    """Options that every benchmark has."""
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=methods,
        default=list(DEFAULT_METHODS),
        metavar="METHOD",
        help=", ".join(methods),
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="repeat everything with so many seeds; from two on tables show 95 %% intervals",
    )
    parser.add_argument("--steps", type=int, help="learning steps (default: the preset's)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SPACE.NAME=VALUE",
        help="learning settings other than the preset's, such as attention.objective=guided",
    )
    parser.add_argument("--sampling-steps", type=int, default=20)
    add_scale_options(parser)
    parser.add_argument(
        "--effects", nargs="+", metavar="EFFECT", help="only these effects, or items of another benchmark"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with exit code 1 where effects or items cannot be read; else they are skipped",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="processes that work side by side, each with its share of the machine's threads",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="run on a Ray cluster instead: the one of RAY_ADDRESS, or one started here",
    )
    parser.add_argument(
        "--out",
        default=out,
        help=f"folder for results; the same command goes on where it was stopped (default {out})",
    )


def bench(options: argparse.Namespace) -> None:
    """Run a benchmark and print its tables.

    Raises:
        EvaluationError: an option that belongs to another benchmark, and all that reading and running raise.
    """
    foreign = next((name for name in _FOREIGN[options.benchmark] if getattr(options, name)), None)
    if foreign is not None:
        raise EvaluationError(
            f"--{foreign.replace('_', '-')} does nothing with --benchmark {options.benchmark}. Leave it out."
        )
    options.out = options.out or _OUT[options.benchmark]
    if options.benchmark != "top-bench":
        _bench_items(options)
        return
    options.methods = options.methods or list(DEFAULT_METHODS)
    side = options.size or None
    sources = read_top_bench(options.data, side)
    if len(sources) < len(TABLE_3):
        say(f"{len(sources)} of TOP-Bench's {len(TABLE_3)} effects are there.")
    data = f"{Path(options.data).resolve()} at {side or 'own'} px"
    run_and_report(
        options,
        sources,
        "TOP-Bench",
        data,
        clip=options.clip,
        clip_folder=options.clip_folder,
        lpips=options.lpips,
    )


def run_and_report(
    options: argparse.Namespace, sources: Sequence[EffectSource], benchmark: str, data: str, **rest: Any
) -> list[Outcome]:
    """Run, write the report and print the tables.

    Args:
        options: of :func:`run_options`, and ``model`` and ``device``.
        sources: the effects, of which ``--effects`` may choose.
        benchmark: its name.
        data: names the images, see :func:`~..core.evaluation.runner.run`.
        rest: further fields of :class:`~..core.evaluation.runner.EffectRunSettings`.

    Raises:
        EvaluationError: an effect that does not exist, and all that a run raises.
    """
    chosen = _chosen(sources, options.effects)
    settings = EffectRunSettings(
        methods=tuple(dict.fromkeys(options.methods)),
        seeds=options.seeds,
        steps=options.steps,
        sampling=sampling_settings(options, options.sampling_steps),
        model=options.model,
        device=options.device,
        cache=str(Path(options.out).resolve().with_name("phrases")),
        changes=tuple(options.set),
        **rest,
    )
    folder = EffectFolder(options.out)
    began = time.monotonic()
    unread = _Unread()
    watch = _progress(began, lambda one: f"{mean(one.psnr):.2f} dB")
    outcomes = run(
        chosen, settings, folder, data=data, jobs=options.jobs, ray=options.ray, watch=watch, skip=unread.skip
    )
    read = unread.others(chosen)
    # The tables first: they are there even where the report cannot be written.
    print(text_tables(outcomes, benchmark))
    about = {"data": data, "seeds": settings.seeds, **settings.describe()}
    page = write_report(folder, outcomes, read, benchmark, about)
    print(f"\n{page}: report with all images; results.json, results.csv and grid.png beside it")
    unread.tell(len(chosen), options.strict)
    return outcomes


class _Unread:
    """Effects or items that cannot be read."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._first = ""

    def skip(self, name: str, error: InstructBrushError) -> None:
        """See :data:`~..core.evaluation.runner.Skip`."""
        self._first = self._first or str(error)
        self._names.append(name)
        say(f"skipped {name}: {error}")

    def others(self, sources: Sequence[Any]) -> list[Any]:
        """The sources that can be read.

        Raises:
            EvaluationError: there are none.
        """
        read = [source for source in sources if source.name not in self._names]
        if not read:
            raise EvaluationError(f"Benchmark: nothing of it can be read. {self._first}")
        return read

    def tell(self, count: int, strict: bool) -> None:
        """Say how many of all were skipped.

        Raises:
            EvaluationError: there are some, and the run is strict.
        """
        if not self._names:
            return
        some = ", ".join([*self._names[:_LISTED], *(["..."] if len(self._names) > _LISTED else [])])
        told = f"{len(self._names)} of {count} could not be read and are left out: {some}"
        if strict:
            raise EvaluationError(f"Benchmark: {told}. The results of the others are kept.")
        say(told)


def _bench_items(options: argparse.Namespace) -> None:
    """MagicBrush, Emu Edit Test or reasoning instructions."""
    if options.study_items < 1:
        raise EvaluationError(f"--study-items is {options.study_items}, it must be at least 1.")
    if options.benchmark == "magicbrush":
        benchmark, found = (
            MAGICBRUSH,
            read_magicbrush(options.data, options.split or "dev", options.captions, options.strict),
        )
    elif options.benchmark == "reason":
        benchmark, found = REASON, read_reason(options.data, options.split or "test", options.strict)
    else:
        benchmark, found = EMU_EDIT, read_emu_edit(options.data, options.split or "test", options.strict)
    chosen = _chosen(found.items, options.effects)
    settings = ItemRunSettings(
        methods=tuple(dict.fromkeys(options.methods or _ITEM_DEFAULTS.get(options.benchmark, ("words",)))),
        seeds=options.seeds,
        sampling=sampling_settings(options, options.sampling_steps),
        side=options.size or None,
        model=options.model,
        device=options.device,
        clip=options.clip,
        clip_folder=options.clip_folder,
        dino=options.dino,
        instruction=options.instruction,
        mllm=options.mllm,
        connector=options.connector,
        tuned_model=options.tuned_model,
        cache=str(Path(options.out).resolve().with_name("mllm")),
    )
    folder = ItemFolder(options.out)
    data = f"{Path(options.data).resolve()}, words {_digest(found.items)}"
    watch = _progress(time.monotonic(), lambda one: f"L1 {mean(one.l1):.4f}")
    unread = _Unread()
    scores = run(
        chosen, settings, folder, data=data, jobs=options.jobs, ray=options.ray, watch=watch, skip=unread.skip
    )
    read = unread.others(chosen)
    print(text_table(scores, benchmark, found.remarks))
    about = {"data": data, "seeds": settings.seeds, **settings.describe()}
    page = item_report.write_report(folder, scores, read, benchmark, settings.side, about, found.remarks)
    print(f"\n{page}: report with all images; results.json, results.csv and grid.png beside it")
    if options.study:
        for study in begin_studies(folder, scores, read, benchmark, Path(options.study), options.study_items):
            judged = (
                study.report()
                if study.judgements
                else f"{len(study.comparisons)} comparisons to be judged in Judge Preference."
            )
            print(f"\n{study.folder}:\n{judged}")
    unread.tell(len(chosen), options.strict)


def _digest(items: Sequence[StoredItem]) -> str:
    """Of all instructions and captions, so that a folder of results goes on with the same ones only."""
    words = [
        (item.name, turn.words, turn.caption, turn.caption_before) for item in items for turn in item.turns
    ]
    return sha256(json.dumps(words).encode()).hexdigest()[:16]


def _chosen(sources: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
    known: Mapping[str, Any] = {source.name: source for source in sources}
    unknown = next((name for name in names or () if name not in known), None)
    if unknown is not None:
        some = ", ".join([*list(known)[:_LISTED], *(["..."] if len(known) > _LISTED else [])])
        raise EvaluationError(f"Effect '{unknown}' does not exist here. Choose from {some}.")
    return [source for source in sources if names is None or source.name in names]


def _progress(began: float, figure: Callable[[Any], str]) -> Callable[[Any, int, int], None]:
    first: list[int] = []

    def show(outcome: Any, done: int, total: int) -> None:
        # What an earlier run finished took no time in this one.
        first.append(done)
        fresh = done - first[0] + 1
        left = (time.monotonic() - began) / fresh * (total - done) / 60
        method, name, number = outcome.key
        seed = f" seed {number}" if number else ""
        print(
            f"[{done}/{total}] {name} {method}{seed}: {figure(outcome)} ({outcome.seconds:.0f} s, about {left:.0f} min left)",
            flush=True,
        )

    return show
