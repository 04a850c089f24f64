"""``python -m instructbrush bench``: runs the benchmarks of the papers."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..core.editing.settings import SamplingSettings
from ..core.errors import EvaluationError, InstructBrushError, UnfinishedError
from ..core.evaluation.by_example.comparison import comparison_text
from ..core.evaluation.by_example.effects import EffectSource
from ..core.evaluation.by_example.methods import METHODS
from ..core.evaluation.by_example.report import write_report
from ..core.evaluation.by_example.results import EffectFolder, Outcome
from ..core.evaluation.by_example.run import EffectRunSettings
from ..core.evaluation.by_example.tables import text_tables
from ..core.evaluation.by_instruction import report as item_report
from ..core.evaluation.by_instruction.datasets.emu_edit import read_emu_edit
from ..core.evaluation.by_instruction.datasets.item_storage import ItemSet, StoredItem
from ..core.evaluation.by_instruction.datasets.magicbrush import read_magicbrush
from ..core.evaluation.by_instruction.datasets.reasoning import read_reason
from ..core.evaluation.by_instruction.methods import ITEM_METHODS
from ..core.evaluation.by_instruction.results import ItemFolder, Score
from ..core.evaluation.by_instruction.run import ItemRunSettings
from ..core.evaluation.by_instruction.studies import PLANS, begin_studies
from ..core.evaluation.by_instruction.tables import EMU_EDIT, MAGICBRUSH, REASON, ItemBenchmark, text_table
from ..core.evaluation.metrics import mean
from ..core.evaluation.protocols import BenchmarkSettings, Source
from ..core.evaluation.results import ResultFolder
from ..core.evaluation.runner import keys_of, run
from ..core.evaluation.stored_images import StoredImages, parse_stored
from ..core.evaluation.workers import Workers
from .bench_options import OUT_FOLDERS, check_options
from .bench_pairs import default_methods, read_pairs
from .terminal import say

# Error messages list this many names; MagicBrush has hundreds.
_MAX_LISTED = 40


@dataclass(frozen=True)
class _ItemCommand:
    """How ``bench`` runs a benchmark of items."""

    table: ItemBenchmark
    read: Callable[[argparse.Namespace], ItemSet]
    methods: tuple[str, ...] = ("words",)
    """Methods that run without ``--methods``."""


_ITEM_COMMANDS = {
    "magicbrush": _ItemCommand(
        MAGICBRUSH,
        lambda options: read_magicbrush(
            options.data, options.split or "dev", options.captions, options.strict
        ),
    ),
    "emu-edit": _ItemCommand(
        EMU_EDIT, lambda options: read_emu_edit(options.data, options.split or "test", options.strict)
    ),
    "reason": _ItemCommand(
        REASON,
        lambda options: read_reason(options.data, options.split or "test", options.strict),
        ("words", "explain", "encode", "encode_blind"),
    ),
}


def bench(options: argparse.Namespace) -> None:
    """Runs a benchmark, prints its tables and writes its report.

    Raises:
        EvaluationError: an option does not apply to the benchmark, or reading or running fails.
    """
    check_options(options)
    options.out = options.out or OUT_FOLDERS[options.benchmark]
    if options.benchmark in _ITEM_COMMANDS:
        _bench_items(options, _ITEM_COMMANDS[options.benchmark])
    else:
        _bench_pairs(options)


def _bench_pairs(options: argparse.Namespace) -> None:
    options.methods = options.methods or default_methods(options.benchmark)
    found = read_pairs(options)
    models = {"clip": options.clip, "clip_folder": options.clip_folder, "lpips": options.lpips}
    run_and_report(options, found.sources, found.name, found.data, **models)


def run_and_report(
    options: argparse.Namespace,
    sources: Sequence[EffectSource],
    benchmark: str,
    data: str,
    **more_settings: Any,
) -> list[Outcome]:
    """Runs a benchmark of effects, prints its tables and writes its report.

    Args:
        options: those of ``add_run_options``, ``model`` and ``device``.
        sources: the effects; ``--effects`` may select some of them.
        benchmark: its name.
        data: identifies the images, see ``run`` in core/evaluation/runner.py.
        more_settings: further fields of ``EffectRunSettings``.

    Raises:
        EvaluationError: an effect does not exist, or the run fails.
    """
    selected = _select(sources, options.effects)
    stored = parse_stored(options.stored, tuple(METHODS))
    settings = EffectRunSettings(
        methods=tuple(dict.fromkeys((*options.methods, *(images.name for images in stored)))),
        seeds=options.seeds,
        steps=options.steps,
        sampling=replace(_sampling(options), fixed_noise=options.fixed_noise),
        model=options.model,
        device=options.device,
        cache=str(Path(options.cache or Path(options.out).resolve().with_name("phrases")).resolve()),
        changes=tuple(options.set),
        eta=options.eta,
        lists=None if options.lists is None else tuple(options.lists),
        stored=stored,
        find_scales=_finds_scales(options),
        first_seed=options.first_seed or 0,
        **_with_single_seed({"single_seed": tuple(options.single_seed), **more_settings}, stored),
    )
    settings.check_stored(selected)
    folder = EffectFolder(options.out, options.redo, options.results)
    skipped = _SkippedSources()
    unfinished = None
    try:
        _run(
            options, selected, settings, folder, data, skipped, lambda outcome: f"{mean(outcome.psnr):.2f} dB"
        )
    except UnfinishedError as error:
        unfinished = error
    finally:
        # Also after an interrupt, so that another machine can go on.
        folder.write_file()
    readable = skipped.readable(selected)
    outcomes = _all_outcomes(folder, settings, readable)
    if unfinished is not None and not outcomes:
        raise unfinished
    # Before the report, so that the tables appear even if the report cannot be written.
    print(text_tables(outcomes, benchmark))
    print(f"\n{comparison_text(outcomes)}\n")
    for method, remark in dict.fromkeys((outcome.method, outcome.remark) for outcome in outcomes):
        if remark:
            print(f"{method}: {remark}")
    about = {"data": data, "seeds": settings.seeds, **settings.describe()}
    _print_page(write_report(folder, outcomes, readable, benchmark, about))
    if unfinished is not None:
        raise unfinished
    skipped.report(len(selected), options.strict)
    return outcomes


def _finds_scales(options: argparse.Namespace) -> bool:
    # Scales that the user gives are those of every method.
    if options.find_scales is not None:
        return options.find_scales
    return options.text_scale is None and options.image_scale is None


def _all_outcomes(
    folder: EffectFolder, settings: EffectRunSettings, sources: Sequence[EffectSource]
) -> list[Outcome]:
    """All outcomes of these effects that the folder holds, also of methods and seeds that ran earlier."""
    effects = [source.name for source in sources]
    methods = list(dict.fromkeys((*METHODS, *settings.methods)))
    kept = [each for each in folder.made_by(settings.recipes()).values() if each.effect in effects]
    return sorted(kept, key=lambda each: (effects.index(each.effect), each.seed, methods.index(each.method)))


def _with_single_seed(settings: Mapping[str, Any], stored: Sequence[StoredImages]) -> dict[str, Any]:
    """Stored results of one seed stand for a method that was run once."""
    once = tuple(images.name for images in stored if images.seeds == {0})
    return {**settings, "single_seed": (*settings.get("single_seed", ()), *once)}


def _bench_items(options: argparse.Namespace, command: _ItemCommand) -> None:
    items = command.read(options)
    selected = _select(items.items, options.effects)
    stored = parse_stored(options.stored, tuple(ITEM_METHODS))
    methods = (*(options.methods or command.methods), *(images.name for images in stored))
    settings = ItemRunSettings(
        methods=tuple(dict.fromkeys(methods)),
        seeds=options.seeds,
        sampling=_sampling(options),
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
        stored=stored,
    )
    settings.check_stored(selected)
    folder = ItemFolder(options.out)
    data = f"{Path(options.data).resolve()}, words {_text_digest(items.items)}"
    skipped = _SkippedSources()
    try:
        scores = _run(
            options, selected, settings, folder, data, skipped, lambda score: f"L1 {mean(score.l1):.4f}"
        )
    except UnfinishedError:
        # No page, because it shows every method of every item.
        finished = folder.finished()
        kept = [finished[key] for key in keys_of(selected, settings) if key in finished]
        if kept:
            print(text_table(kept, command.table, items.remarks))
        raise
    readable = skipped.readable(selected)
    print(text_table(scores, command.table, items.remarks))
    about = {"data": data, "seeds": settings.seeds, **settings.describe()}
    _print_page(
        item_report.write_report(folder, scores, readable, command.table, settings.side, about, items.remarks)
    )
    if options.study:
        _print_studies(options, folder, scores, readable, command.table)
    skipped.report(len(selected), options.strict)


def _print_studies(
    options: argparse.Namespace,
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    table: ItemBenchmark,
) -> None:
    studies = begin_studies(
        folder, scores, sources, table, Path(options.study), options.study_items, options.study_vote
    )
    for study in studies:
        if study.judgements:
            state = study.report()
        else:
            state = f"{len(study.comparisons)} comparisons to be judged in Judge Preference."
        published = PLANS[table.name].published[study.folder.name]
        print(f"\n{study.folder}:\n{state}\nPublished: {published}")


def _run(
    options: argparse.Namespace,
    sources: Sequence[Source],
    settings: BenchmarkSettings,
    folder: ResultFolder,
    data: str,
    skipped: "_SkippedSources",
    figure: Callable[[Any], str],
) -> list[Any]:
    """Runs the benchmark with a line for each outcome; ``figure`` formats the figure in that line."""
    return run(
        sources,
        settings,
        folder,
        data=data,
        workers=Workers(options.jobs, options.ray, options.seconds),
        on_outcome=_ProgressLines(figure),
        on_skipped=skipped.add,
    )


class _ProgressLines:
    """Prints a line for each new outcome, with the estimated time left."""

    def __init__(self, figure: Callable[[Any], str]) -> None:
        self._figure = figure
        self._start = time.monotonic()
        self._count = 0

    def __call__(self, outcome: Any, done: int, total: int) -> None:
        # Outcomes of an earlier run took no time in this one.
        self._count += 1
        minutes = (time.monotonic() - self._start) / self._count * (total - done) / 60
        method, source, seed = outcome.key
        seed_text = f" seed {seed}" if seed else ""
        print(
            f"[{done}/{total}] {source} {method}{seed_text}: {self._figure(outcome)} "
            f"({outcome.seconds:.0f} s, about {minutes:.0f} min left)",
            flush=True,
        )


class _SkippedSources:
    """Effects or items that cannot be read."""

    def __init__(self) -> None:
        self._errors: dict[str, InstructBrushError] = {}

    def add(self, name: str, error: InstructBrushError) -> None:
        self._errors[name] = error
        say(f"skipped {name}: {error}")

    def readable(self, sources: Sequence[Any]) -> list[Any]:
        """Returns the sources that can be read.

        Raises:
            EvaluationError: there are none.
        """
        # Workers find them in any order.
        self._errors = {each.name: self._errors[each.name] for each in sources if each.name in self._errors}
        readable = [source for source in sources if source.name not in self._errors]
        if not readable:
            first = next(iter(self._errors.values()), "")
            raise EvaluationError(f"Benchmark: none of its effects or items can be read. {first}")
        return readable

    def report(self, total: int, strict: bool) -> None:
        """Says how many sources were skipped.

        Raises:
            EvaluationError: sources were skipped and ``strict`` is set.
        """
        if not self._errors:
            return
        names = _shortened(list(self._errors))
        message = f"{len(self._errors)} of {total} could not be read and are left out: {names}"
        if strict:
            raise EvaluationError(f"Benchmark: {message}. The results of the others are kept.")
        say(message)


def _sampling(options: argparse.Namespace) -> SamplingSettings:
    return SamplingSettings(options.sampling_steps, options.text_scale, options.image_scale)


def _print_page(page: Path) -> None:
    print(f"\n{page}: report with all images; results.json, results.csv and grid.png beside it")


def _text_digest(items: Sequence[StoredItem]) -> str:
    """Hash of all instructions and captions, so that a run resumes only with the same texts."""
    texts = [
        (item.name, turn.words, turn.caption, turn.caption_before) for item in items for turn in item.turns
    ]
    return sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _select(sources: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
    by_name: Mapping[str, Any] = {source.name: source for source in sources}
    for name in names or ():
        if name not in by_name:
            raise EvaluationError(f"Effect '{name}' does not exist here. Choose from {_shortened(by_name)}.")
    return [source for source in sources if names is None or source.name in names]


def _shortened(names: Iterable[str]) -> str:
    """Lists the first names."""
    names = list(names)
    return ", ".join([*names[:_MAX_LISTED], *(["..."] if len(names) > _MAX_LISTED else [])])
