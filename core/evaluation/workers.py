"""Where a benchmark's units of work run: in this process, in several processes, or on a Ray cluster."""

import math
import multiprocessing
import os
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import DataError, EvaluationError, InstructBrushError, PairError
from .parents import exit_with_parent
from .protocols import BenchmarkSettings, OutcomeWithImages, UnreadableSource, WorkUnit
from .results import ResultFolder


@dataclass(frozen=True)
class Workers:
    """Number and kind of the workers."""

    jobs: int = 1
    """Processes. Each gets its share of the machine's threads."""
    ray: bool = False
    """Use a Ray cluster instead: the one of ``RAY_ADDRESS``, or one started on this machine."""
    seconds: float | None = None
    """No outcome is begun after this time, which each process counts from when it is ready. On Ray it counts
    from when the cluster is ready; outcomes that are begun and not finished then are lost, but not the first.
    """

    def check(self) -> None:
        """Checks that the workers can start.

        Raises:
            EvaluationError: the number of jobs is out of range, or the ray package is missing.
        """
        if self.jobs < 1:
            raise EvaluationError(f"Benchmark: {self.jobs} jobs are out of range; at least 1 is needed.")
        if self.seconds is not None and not self.seconds > 0:
            raise EvaluationError(
                f"Benchmark: {self.seconds:g} seconds are out of range; more than 0 are needed."
            )
        if self.ray:
            _import_ray()

    def run(
        self, units: Sequence[WorkUnit], settings: BenchmarkSettings, folder: ResultFolder
    ) -> Iterator[Any]:
        """Runs the units and stores their outcomes. Yields outcomes and ``UnreadableSource`` objects."""
        if self.ray:
            return _on_ray(units, settings, folder, self.seconds)
        if self.jobs == 1:
            return _in_this_process(units, settings, folder, _end(self.seconds))
        return _in_processes(units, settings, folder, self.jobs, self.seconds)


IN_THIS_PROCESS = Workers()


def _end(seconds: float | None) -> float:
    """The time of ``time.monotonic`` in ``seconds`` from now."""
    return math.inf if seconds is None else time.monotonic() + seconds


def _run_unit(unit: WorkUnit, settings: BenchmarkSettings) -> Iterator[OutcomeWithImages | UnreadableSource]:
    try:
        loaded = unit.source.load()
    except (DataError, EvaluationError, PairError) as error:
        yield UnreadableSource(unit.source.name, error)
        return
    yield from settings.work(unit, loaded)


def _in_this_process(
    units: Sequence[WorkUnit], settings: BenchmarkSettings, folder: ResultFolder, end: float
) -> Iterator[Any]:
    for unit in units:
        if time.monotonic() >= end:
            return
        for result in _run_unit(unit, settings):
            if isinstance(result, UnreadableSource):
                yield result
                continue
            outcome, images = result
            folder.write(outcome, images)
            yield outcome
            if time.monotonic() >= end:
                return


def _in_processes(
    units: Sequence[WorkUnit],
    settings: BenchmarkSettings,
    folder: ResultFolder,
    jobs: int,
    seconds: float | None,
) -> Iterator[Any]:
    """Each process stores its own outcomes, so that nothing is lost when one of them dies."""
    context = multiprocessing.get_context("spawn")
    tasks = context.Queue()
    messages = context.Queue()
    # Sums differ in their last digits with the number of threads, so this number must not depend on how
    # many units are left.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    jobs = min(jobs, len(units))
    for unit in (*units, *[None] * jobs):
        tasks.put(unit)
    arguments = (tasks, messages, settings, folder, threads, seconds)
    processes = [context.Process(target=_worker_process, args=arguments, daemon=True) for _ in range(jobs)]
    for process in processes:
        process.start()
    running = jobs
    try:
        while running:
            try:
                message = messages.get(timeout=1.0)
            except queue.Empty:
                dead = next((process for process in processes if process.exitcode), None)
                if dead is not None:
                    raise EvaluationError(
                        f"A worker process of the benchmark died (exit code {dead.exitcode}), perhaps "
                        "because memory ran out. Finished results are kept: run the command again with "
                        "fewer --jobs."
                    ) from None
                continue
            if message is None:
                running -= 1
            elif isinstance(message, InstructBrushError):
                raise message
            else:
                yield message
    finally:
        for process in processes:
            process.terminate()
            process.join()
        # After an error nobody reads the units that are left; without this, Python waits for that at its end.
        tasks.cancel_join_thread()


def _worker_process(
    tasks: Any,
    messages: Any,
    settings: BenchmarkSettings,
    folder: ResultFolder,
    threads: int,
    seconds: float | None,
) -> None:
    """Runs units until it gets None. Sends outcomes, then None, or the error that ended it."""
    exit_with_parent()
    torch.set_num_threads(threads)
    end: float | None = None
    try:
        while (unit := tasks.get()) is not None:
            # Not before the first unit is here: imports alone may take longer than a short time limit.
            end = _end(seconds) if end is None else end
            for outcome in _in_this_process([unit], settings, folder, end):
                messages.put(outcome)
        messages.put(None)
    except InstructBrushError as error:
        messages.put(error)
    except KeyboardInterrupt:
        pass  # the parent gets the interrupt too and reports it


def _on_ray(
    units: Sequence[WorkUnit], settings: BenchmarkSettings, folder: ResultFolder, seconds: float | None
) -> Iterator[Any]:
    """Runs a Ray task per unit. Stores the outcomes here, so the workers need no access to the folder."""
    ray = _import_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    gpus = 1 if settings.device.startswith("cuda") else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, num_returns="streaming")(_run_unit_on_ray)
    streams = [remote.remote(unit, settings) for unit in units]
    end = _end(seconds)
    progressed = False
    try:
        # The first outcome is awaited, because the next command would begin it anew.
        while streams and (not progressed or time.monotonic() < end):
            ready_streams, _ = ray.wait(streams, num_returns=1, timeout=1.0)
            if not ready_streams:
                continue
            ready = ready_streams[0]
            try:
                result = ray.get(next(ready))
            except StopIteration:
                streams.remove(ready)
                continue
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InstructBrushError):
                    raise error.cause from error
                raise
            except ray.exceptions.RayError as error:
                raise EvaluationError(
                    f"Benchmark: Ray lost a worker ({' '.join(str(error).split())[:300]}), perhaps because "
                    "memory ran out. Finished results are kept: run the same command again."
                ) from error
            if isinstance(result, UnreadableSource):
                yield result
                continue
            outcome, images = result
            folder.write(outcome, [torch.from_numpy(image.copy()) for image in images])
            progressed = True
            yield outcome
    finally:
        for stream in streams:
            ray.cancel(stream)


def _run_unit_on_ray(
    unit: WorkUnit, settings: BenchmarkSettings
) -> Iterator[tuple[Any, list[Any]] | UnreadableSource]:
    torch.set_num_threads(1)
    for result in _run_unit(unit, settings):
        if isinstance(result, UnreadableSource):
            yield result
        else:
            outcome, images = result
            yield outcome, [image.numpy() for image in images]


def _import_ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise EvaluationError(
            "Benchmark: --ray needs the ray package, which is not installed. "
            "Run: pip install ray, or use --jobs."
        ) from error
    return ray
