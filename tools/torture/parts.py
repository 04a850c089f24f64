"""The parts of `make torture`. Each is the module of its name."""

from importlib import import_module

# Name -> number of trials.
PARTS = {"files": 202_000, "kills": 50, "disk": 100, "server": 100}


def run_part(part: str, count: int, seed: int) -> dict[str, int]:
    """Runs a part in this process.

    Args:
        part: a name of ``PARTS``.
        count: number of trials.
        seed: the same seed gives the same trials.

    Returns:
        Counts, such as ``tried``, ``refused``, ``escaped`` and ``lost``.
    """
    return import_module(f"instructbrush.tools.torture.{part}").run(count, seed)
