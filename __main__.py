"""`python -m instructbrush`: the command line, without ComfyUI."""

import sys

from .core.commandline import main

if __name__ == "__main__":
    sys.exit(main())
