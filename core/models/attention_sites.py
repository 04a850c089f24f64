"""Cross-attention layers ("sites") of a UNet and their names in both key dialects.

A UNet's state dict uses either the names of diffusers
(``down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.weight``) or those of the original latent
diffusion code and ComfyUI (``input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight``). The correspondence
follows from the number of residual layers at each resolution. Both dialects show it in their keys, so no
table per model family is needed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]

_SITE_KEY = ".attn2.to_k.weight"
_DIFFUSERS = re.compile(
    r"^(?:(down|up)_blocks\.(\d{1,3})|mid_block)\.attentions\.(\d{1,3})"
    r"\.transformer_blocks\.(\d{1,3})\.attn2\.to_k\.weight$"
)
_NATIVE = re.compile(
    r"^(?:(input|output)_blocks\.(\d{1,3})|middle_block)\.1"
    r"\.transformer_blocks\.(\d{1,3})\.attn2\.to_k\.weight$"
)


@dataclass(frozen=True)
class Site:
    """One cross-attention layer."""

    name: str
    """Module path in diffusers, e.g. ``"down_blocks.0.attentions.1.transformer_blocks.0.attn2"``. Learned
    tensors are stored under it."""
    block: tuple[str, int, int]
    """ComfyUI's name: ``"input"``, ``"middle"`` or ``"output"``, the block's number, and the index of the
    transformer layer in it."""
    width: int
    """Channels of keys and values after ``to_k`` / ``to_v``: heads x channels per head."""
    context_width: int
    """Channels of the text states."""
    heads: int = 1

    @property
    def native_name(self) -> str:
        """Module path in the original dialect, e.g. ``"input_blocks.2.1.transformer_blocks.0.attn2"``."""
        kind, number, depth = self.block
        block = "middle_block" if kind == "middle" else f"{kind}_blocks.{number}"
        return f"{block}.1.transformer_blocks.{depth}.attn2"


def is_native(shapes: Shapes) -> bool:
    """Whether the keys are in the original (ComfyUI's) dialect."""
    return any(key.startswith("input_blocks.") for key in shapes)


def sites_of_unet(
    shapes: Shapes, head_width: int | None = None, heads: int | None = None
) -> tuple[Site, ...]:
    """Finds every cross-attention layer.

    Args:
        shapes: the UNet's tensors, in either dialect, without a checkpoint's ``model.diffusion_model.``
            prefix.
        head_width: channels per head, if constant (SD2.1, SDXL).
        heads: number of heads, if constant (SD1.5). The shapes show neither of the two.

    Returns:
        The sites in the order the UNet runs them (down, middle, up), the same from either dialect.

    Raises:
        ModelError: there is no cross-attention, or its keys follow neither dialect.
    """
    numbering = _native_numbering(shapes) if is_native(shapes) else _diffusers_numbering(shapes)
    sites = []
    for key, shape in shapes.items():
        if not key.endswith(_SITE_KEY):
            continue
        if len(shape) != 2 or 0 in shape:
            raise ModelError(
                f"UNet: {key} has shape {list(shape)}; a matrix is needed. The file is damaged or of another "
                "kind. Download it again."
            )
        name, block = _site_of_key(key, numbering)
        width, context_width = shape[0], shape[1]
        count = heads or (width // head_width if head_width else 1)
        sites.append(Site(name, block, width, context_width, count))
    if not sites:
        raise ModelError(
            "UNet: it has no cross-attention layers (keys ending in attn2.to_k.weight), so it cannot learn "
            "an instruction. Choose an InstructPix2Pix model."
        )
    place = {"input": 0, "middle": 1, "output": 2}
    return tuple(sorted(sites, key=lambda site: (place[site.block[0]], site.block[1], site.block[2])))


# Down and up: block number in the original dialect -> (resolution, layer) in diffusers.
_Numbering = tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]


def _site_of_key(key: str, numbering: _Numbering) -> tuple[str, tuple[str, int, int]]:
    down, up = numbering
    if found := _DIFFUSERS.match(key):
        way, level, layer, depth = found.groups()
        name = key.removesuffix(".to_k.weight")
        if way is None:
            return name, ("middle", 0, int(depth))
        table = down if way == "down" else up
        number = next((n for n, place in table.items() if place == (int(level), int(layer))), None)
        if number is not None:
            return name, ("input" if way == "down" else "output", number, int(depth))
    elif found := _NATIVE.match(key):
        way, number, depth = found.groups()
        if way is None:
            return f"mid_block.attentions.0.transformer_blocks.{depth}.attn2", ("middle", 0, int(depth))
        place = (down if way == "input" else up).get(int(number))
        if place is not None:
            level, layer = place
            blocks = "down_blocks" if way == "input" else "up_blocks"
            name = f"{blocks}.{level}.attentions.{layer}.transformer_blocks.{depth}.attn2"
            return name, (way, int(number), int(depth))
    raise ModelError(
        f"UNet: the cross-attention layer {key} is not where a Stable Diffusion UNet has one. Choose an "
        "SD1.5, SD2.1 or SDXL model."
    )


def _diffusers_numbering(shapes: Shapes) -> _Numbering:
    layers: dict[str, dict[int, int]] = {"down": {}, "up": {}}
    for key in shapes:
        if found := re.match(r"^(down|up)_blocks\.(\d{1,3})\.resnets\.(\d{1,3})\.", key):
            way = found.group(1)
            level = int(found.group(2))
            layer = int(found.group(3))
            layers[way][level] = max(layers[way].get(level, 0), layer + 1)
    down: dict[int, tuple[int, int]] = {}
    number = 1  # input_blocks.0 is conv_in
    for level in sorted(layers["down"]):
        for layer in range(layers["down"][level]):
            down[number + layer] = (level, layer)
        number += layers["down"][level] + 1  # the downsampler is a separate block
    up: dict[int, tuple[int, int]] = {}
    for level in sorted(layers["up"]):
        for layer in range(layers["up"][level]):
            up[len(up)] = (level, layer)
    return down, up


def _native_numbering(shapes: Shapes) -> _Numbering:
    numbers: dict[str, set[int]] = {"input": set(), "output": set()}
    for key in shapes:
        if found := re.match(r"^(input|output)_blocks\.(\d{1,3})\.", key):
            numbers[found.group(1)].add(int(found.group(2)))
    down: dict[int, tuple[int, int]] = {}
    level = layer = 0
    for number in sorted(numbers["input"] - {0}):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            level, layer = level + 1, 0
        else:
            down[number] = (level, layer)
            layer += 1
    up: dict[int, tuple[int, int]] = {}
    level = layer = 0
    for number in sorted(numbers["output"]):
        up[number] = (level, layer)
        layer += 1
        # The upsampler is in the last block of its resolution, after the attention if there is any.
        if any(f"output_blocks.{number}.{place}.conv.weight" in shapes for place in (1, 2)):
            level, layer = level + 1, 0
    return down, up
