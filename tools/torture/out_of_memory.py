"""A custom node for ComfyUI: a MODEL whose memory runs out. The server trials copy it into custom_nodes."""

from typing import Any

import torch


class OutOfMemory:
    """A MODEL that raises an out-of-memory error after a number of attention calls."""

    CATEGORY = "torture"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "limited"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return {"required": {"model": ("MODEL",), "calls": ("INT", {"default": 10})}}

    def limited(self, model: Any, calls: int) -> tuple[Any]:
        calls_made = 0

        def attention(q: Any, context: Any, value: Any, options: Any) -> tuple[Any, Any, Any]:
            nonlocal calls_made
            calls_made += 1
            if calls_made > calls:
                raise torch.OutOfMemoryError("out of memory (simulated)")
            return q, context, value

        limited = model.clone()
        limited.set_model_attn2_patch(attention)
        return (limited,)


NODE_CLASS_MAPPINGS = {"TortureOutOfMemory": OutOfMemory}
