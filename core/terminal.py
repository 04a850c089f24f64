"""What the command line says beside its results."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Write a line to stderr, above a progress bar where there is one."""
    tqdm.write(f"instructbrush: {text}", file=sys.stderr)
