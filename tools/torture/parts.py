"""The parts of `make torture`, each in a module of its name."""

from importlib import import_module

PARTS = {"files": 202_000, "kills": 50, "disk": 100, "server": 100}
"""Name -> trials."""


def run_part(part: str, count: int, seed: int) -> dict[str, int]:
    """Run one in this process.

    Args:
        part: of ``PARTS``.
        count: trials.
        seed: the same one tries the same.

    Returns:
        What was counted, such as ``tried``, ``refused``, ``escaped`` and ``lost``.
    """
    return import_module(f"instructbrush.tools.torture.{part}").run(count, seed)
