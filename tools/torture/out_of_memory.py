"""For ComfyUI's folder custom_nodes: a MODEL whose memory runs out, to see what becomes of a run and of the next one."""

from typing import Any

import torch


class OutOfMemory:
    """A MODEL that computes so often, and then no more."""

    CATEGORY = "torture"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "limited"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return {"required": {"model": ("MODEL",), "calls": ("INT", {"default": 10})}}

    def limited(self, model: Any, calls: int) -> tuple[Any]:
        made = 0

        def attention(q: Any, context: Any, value: Any, options: Any) -> tuple[Any, Any, Any]:
            nonlocal made
            made += 1
            if made > calls:
                raise torch.OutOfMemoryError("out of memory (simulated)")
            return q, context, value

        limited = model.clone()
        limited.set_model_attn2_patch(attention)
        return (limited,)


NODE_CLASS_MAPPINGS = {"TortureOutOfMemory": OutOfMemory}
