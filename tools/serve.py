"""`make serve`: starts ComfyUI with this pack on http://127.0.0.1:8188. Its base directory is .comfyui/base.

.venv/bin/python tools/serve.py [--port N] [ComfyUI options]
"""

from __future__ import annotations

import argparse
import os

from instructbrush.tools.comfy_server import ComfyServer, device_arguments
from instructbrush.tools.get_comfyui import COMFYUI_FOLDER


def main() -> None:
    """Replaces this process by the server, so that Ctrl-C and exit codes are those of ComfyUI."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8188)
    options, comfyui_options = parser.parse_known_args()
    arguments = [*device_arguments(), *comfyui_options]
    server = ComfyServer(COMFYUI_FOLDER / "base", port=options.port, arguments=arguments)
    os.chdir(server.base)
    os.execv(server.command[0], server.command)


if __name__ == "__main__":
    main()
