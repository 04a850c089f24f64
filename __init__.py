"""InstructBrush: learn an image edit from before/after pairs and apply it, in ComfyUI and from Python.

ComfyUI reads `WEB_DIRECTORY` and calls `comfy_entrypoint`. Nothing heavy is imported here, so the package also serves scripts
that want `instructbrush.core` alone.
"""

import logging
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"
_OLDEST = "0.30.0"
"""The ComfyUI that is needed, as pyproject.toml has it."""


async def comfy_entrypoint() -> "ComfyExtension":
    """The nodes, imported only when ComfyUI asks for them."""
    from .nodes import InstructBrushExtension

    return InstructBrushExtension()


def _too_old() -> str:
    """The version of the ComfyUI that loads this, where that is older than what is needed; otherwise empty."""
    try:
        from comfyui_version import __version__ as found
    except ImportError:
        return "an old one that tells no version"
    return found if [0, 0, 0] < _numbers(found) < _numbers(_OLDEST) else ""


def _numbers(version: str) -> list[int]:
    return [*(int(number) for number in re.findall(r"\d+", version)[:3]), 0, 0, 0][:3]


# ComfyUI has imported its folder_paths before it looks at any pack.
if "folder_paths" in sys.modules and (_found := _too_old()):
    logging.error(
        "InstructBrush needs ComfyUI %s or newer, and this one is %s: update ComfyUI. Until then its nodes are not there.",
        _OLDEST,
        _found,
    )
    # With this ComfyUI asks for nothing more, and says nothing more; an older one knows no comfy_entrypoint.
    NODE_CLASS_MAPPINGS: dict[str, type] = {}
