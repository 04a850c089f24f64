"""``make build-demo``: both papers' data from scenes of the pocket world, without a download.

The models are the built-in ones. The language model is an endpoint in this process whose answers are
scripted, and which also answers garbage, cuts off, repeats itself, is silent and breaks down. Each build can
be killed at random moments; the same command continues it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import reason_answers, ultraedit_answers
from .pocket_rows import pairs, write
from .scripted_endpoint import Faults, Request, ScriptedEndpoint

_SHARES = {
    "garbage": 0.05,
    "cut off": 0.03,
    "repeats": 0.03,
    "declines": 0.01,
    "times out": 0.004,
    "busy": 0.03,
    "fails": 0.03,
    "closes": 0.02,
    "no JSON": 0.01,
    "no choices": 0.01,
}
# Seconds between two kills: at least one row should be new each time.
_BETWEEN_KILLS = (4.0, 15.0)

# The builds' answers are kept by the endpoint's address.
_PORT = 18417

_KINDS = {
    "reason": ("pairs", ["--parts", "1", "2", "--steps", "10", "--verify"]),
    "ultraedit": ("captions", ["--mode", "both", "--edits", "1", "--seeds", "1", "--steps", "10"]),
}


def answer(request: Request) -> str:
    """Answers a request of either build."""
    seed = int(request.body.get("seed") or 0)
    return ultraedit_answers.answer(request.text, seed) or reason_answers.answer(request.text, seed)


def run_build(command: list[str], kills: int, seed: str) -> dict[str, Any]:
    """Runs a build, killed `kills` times at random moments. Returns what it printed last, and its times."""
    moments = random.Random(seed)
    killed = 0
    start = time.monotonic()
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment())
        try:
            seconds = moments.uniform(*_BETWEEN_KILLS) if killed < kills else None
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
            continue
        if process.returncode:
            raise SystemExit(f"build-demo: the build ended with exit code {process.returncode}.")
        print(output, end="")
        facts = json.loads(output.splitlines()[-1])
        return {**facts, "killed": killed, "seconds": round(time.monotonic() - start, 1)}


def _environment() -> dict[str, str]:
    # One thread: sums in another order would differ in their last digits.
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make build-demo", description="Both papers' data from the pocket world."
    )
    parser.add_argument("--rows", type=int, default=300, help="scenes (default 300)")
    parser.add_argument("--out", type=Path, default=Path("output/build_demo"), help="folder of the builds")
    parser.add_argument("--kills", type=int, default=0, help="how often each build is killed (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes of a build (default 2)")
    parser.add_argument("--ray", action="store_true", help="use Ray Data on this machine")
    parser.add_argument("--only", choices=tuple(_KINDS), help="one of the builds")
    options = parser.parse_args()
    rows = options.out / f"rows-{options.rows}"
    if not rows.is_dir():
        write(rows, list(pairs(options.rows)))
    results = {}
    faults = Faults(_SHARES, seconds=4.0)
    with ScriptedEndpoint(answer, faults, port=_PORT) as endpoint:
        for kind in [options.only] if options.only else _KINDS:
            table, settings = _KINDS[kind]
            command = [
                *(sys.executable, "-m", "instructbrush", "build", kind, *settings),
                *("--source", str(rows / table), "--out", str(options.out / kind)),
                *("--llm", endpoint.address, "--llm-model", "scripted", "--llm-timeout", "3"),
                *("--jobs", str(options.jobs), *(["--ray"] if options.ray else [])),
            ]
            results[kind] = run_build(command, options.kills, kind)
        met = dict(sorted(endpoint.met.items()))
        print(json.dumps({"builds": results, "requests": len(endpoint.requests), "faults": met}))


if __name__ == "__main__":
    main()
