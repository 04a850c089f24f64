"""InstructBrush: learn an image edit from before/after pairs and apply it, in ComfyUI and from Python.

ComfyUI reads `WEB_DIRECTORY` and calls `comfy_entrypoint`. Nothing heavy is imported here, so scripts can
import `instructbrush.core` without ComfyUI.
"""

import logging
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"
# Also in pyproject.toml.
_OLDEST = "0.30.0"


async def comfy_entrypoint() -> "ComfyExtension":
    """Imports the nodes when ComfyUI asks for them."""
    from .nodes import InstructBrushExtension

    return InstructBrushExtension()


def _running_version() -> str:
    """Returns the version of the running ComfyUI; empty if it is so old that it has no version module."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return ""
    return __version__


def _is_too_old(version: str) -> bool:
    # A version without numbers, such as "nightly", is assumed to be new enough.
    return not version or [0, 0, 0] < _numbers(version) < _numbers(_OLDEST)


def _numbers(version: str) -> list[int]:
    numbers = [int(number) for number in re.findall(r"\d+", version)[:3]]
    return [*numbers, 0, 0, 0][:3]


# ComfyUI imports its folder_paths before it looks at any pack.
if "folder_paths" in sys.modules:
    _version = _running_version()
    if _is_too_old(_version):
        logging.error(
            "InstructBrush needs ComfyUI %s or newer, but this is %s. Update ComfyUI. "
            "Until then the nodes are not available.",
            _OLDEST,
            f"ComfyUI {_version}" if _version else "an older ComfyUI of unknown version",
        )
        # With an empty table ComfyUI does not call comfy_entrypoint, and old versions do not complain.
        NODE_CLASS_MAPPINGS: dict[str, type] = {}
