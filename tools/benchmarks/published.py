"""Writes the figures of a benchmark to docs/results, where a test compares them with the tables of the docs.

``docs/results/<name>.json``::

    {"benchmark": "PocketBench", "command": "tools/benchmarks/pocket_bench.py --seeds 3",
     "about": {...}, "versions": {"python": "3.11.9", "torch": ..., "pack": "<commit>"},
     "machine": {"cpu": "...", "cores": 2},
     "methods": {"<row>": {"psnr": 24.81, "psnr_ci95": 0.4, "seconds": 31.0, "effects": 25, "seeds": 3}}}

Figures are plain numbers, or null where nothing was measured. ``<figure>_ci95`` is half the width of the 95 %
interval of ``<figure>``. The file names no folder and no host.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from instructbrush.core.errors import EvaluationError
from instructbrush.core.storage.files import write_text

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"
PACKAGES = ("torch", "diffusers", "transformers", "peft")

Rows = Mapping[str, Mapping[str, Any]]
"""Row -> figure -> value."""


def publish(
    name: str,
    benchmark: str,
    command: str,
    methods: Rows,
    about: Mapping[str, Any] | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Writes ``<name>.json`` and returns its path.

    Args:
        name: name of the file, such as ``pocket_bench``.
        benchmark: title of the benchmark.
        command: what makes these figures, see ``command_line``.
        methods: the figures of every row.
        about: what else determines the figures, as plain values.
        folder: where to write.

    Raises:
        EvaluationError: there are no rows, or a text names a folder or the host of this machine.
        StorageError: the file cannot be written.
    """
    if not methods or not all(methods.values()):
        raise EvaluationError(f"{benchmark}: there are no figures to publish. Run the benchmark first.")
    content = {
        "benchmark": benchmark,
        "command": command,
        "about": dict(about or {}),
        "versions": versions(),
        "machine": machine(),
        "methods": {row: dict(figures) for row, figures in methods.items()},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for private in (str(REPOSITORY), str(Path.home()), socket.gethostname()):
        if len(private) > 4 and private in text:
            raise EvaluationError(
                f"{benchmark}: '{private}' belongs to this machine and must not be published. "
                "Leave it out of the command and of the settings."
            )
    path = folder / f"{name}.json"
    write_text(text, path)
    return path


def command_line(script: str, arguments: Sequence[str], without: Sequence[str] = ("--out",)) -> str:
    """Returns a command as the docs print it.

    Args:
        script: file of the tool, relative to the repository.
        arguments: its arguments.
        without: options whose values belong to this machine, such as folders. They are left out.
    """
    kept = []
    skip = False
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in without:
            skip = "=" not in argument
            continue
        if skip and not argument.startswith("--"):
            continue
        skip = False
        kept.append(argument)
    return " ".join([script, *kept])


def versions() -> dict[str, str]:
    """Returns the versions of Python, of ``PACKAGES``, and the commit of the pack.

    ``+`` after the commit says that the code differs from it.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"pack": _commit()}


def machine() -> dict[str, Any]:
    """Returns the name of the processor and the number of its cores."""
    return {"cpu": _processor(), "cores": os.cpu_count() or 1}


def _commit() -> str:
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", "core", "cli", "nodes", "tools")
    return f"{commit or 'unknown'}{'+' if changes else ''}"


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor() -> str:
    """The processor's name; its architecture where the system does not say it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
