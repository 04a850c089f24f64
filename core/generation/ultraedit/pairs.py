"""Source and target images of an edit: one protocol, and what makes them.

Free-form pairs (stage II) come from a text-to-image model with prompt-to-prompt, anchored in the real image
(see ``core/generation/prompt_to_prompt``), or are the anchor and what an editing model makes of it. Region
pairs (stage III) are the anchor and an edit that Eq. 1 limits to the soft mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...diffusion.region_blending import Region
from ...editing.editor import DiffusersEditor
from ...editing.loading import load_editor
from ...editing.settings import SamplingSettings
from ...errors import BuildError
from ...evaluation.metrics import quantized
from ...models.builtin import POCKET_FOLDER, POCKET_REGION_FOLDER
from ..prompt_to_prompt.candidates import FEW_STEPS_DRAWING, CandidateMaker, CaptionPairs, Drawing
from ..prompt_to_prompt.model import TextToImage, load_text_to_image
from ..prompt_to_prompt.sampling import PairSettings


@dataclass(frozen=True)
class PairRequest:
    """An edit to be made."""

    source_caption: str
    target_caption: str
    instruction: str
    anchor: Tensor
    """The real image, [H, W, 3] in 0..1."""
    mask: Tensor | None = None
    """Soft mask M_s, [H, W] in 0..1; None for a free-form edit."""


class PairGenerator(Protocol):
    """Makes pairs of images."""

    @property
    def name(self) -> str:
        """Name for the data set."""
        ...

    def pairs(self, request: PairRequest, seeds: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Returns source and target image of each seed, [H, W, 3] with 8-bit values in 0..1.

        A pair depends on the request and its own seed alone.

        Raises:
            RegionError: the mask is empty.
        """
        ...


@dataclass(frozen=True)
class EditedAnchors:
    """The source is the anchor, and the target what an editing model makes of it.

    Calling it raises ``ModelError`` if the model cannot be loaded.
    """

    model: str = ""
    """A diffusers folder or a checkpoint file; empty for the built-in editor."""
    region: bool = False
    """Whether it edits in a mask; then the built-in model is the region editor."""
    steps: int = 20
    text_scale: float | None = None
    image_scale: float | None = None
    every: int = 2
    """Steps between blendings (Eq. 1)."""
    device: str = field(default="cpu", repr=False)
    half: bool = False
    """Whether weights are loaded in fp16."""

    def __call__(self) -> PairGenerator:
        """Loads the model."""
        built_in = POCKET_REGION_FOLDER if self.region else POCKET_FOLDER
        dtype = torch.float16 if self.half else torch.float32
        return _Editing(load_editor(self.model or built_in, self.device, dtype), self)


class _Editing:
    def __init__(self, editor: DiffusersEditor, spec: EditedAnchors) -> None:
        self._editor = editor
        self._spec = spec
        self.name = editor.description.title

    def pairs(self, request: PairRequest, seeds: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        spec, editor, anchor = self._spec, self._editor, request.anchor
        if spec.region and request.mask is None:
            raise BuildError("Pairs: a region edit has no mask.")
        settings = SamplingSettings(spec.steps, spec.text_scale, spec.image_scale, tuple(seeds))
        images = anchor[None].expand(len(seeds), -1, -1, -1)
        region = masks = None
        if request.mask is not None:
            region = region_of(editor, anchor[None], request.mask, spec.every)
            region = replace(region, source=region.source.expand(len(seeds), -1, -1, -1))
            masks = request.mask if editor.description.reads_mask else None
        edited = quantized(editor.edit(images, request.instruction, settings, region, masks))
        return [(anchor, each) for each in edited]


def region_of(editor: DiffusersEditor, images: Tensor, mask: Tensor, every: int = 2) -> Region:
    """Returns Eq. 1's region of images [B, H, W, 3] for a soft mask [H, W]."""
    source = editor.scale(editor.encode_images(images))
    latent_mask = functional.interpolate(
        mask[None, None], source.shape[2:], mode="bilinear", antialias=True
    ).clamp(0, 1)
    return Region(latent_mask, source, every)


@dataclass(frozen=True)
class PromptToPromptPairs:
    """Both images come from a text-to-image model, with the attention of the source caption in the target.

    Both start from the anchor with noise. Calling it raises ``ModelError`` if the model cannot be loaded.
    """

    model: str
    """A diffusers folder of SD1.5's, SD2.1's or SDXL's layout, such as SDXL-Turbo."""
    steps: int = 5
    """UltraEdit's code takes 3, 5 or 8."""
    strength: float = 0.6
    """How far images leave their anchor, see ``PairSettings``."""
    drawing: Drawing = FEW_STEPS_DRAWING
    device: str = field(default="cpu", repr=False)
    half: bool = False
    """Whether weights are loaded in fp16."""

    def __call__(self) -> PairGenerator:
        """Loads the model."""
        dtype = torch.float16 if self.half else torch.float32
        return _PromptToPrompt(load_text_to_image(self.model, self.device, dtype), self)


class _PromptToPrompt:
    def __init__(self, model: TextToImage, spec: PromptToPromptPairs) -> None:
        self._model = model
        self._spec = spec
        self.name = model.title

    def pairs(self, request: PairRequest, seeds: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        if request.mask is not None:
            raise BuildError("Pairs: prompt-to-prompt makes free-form pairs only; edit regions with a model.")
        spec = self._spec
        height, width = request.anchor.shape[:2]
        settings = PairSettings(spec.steps, height, width, spec.strength)
        candidates = CaptionPairs(spec.model, settings, spec.drawing)
        captions = request.source_caption, request.target_caption
        return CandidateMaker(self._model, candidates).pairs(captions, seeds, request.anchor)
