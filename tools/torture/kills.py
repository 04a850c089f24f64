"""Kill -9 at random moments. Finished work must stay, and the resumed work must give the same result."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from .jobs import JOBS, End, JobProcess, run_undisturbed

_SHARES = {"learn": 0.3, "save": 0.3, "bench": 0.2, "train": 0.2}


def run(count: int, seed: int) -> dict[str, int]:
    """Kills ``count`` processes."""
    totals = {"tried": 0, "survived": 0, "escaped": 0, "lost": 0}
    with tempfile.TemporaryDirectory(prefix="instructbrush-") as place:
        for name, share in _SHARES.items():
            kills = max(round(share * count), 1)
            counts = disturb(name, Path(place) / name, kills, random.Random(f"{seed} {name}"))
            for key, value in counts.items():
                totals[key] += value
    return totals


def disturb(name: str, place: Path, count: int, draw: random.Random) -> dict[str, int]:
    """Kills a job ``count`` times, then lets it complete."""
    job = JOBS[name]
    data, expected = run_undisturbed(name, place)

    counts = {"tried": 0, "survived": 0, "escaped": 0, "lost": 0}
    folder = place / "killed"
    done = 0
    while counts["tried"] < count:
        process = JobProcess(name, data, folder)
        if process.ends_within(draw.uniform(0.1, job.seconds)):
            _check_result(name, process.wait_for_end(), folder, expected, counts)
            done = 0
            continue
        process.kill()
        counts["tried"] += 1
        done = _check_progress(name, folder, done, counts)
    _check_result(name, JobProcess(name, data, folder).wait_for_end(), folder, expected, counts)
    return counts


def _check_progress(name: str, folder: Path, before: int, counts: dict[str, int]) -> int:
    """Checks after a kill that no finished work is lost. Returns how much is finished."""
    try:
        done = JOBS[name].done(folder)
    except Exception as error:  # A file is damaged. Its reader may raise anything.
        _complain(name, f"{type(error).__name__}: {error}", "lost", counts)
        shutil.rmtree(folder)
        return 0
    if done < before:
        _complain(name, f"{before} were finished, {done} are left", "lost", counts)
    else:
        counts["survived"] += 1
    return done


def _check_result(name: str, end: End, folder: Path, expected: object, counts: dict[str, int]) -> None:
    """Checks completed work: same result as without kills, and no unfinished files. Removes the folder."""
    if end.code != 0:
        _complain(name, end.escaped or end.output, "escaped", counts)
    elif JOBS[name].result(folder) != expected:
        _complain(name, "the result differs from that without kills", "lost", counts)
    if unfinished := [path.name for path in folder.rglob("*.part")]:
        _complain(name, f"{unfinished} were left behind", "escaped", counts)
    shutil.rmtree(folder)


def _complain(name: str, what: str, kind: str, counts: dict[str, int]) -> None:
    print(f"kills: {name}: {what}", flush=True)
    counts[kind] += 1
