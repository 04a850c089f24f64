"""Replaces objects with an editing model of this pack: the built-in region editor, or any InstructPix2Pix."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from ....diffusion.region_blending import Region
from ....editing.editor import DiffusersEditor
from ....editing.loading import load_editor
from ....editing.settings import SamplingSettings
from ....models.builtin import POCKET_REGION_FOLDER
from ....regions.boxes import Box, box_mask
from ....storage.image_sizes import scaled
from ..objects import with_article
from ..replacing import ObjectReplacer, ReplacementRequest, inside_box

_INSTRUCTION = "turn the {selected} into {target}"
# The built-in editor learned these wordings for a thing that the mask shows.
_POCKET_INSTRUCTION = "turn it into {target}"
_POCKET_QUALITY = "make it {quality}"
_POCKET_SIDE = 128


@dataclass(frozen=True)
class RegionEditorSpec:
    """Which editing model replaces objects. Calling it raises ``ModelError`` if it cannot be loaded."""

    model: str = ""
    """A diffusers folder or a checkpoint file; empty for the built-in region editor."""
    device: str = field(default="cpu", repr=False)
    half: bool = False
    """Whether weights are loaded in fp16."""
    side: int = 512
    """Pixels of the longer side that images are scaled to for the model; 128 with the built-in editor."""
    steps: int = 20
    text_scale: float | None = None
    image_scale: float | None = None

    def __call__(self) -> ObjectReplacer:
        """Loads the model."""
        dtype = torch.float16 if self.half else torch.float32
        editor = load_editor(self.model or POCKET_REGION_FOLDER, self.device, dtype)
        return RegionEditorReplacer(editor, self)


class RegionEditorReplacer:
    """An ``ObjectReplacer``. A model that reads masks gets the box as its mask; other models' edits are
    limited to it while sampling. Pixels outside the box are always the source's.

    Args:
        editor: the model.
        spec: how it is used.
    """

    def __init__(self, editor: DiffusersEditor, spec: RegionEditorSpec) -> None:
        self._editor = editor
        self._spec = spec

    def replace(self, image: Tensor, request: ReplacementRequest) -> Tensor:
        """See ``ObjectReplacer.replace``."""
        height, width = image.shape[:2]
        working = self._working_size(height, width)
        small = scaled(image, working)
        mask = box_mask([_scaled_box(request.box, (height, width), working)], *working)
        words = instruction_for(request.selected, request.target, pocket=not self._spec.model)
        settings = SamplingSettings(
            self._spec.steps, self._spec.text_scale, self._spec.image_scale, request.seed
        )
        if self._editor.description.reads_mask:
            edited = self._editor.edit(small[None], words, settings, masks=mask)
        else:
            edited = self._editor.edit(small[None], words, settings, self._region(small[None], mask))
        return inside_box(scaled(edited[0].cpu(), (height, width)), image, request.box)

    def _working_size(self, height: int, width: int) -> tuple[int, int]:
        side = self._spec.side if self._spec.model else min(self._spec.side, _POCKET_SIDE)
        factor = min(side / max(height, width), 1.0)
        stride = self._editor.stride
        rows, columns = (max(round(size * factor / stride), 1) * stride for size in (height, width))
        return rows, columns

    def _region(self, images: Tensor, mask: Tensor) -> Region:
        source = self._editor.scale(self._editor.encode_images(images))
        # Every latent pixel that the box touches may change; what is too much is cut off at the end.
        latent_mask = functional.adaptive_max_pool2d(mask[None, None], source.shape[2:])
        return Region(latent_mask.to(source.device), source)


def instruction_for(selected: str, target: str, pocket: bool) -> str:
    """Returns the words that the editing model gets."""
    old, new = selected.split(), target.split()
    if pocket and old[-1] == new[-1] and len(qualities := [word for word in new if word not in old]) == 1:
        return _POCKET_QUALITY.format(quality=qualities[0])
    instruction = _POCKET_INSTRUCTION if pocket else _INSTRUCTION
    return instruction.format(selected=selected, target=with_article(target))


def _scaled_box(box: Box, size: tuple[int, int], working: tuple[int, int]) -> Box:
    vertical, horizontal = working[0] / size[0], working[1] / size[1]
    # Rounding must not take a box at the border out of the image.
    right, bottom = min(box.right * horizontal, working[1]), min(box.bottom * vertical, working[0])
    return Box(box.left * horizontal, box.top * vertical, right, bottom)
