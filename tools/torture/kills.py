"""Kill -9 at random moments. What was finished stays, every file is sound, and the same command goes on to the same end."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from .jobs import JOBS, Running

_SHARES = {"learn": 0.3, "save": 0.3, "bench": 0.2, "train": 0.2}


def run(count: int, seed: int) -> dict[str, int]:
    """Kill ``count`` processes."""
    totals = {"tried": 0, "survived": 0, "escaped": 0, "lost": 0}
    with tempfile.TemporaryDirectory(prefix="instructbrush-") as place:
        for name, share in _SHARES.items():
            for key, value in disturb(name, Path(place) / name, max(round(share * count), 1), random.Random(f"{seed} {name}")).items():
                totals[key] += value
    return totals


def disturb(name: str, place: Path, count: int, draw: random.Random) -> dict[str, int]:
    job, data = JOBS[name], place / "data"
    data.mkdir(parents=True)
    job.prepare(data)
    untouched = place / "untouched"
    end = Running(name, data, untouched).end()
    assert end.code == 0, f"{name} fails without being killed: {end.said}\n{end.escaped}"
    wanted = job.result(untouched)

    counts = {"tried": 0, "survived": 0, "escaped": 0, "lost": 0}
    folder, done = place / "killed", 0
    while counts["tried"] < count:
        running = Running(name, data, folder)
        ended = running.wait(draw.uniform(0.1, job.seconds))
        if not ended:
            running.kill()
            counts["tried"] += 1
        done = _look(name, folder, done, counts, survived=not ended)
        if ended:
            _compare(name, running, folder, wanted, counts)
            shutil.rmtree(folder)
            done = 0
    running = Running(name, data, folder)
    end = running.end()
    if end.escaped:
        _complain(name, end.escaped, "escaped", counts)
    else:
        _compare(name, running, folder, wanted, counts)
    return counts


def _look(name: str, folder: Path, before: int, counts: dict[str, int], survived: bool) -> int:
    """How much is finished now: never less than before."""
    try:
        done = JOBS[name].done(folder)
    except Exception as error:  # a file that is not sound, whatever its reader makes of it
        _complain(name, f"{type(error).__name__}: {error}", "lost", counts)
        shutil.rmtree(folder)
        return 0
    if done < before:
        _complain(name, f"{before} were finished, {done} are left", "lost", counts)
    counts["survived"] += survived
    return done


def _compare(name: str, running: Running, folder: Path, wanted: object, counts: dict[str, int]) -> None:
    """The work ended by itself: it must have come to what it comes to without kills, and left nothing half written."""
    found = JOBS[name].result(folder)
    if found != wanted:
        _complain(name, "another result than without kills", "lost", counts)
    left = [path.name for path in folder.rglob("*.part")]
    if left:
        _complain(name, f"{left} stay behind", "escaped", counts)


def _complain(name: str, what: str, kind: str, counts: dict[str, int]) -> None:
    print(f"kills: {name}: {what}", flush=True)
    counts[kind] += 1
