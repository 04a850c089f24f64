"""`make serve`: ComfyUI with this pack on http://127.0.0.1:8188, in .comfyui/base, for looking. PORT and further options may be given.

.venv/bin/python tools/serve.py [--port N] [ComfyUI options]
"""

from __future__ import annotations

import argparse
import os

from instructbrush.tools.comfy_server import ComfyServer, device_arguments
from instructbrush.tools.get_comfyui import HOLD


def main() -> None:
    """Become the server: this process is replaced, so Ctrl-C and exit codes are ComfyUI's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8188)
    known, further = parser.parse_known_args()
    server = ComfyServer(HOLD / "base", port=known.port, arguments=[*device_arguments(), *further])
    os.chdir(server.base)
    os.execv(server.command[0], server.command)


if __name__ == "__main__":
    main()
