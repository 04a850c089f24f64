"""Kill -9 at random moments. What was finished stays, every file is sound, and the same command goes on to the same end."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from .jobs import JOBS, End, Running, undisturbed

_SHARES = {"learn": 0.3, "save": 0.3, "bench": 0.2, "train": 0.2}


def run(count: int, seed: int) -> dict[str, int]:
    """Kill ``count`` processes."""
    totals = {"tried": 0, "survived": 0, "escaped": 0, "lost": 0}
    with tempfile.TemporaryDirectory(prefix="instructbrush-") as place:
        for name, share in _SHARES.items():
            for key, value in disturb(
                name, Path(place) / name, max(round(share * count), 1), random.Random(f"{seed} {name}")
            ).items():
                totals[key] += value
    return totals


def disturb(name: str, place: Path, count: int, draw: random.Random) -> dict[str, int]:
    """Kill one kind of work so often, then let it come to its end."""
    job = JOBS[name]
    data, wanted = undisturbed(name, place)

    counts = {"tried": 0, "survived": 0, "escaped": 0, "lost": 0}
    folder, done = place / "killed", 0
    while counts["tried"] < count:
        running = Running(name, data, folder)
        if running.wait(draw.uniform(0.1, job.seconds)):
            _compare(name, running.end(), folder, wanted, counts)
            done = 0
            continue
        running.kill()
        counts["tried"] += 1
        done = _look(name, folder, done, counts)
    _compare(name, Running(name, data, folder).end(), folder, wanted, counts)
    return counts


def _look(name: str, folder: Path, before: int, counts: dict[str, int]) -> int:
    """How much is finished after a kill: never less than before."""
    try:
        done = JOBS[name].done(folder)
    except Exception as error:  # a file that is not sound, whatever its reader makes of it
        _complain(name, f"{type(error).__name__}: {error}", "lost", counts)
        shutil.rmtree(folder)
        return 0
    if done < before:
        _complain(name, f"{before} were finished, {done} are left", "lost", counts)
    else:
        counts["survived"] += 1
    return done


def _compare(name: str, end: End, folder: Path, wanted: object, counts: dict[str, int]) -> None:
    """The work ended by itself: it must have come to what it comes to without kills, and left nothing half written. The folder is emptied."""
    if end.code != 0:
        _complain(name, end.escaped or end.said, "escaped", counts)
    elif JOBS[name].result(folder) != wanted:
        _complain(name, "another result than without kills", "lost", counts)
    if left := [path.name for path in folder.rglob("*.part")]:
        _complain(name, f"{left} stay behind", "escaped", counts)
    shutil.rmtree(folder)


def _complain(name: str, what: str, kind: str, counts: dict[str, int]) -> None:
    print(f"kills: {name}: {what}", flush=True)
    counts[kind] += 1
