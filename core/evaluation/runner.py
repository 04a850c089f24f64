"""Running a benchmark: every method on every effect, in this process, in several, or on a Ray cluster."""

import json
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..editing.loading import load_editor
from ..editing.settings import SamplingSettings
from ..encoders.clip import image_features, load_clip
from ..errors import DataError, EvaluationError, InstructBrushError, PairError
from ..learning.settings import read_changes
from ..storage.files import check_writable
from .by_example.effects import Effect
from .by_example.methods import DEFAULT_METHODS, METHODS, Edited, Task, Workbench
from .by_example.results import EffectFolder, Outcome
from .metrics import direction_distance, image_similarity, psnr, ssim
from .perceptual import Perceptual
from .results import complete

_OUTCOME_BYTES = 100_000
"""Of an outcome with its images, small ones."""

Made = tuple[Any, tuple[Tensor, ...]]
"""An outcome and its images."""

Watch = Callable[[Any, int, int], None]
"""Called with each new outcome, how many are done and how many there are in all."""

Skip = Callable[[str, InstructBrushError], None]
"""Called with the name of a source that cannot be read, and why."""


class Source(Protocol):
    """What a benchmark consists of: an effect or an item. Small and picklable: it travels to other processes and machines, its images do not."""

    @property
    def name(self) -> str:
        """Name, unique within a benchmark; also a folder's name."""
        ...

    def load(self) -> Any:
        """Read or draw the images; the same every time."""
        ...


class Settings(Protocol):
    """Everything that figures depend on but the images, and how a unit is worked through. Picklable and hashable."""

    @property
    def methods(self) -> tuple[str, ...]:
        """What is compared."""
        ...

    @property
    def seeds(self) -> int:
        """Every method runs once with each of the seeds 0 .. seeds - 1."""
        ...

    @property
    def device(self) -> str:
        """Where models run."""
        ...

    def describe(self) -> dict[str, Any]:
        """What tells this run's figures from another's, as plain values."""
        ...

    def work(self, unit: "Unit", loaded: Any) -> Iterator[Made]:
        """Every missing method of a unit, one after the other, on what its source loaded."""
        ...


@dataclass(frozen=True)
class RunSettings:
    """Everything that figures depend on but the effects. Paths must mean the same on every machine of a cluster.

    Raises:
        EvaluationError: an unknown method, or a number out of range.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    seeds: int = 1
    """Every method learns and edits once with each of the seeds 0 .. seeds - 1."""
    steps: int | None = None
    """Learning steps; None takes those of the model's presets."""
    sampling: SamplingSettings = SamplingSettings()
    """How edits are sampled. Methods set the seed."""
    model: str | None = None
    """None is the pocket editor."""
    device: str = "cpu"
    clip: str | None = None
    """None is the pocket editor's CLIP."""
    clip_folder: str | None = None
    lpips: str | None = None
    """AlexNet's weights for LPIPS; None leaves LPIPS out."""
    cache: str | None = None
    """Folder for the features of word lists."""
    changes: tuple[str, ...] = ()
    """Learning settings that differ from the presets, such as ``attention.objective=guided``; see :func:`~..learning.settings.read_changes`."""

    def __post_init__(self) -> None:
        unknown = next((name for name in self.methods if name not in METHODS), None)
        if unknown is not None or not self.methods:
            raise EvaluationError(
                f"Method '{unknown or ''}' does not exist. Choose from {', '.join(METHODS)}."
            )
        counts = {"seeds": self.seeds, "sampling_steps": self.sampling.steps, "steps": self.steps}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise EvaluationError(f"Benchmark: {name} is {count}, it must be at least 1.")
        read_changes(self.changes)

    def describe(self) -> dict[str, Any]:
        """What tells this run's figures from another's; the models are loaded for it. Methods and seeds may be added later."""
        bench, _ = _models(self)
        backbone = sha256(Path(self.lpips).read_bytes()).hexdigest()[:16] if self.lpips else None
        presets = [asdict(bench.settings(space, 0)) for space in ("attention", "text")]
        return {
            "model": bench.editor.description.fingerprint[:16],
            "clip": f"{bench.clip.name} {bench.clip.fingerprint[:16]}",
            "lpips": backbone,
            "text_scale": bench.text_scale,
            "steps": self.steps,
            "sampling_steps": self.sampling.steps,
            "image_scale": self.sampling.image_scale,
            "presets": sha256(json.dumps(presets).encode()).hexdigest()[:16],
        }

    def work(self, unit: "Unit", loaded: Effect) -> Iterator[Made]:
        """Every missing method of an effect, one after the other."""
        bench, perceptual = _models(self)
        task, judge = Task(bench, loaded), _Judge(loaded, bench, perceptual)
        for name in unit.methods:
            began = time.monotonic()
            edited = METHODS[name].make(task, unit.seed)
            yield judge.outcome(name, unit.seed, edited, time.monotonic() - began), edited.images


@dataclass(frozen=True)
class Unit:
    """What one worker takes at a time: an effect or item with one seed, and the methods that are still missing."""

    source: Source
    seed: int
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Unread:
    """A source that cannot be read."""

    name: str
    error: InstructBrushError


def run(
    sources: Sequence[Source],
    settings: Settings,
    folder: EffectFolder,
    *,
    data: str,
    jobs: int = 1,
    ray: bool = False,
    watch: Watch | None = None,
    skip: Skip | None = None,
) -> list[Any]:
    """Run what is missing and return every outcome, effect by effect; those of sources that were skipped are left out.

    The figures do not depend on ``jobs`` but through the number of threads each process has, nor on where the run was stopped before.

    Args:
        sources: the effects or items.
        settings: the rest.
        folder: where results are kept and found again; of the kind that keeps what ``settings`` makes.
        data: names the sources' images, for the check that a folder goes on with the same ones.
        jobs: processes; each gets its share of the machine's threads.
        ray: use a Ray cluster (the one of ``RAY_ADDRESS``, or one started on this machine) instead of ``jobs`` processes.
        watch: told of every new outcome.
        skip: told once of every source that cannot be read, and the run goes on without it; None ends the run there.

    Raises:
        EvaluationError: the folder holds another run, a worker died, or the ray package is missing.
        StorageError: the folder has no room, or cannot be written to. What was finished is kept.
        InstructBrushError: whatever a method raises.
    """
    if jobs < 1:
        raise EvaluationError(f"Benchmark: {jobs} jobs are out of range, at least 1 is needed.")
    if ray:
        _import_ray()
    folder.begin({"data": data, **settings.describe()})
    finished = folder.finished()
    keys = [
        (method, source.name, seed)
        for source in sources
        for seed in range(settings.seeds)
        for method in settings.methods
    ]
    units = []
    for source in sources:
        for seed in range(settings.seeds):
            missing = tuple(
                method for method in settings.methods if (method, source.name, seed) not in finished
            )
            if missing:
                units.append(Unit(source, seed, missing))
    done = sum(key in finished for key in keys)
    check_writable(folder.path / "results.json", _OUTCOME_BYTES * (len(keys) - done))
    if ray:
        made = _on_ray(units, settings, folder)
    elif jobs == 1:
        made = _here(units, settings, folder)
    else:
        made = _in_processes(units, settings, folder, jobs)
    unread: set[str] = set()
    for outcome in made:
        if isinstance(outcome, Unread):
            if skip is None:
                raise outcome.error
            if outcome.name not in unread:
                skip(outcome.name, outcome.error)
            unread.add(outcome.name)
            continue
        finished[outcome.key] = outcome
        done += 1
        if watch is not None:
            watch(outcome, done, len(keys))
    return complete(finished, [key for key in keys if key[1] not in unread])


@lru_cache(maxsize=1)
def _models(settings: RunSettings) -> tuple[Workbench, Perceptual | None]:
    editor = load_editor(settings.model, settings.device)
    clip = load_clip(
        settings.clip, Path(settings.clip_folder) if settings.clip_folder else None, settings.device
    )
    perceptual = Perceptual(settings.lpips, settings.device) if settings.lpips else None
    cache = Path(settings.cache) if settings.cache else None
    bench = Workbench(
        editor,
        clip,
        settings.steps,
        settings.sampling,
        cache,
        read_changes(settings.changes),
    )
    return bench, perceptual


class _Judge:
    """Measures the images of an effect. What all methods share is computed once."""

    def __init__(self, effect: Effect, bench: Workbench, perceptual: Perceptual | None) -> None:
        self._effect, self._clip, self._perceptual = effect, bench.clip, perceptual
        before, after = (
            self._features([getattr(pair, side) for pair in effect.train]) for side in ("before", "after")
        )
        self._examples, self._inputs = after - before, self._features(effect.inputs)

    def _features(self, images: Sequence[Tensor]) -> Tensor:
        return image_features(self._clip, images).cpu()

    def outcome(self, method: str, seed: int, edited: Edited, seconds: float) -> Outcome:
        both = [
            (made[None], truth[None]) for made, truth in zip(edited.images, self._effect.truth, strict=True)
        ]
        outputs = self._features(edited.images)
        return Outcome(
            effect=self._effect.name,
            scope=self._effect.scope,
            method=method,
            seed=seed,
            psnr=tuple(float(psnr(made, truth)) for made, truth in both),
            ssim=tuple(float(ssim(made, truth)) for made, truth in both),
            lpips=tuple(float(self._perceptual.distance(made, truth)) for made, truth in both)
            if self._perceptual
            else None,
            direction=direction_distance(outputs - self._inputs, self._examples),
            image_similarity=tuple(image_similarity(self._inputs, outputs).tolist()),
            init_text=edited.init_text,
            final_loss=edited.final_loss,
            seconds=round(seconds, 2),
        )


def _made(unit: Unit, settings: Settings) -> Iterator[Made | Unread]:
    try:
        loaded = unit.source.load()
    except (DataError, EvaluationError, PairError) as error:
        yield Unread(unit.source.name, error)
        return
    yield from settings.work(unit, loaded)


def _here(units: Sequence[Unit], settings: Settings, folder: EffectFolder) -> Iterator[Any]:
    """Outcomes, which are written, and sources that cannot be read."""
    for unit in units:
        for made in _made(unit, settings):
            if isinstance(made, Unread):
                yield made
                continue
            outcome, images = made
            folder.write(outcome, images)
            yield outcome


def _in_processes(
    units: Sequence[Unit], settings: Settings, folder: EffectFolder, jobs: int
) -> Iterator[Any]:
    """Processes that take a unit when they are free. Each writes its own results, so nothing is lost when one dies."""
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    # Sums differ in their last digits with the number of threads: it must not depend on how much is left to do.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    jobs = min(jobs, len(units))
    for unit in (*units, *[None] * jobs):
        todo.put(unit)
    workers = [
        context.Process(target=_work, args=(todo, done, settings, folder, threads), daemon=True)
        for _ in range(jobs)
    ]
    for worker in workers:
        worker.start()
    left = jobs
    try:
        while left:
            try:
                message = done.get(timeout=1.0)
            except queue.Empty:
                dead = next((worker for worker in workers if worker.exitcode), None)
                if dead is not None:
                    raise EvaluationError(
                        f"A worker process of the benchmark died (exit code {dead.exitcode}), perhaps for want of memory. "
                        "What was finished is kept: start again, with fewer --jobs."
                    ) from None
                continue
            if message is None:
                left -= 1
            elif isinstance(message, InstructBrushError):
                raise message
            else:
                yield message
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(todo: Any, done: Any, settings: Settings, folder: EffectFolder, threads: int) -> None:
    """The life of a worker process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A parent that is killed cannot end its workers: they watch it themselves.
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    torch.set_num_threads(threads)
    try:
        while (unit := todo.get()) is not None:
            for outcome in _here([unit], settings, folder):
                done.put(outcome)
        done.put(None)
    except InstructBrushError as error:
        done.put(error)
    except KeyboardInterrupt:
        pass  # the parent is interrupted too, and says so


def _on_ray(units: Sequence[Unit], settings: Settings, folder: EffectFolder) -> Iterator[Any]:
    """One Ray task a unit. Results stream back and are written here, so workers need not share this folder."""
    ray = _import_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    gpus = 1 if settings.device.startswith("cuda") else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, num_returns="streaming")(_unit_on_ray)
    streams = [remote.remote(unit, settings) for unit in units]
    try:
        while streams:
            (ready, *_), _ = ray.wait(streams, num_returns=1)
            try:
                made = ray.get(next(ready))
            except StopIteration:
                streams.remove(ready)
                continue
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InstructBrushError):
                    raise error.cause from error
                raise
            if isinstance(made, Unread):
                yield made
                continue
            outcome, images = made
            folder.write(outcome, [torch.from_numpy(image.copy()) for image in images])
            yield outcome
    finally:
        for stream in streams:
            ray.cancel(stream)


def _unit_on_ray(unit: Unit, settings: Settings) -> Iterator[tuple[Any, list[Any]] | Unread]:
    torch.set_num_threads(1)
    for made in _made(unit, settings):
        yield made if isinstance(made, Unread) else (made[0], [image.numpy() for image in made[1]])


def _import_ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise EvaluationError(
            "Benchmark: --ray needs the ray package, which is not installed. Run: pip install ray, or use --jobs."
        ) from error
    return ray
