"""Runs the command line, without ComfyUI: `python -m instructbrush`, or `python PATH/instructbrush`."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:
        # Started by its path, as ComfyUI's portable Python needs: it does not look into the working folder.
        folder = Path(__file__).resolve().parent
        sys.path[0] = str(folder.parent)
        __package__ = folder.name
    sys.exit(importlib.import_module(".cli.main", __package__).main())
