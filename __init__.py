"""InstructBrush: learn an image edit from before/after pairs and apply it, in ComfyUI and from Python.

ComfyUI reads `WEB_DIRECTORY` and calls `comfy_entrypoint`. Nothing heavy is imported here, so the package also serves scripts
that want `instructbrush.core` alone.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> "ComfyExtension":
    """The nodes, imported only when ComfyUI asks for them."""
    from .nodes import InstructBrushExtension

    return InstructBrushExtension()
