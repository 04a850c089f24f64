"""Runs the command line, without ComfyUI: `python -m instructbrush`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
