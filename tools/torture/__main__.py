"""`make torture`: robustness trials by the thousand. About 14 minutes on two cores.

    make torture                             everything
    make torture ARGS="kills disk"           some of: files, kills, disk, server
    make torture ARGS="--short --seed 3"     a twentieth of it, from another seed

files: damaged files into every reader.
kills: kill -9 at random moments of learning, saving, benchmarking and fine-tuning.
disk: a disk that fills up at every write.
server: 100 runs in a row, 1,000 hostile names, two clients at once, and memory that runs out.

Prints a line for each part with the number of trials that went well or were refused with a message. Two
counts must be 0: "escaped" (another exception, a hang, or a file in the wrong place) and "lost" (finished
work is gone, or the result differs from that of an undisturbed run). The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from instructbrush.tools.torture.parts import PARTS, run_part

_SHORT = 20
# Processes, with one thread each.
_AT_ONCE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen parts. Returns 0 if nothing escaped and nothing was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--short", action="store_true", help=f"one {_SHORT}th of the trials")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    start = time.monotonic()
    with ProcessPoolExecutor(_AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        counts = {part: PARTS[part] // (_SHORT if options.short else 1) for part in options.parts or PARTS}
        running = {part: pool.submit(run_part, part, count, options.seed) for part, count in counts.items()}
        results = {part: future.result() for part, future in running.items()}
    for part, result in results.items():
        print(f"{part:<8} {', '.join(f'{name} {value}' for name, value in result.items())}")
    print(json.dumps({**results, "seconds": round(time.monotonic() - start)}))
    return int(any(result.get("escaped", 0) or result.get("lost", 0) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
