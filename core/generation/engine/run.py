"""Runs a build: in this process, in several, or with Ray Data."""

import logging
import math
import multiprocessing
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import BuildError, InstructBrushError
from ...evaluation.parents import exit_with_parent
from .build import Build
from .stage import RowFunction

# How long a process may take to end by itself.
_ENDING_SECONDS = 10.0

OnPart = Callable[[str, int, int], None]
"""Called with a stage's name, its finished parts and all its parts."""


@dataclass(frozen=True)
class Workers:
    """Where the parts of a build are made. The result is the same everywhere."""

    jobs: int = 1
    """Processes, or actors on Ray. Each loads the models of a stage."""
    ray: bool = False
    """Use a Ray cluster: the one of ``RAY_ADDRESS``, or one started on this machine. All its machines need
    the build's folder under the same path."""
    gpus: float = 0.0
    """GPUs of each Ray actor; may be a share of one."""

    def check(self) -> None:
        """Checks that the workers can start.

        Raises:
            BuildError: the number of jobs or GPUs is out of range, or the ray package is missing.
        """
        if self.jobs < 1:
            raise BuildError(f"Build: {self.jobs} jobs are out of range; at least 1 is needed.")
        if not 0 <= self.gpus < math.inf:
            raise BuildError(f"Build: {self.gpus:g} GPUs are out of range; 0 or more are possible.")
        if self.ray:
            _ray_data()


def run_build(
    build: Build, workers: Workers | None = None, on_part: OnPart = lambda stage, done, total: None
) -> None:
    """Makes every part of every stage that is not made yet, one stage after the other.

    Raises:
        BuildError: the folder holds another build, or a stage stopped it. What is made is kept.
        StorageError: a file cannot be written.
    """
    workers = workers or Workers()
    workers.check()
    build.begin()
    with _pool(build, workers) as pool:
        for number in range(len(build.stages) + 1):
            parts = build.unfinished_parts(number)
            name = build.stages[number - 1].name if number else "source"
            done = build.parts - len(parts)
            on_part(name, done, build.parts)
            for _ in pool.make(number, parts) if parts else ():
                done += 1
                on_part(name, done, build.parts)
            build.clean(number)


def _pool(build: Build, workers: Workers) -> Any:
    if workers.ray:
        return _RayData(build, workers)
    return _ThisProcess(build) if workers.jobs == 1 else _Processes(build, workers.jobs)


class PartMaker:
    """Makes parts of a build. Loads a stage's models when its first part comes."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._number = 0
        self._function: RowFunction | None = None

    def make(self, number: int, part: int) -> None:
        """Makes a part of a stage, see ``Build.make_part``."""
        if number != self._number:
            self._function = None  # frees the models of the stage before
            self._function = self._build.stages[number - 1].start() if number else None
            self._number = number
        self._build.make_part(number, part, self._function)


class _ThisProcess:
    def __init__(self, build: Build) -> None:
        self._maker = PartMaker(build)

    def __enter__(self) -> "_ThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def make(self, number: int, parts: list[int]) -> Iterator[int]:
        for part in parts:
            self._maker.make(number, part)
            yield part


class _Processes:
    """Processes that start with the first part, live until the build ends and write the parts themselves."""

    def __init__(self, build: Build, jobs: int) -> None:
        self._build = build
        self._jobs = min(jobs, build.parts)
        self._context = multiprocessing.get_context("spawn")
        self._tasks = self._context.Queue()
        self._messages = self._context.Queue()
        self._processes: list[Any] = []

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for _process in self._processes:
                self._tasks.put(None)
        for process in self._processes:
            if kind is None:
                process.join(_ENDING_SECONDS)
            process.terminate()
            process.join()
        # After an error nobody reads the tasks that are left; without this, Python waits for that at its end.
        self._tasks.cancel_join_thread()

    def make(self, number: int, parts: list[int]) -> Iterator[int]:
        self._start()
        for part in parts:
            self._tasks.put((number, part))
        for _ in parts:
            message = self._next_message()
            if isinstance(message, Exception):
                raise message
            yield message

    def _start(self) -> None:
        # Sums differ in their last digits with the number of threads, so a worker has as many as one alone.
        arguments = (self._tasks, self._messages, self._build)
        while len(self._processes) < self._jobs:
            process = self._context.Process(target=_worker_process, args=arguments, daemon=True)
            process.start()
            self._processes.append(process)

    def _next_message(self) -> Any:
        while True:
            try:
                return self._messages.get(timeout=1.0)
            except queue.Empty:
                dead = next((process for process in self._processes if process.exitcode is not None), None)
            if dead is not None:
                raise BuildError(
                    f"A worker process of the build died (exit code {dead.exitcode}), perhaps because memory "
                    "ran out. What is made is kept: run the command again with fewer --jobs."
                )


def _worker_process(tasks: Any, messages: Any, build: Build) -> None:
    """Makes parts until it gets None. Sends the number of each, or the error that ended it."""
    exit_with_parent()
    maker = PartMaker(build)
    try:
        while (task := tasks.get()) is not None:
            number, part = task
            maker.make(number, part)
            messages.put(part)
    except (InstructBrushError, OSError) as error:
        messages.put(error)
    except KeyboardInterrupt:
        pass  # the parent gets the interrupt too and reports it


class _RayData:
    """Ray Data makes the parts: a data set of part numbers, mapped by actors that load the models once."""

    def __init__(self, build: Build, workers: Workers) -> None:
        self._build = build
        self._workers = workers
        self._data = _ray_data()

    def __enter__(self) -> "_RayData":
        import ray  # pyright: ignore[reportMissingImports] (optional)

        self._started = not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        self._data.DataContext.get_current().enable_progress_bars = False
        return self

    def __exit__(self, *_: object) -> None:
        import ray  # pyright: ignore[reportMissingImports] (optional)

        if self._started:
            ray.shutdown()

    def make(self, number: int, parts: list[int]) -> Iterator[int]:
        import ray  # pyright: ignore[reportMissingImports] (optional)

        blocks = min(len(parts), 4 * self._workers.jobs)
        made = self._data.from_items([{"part": part} for part in parts], override_num_blocks=blocks).map(
            _RayPartMaker,
            fn_constructor_args=(self._build, number),
            compute=self._data.ActorPoolStrategy(size=min(self._workers.jobs, blocks)),
            num_gpus=self._workers.gpus or None,
        )
        try:
            for row in made.iter_rows():
                if row["error"]:
                    raise BuildError(row["error"])
                yield int(row["part"])
        except ray.exceptions.RayTaskError:  # pyright: ignore[reportAttributeAccessIssue]
            raise  # a fault of the program
        except ray.exceptions.RayError as error:  # pyright: ignore[reportAttributeAccessIssue]
            raise BuildError(
                f"Build: Ray lost a worker ({' '.join(str(error).split())[:300]}), perhaps because memory "
                "ran out. What is made is kept: run the command again, with fewer --jobs."
            ) from error


class _RayPartMaker:
    """Makes parts until one fails. Ray does not keep errors as they are, so their words are returned."""

    def __init__(self, build: Build, number: int) -> None:
        self._maker = PartMaker(build)
        self._number = number
        self._error = ""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if not self._error:
                self._maker.make(self._number, int(row["part"]))
        except (InstructBrushError, OSError) as error:
            self._error = str(error) or type(error).__name__
        return {**row, "error": self._error}


def _ray_data() -> Any:
    try:
        import ray.data  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise BuildError(
            'Build: --ray needs Ray Data, which is not installed. Run: pip install "ray[data]", '
            "or use --jobs."
        ) from error
    return ray.data
