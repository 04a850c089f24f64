"""`python -m instructbrush`: the command line, without ComfyUI."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
