"""Several candidates for one pair of captions: each has its own seed and its own share of injected steps."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...errors import BuildError
from ...evaluation.metrics import quantized
from .control import IP2P_CONTROL, ULTRAEDIT_CONTROL, ControlSettings
from .model import TextToImage, load_text_to_image
from .sampling import PairRequest, PairSettings, sample_pairs
from .words import read_caption


@dataclass(frozen=True)
class Drawing:
    """How candidates differ besides their noise. Both values are drawn uniformly, from the seed alone."""

    control: ControlSettings = ControlSettings()
    share: tuple[float, float] = (0.1, 0.9)
    """Range of the share that replaces the control's shares of cross- and self-attention, unless they are 0.
    No one share suits all edits: small changes need much of the source's attention, large ones little."""
    guidance: tuple[float, float] = (7.5, 7.5)
    """Range of the scale of classifier-free guidance."""

    def __post_init__(self) -> None:
        for name, (low, high), most in (("share", self.share, 1.0), ("guidance", self.guidance, 100.0)):
            if not 0 <= low <= high <= most:
                raise BuildError(f"Candidates: {name} {low} to {high} is no range within 0..{most:g}.")

    def request(self, captions: tuple[str, str], seed: int, anchor: Tensor | None = None) -> PairRequest:
        """Returns the candidate of a seed."""
        draw = random.Random(seed)
        share, guidance = draw.uniform(*self.share), draw.uniform(*self.guidance)
        control = replace(
            self.control,
            cross=share if self.control.cross else 0.0,
            self_attention=share if self.control.self_attention else 0.0,
        )
        return PairRequest(*captions, seed, control, guidance, anchor)


IP2P_DRAWING = Drawing(IP2P_CONTROL, guidance=(7.5, 15.0))
"""InstructPix2Pix (section 3.1.2 and its code): 100 candidates of 100 steps for each pair of captions."""

FEW_STEPS_DRAWING = Drawing(ULTRAEDIT_CONTROL, guidance=(0.0, 0.0))
"""UltraEdit's code with SDXL-Turbo: 30 candidates of 2 to 4 steps; with an anchor 3, 5 or 8, strength 0.6."""


@dataclass(frozen=True)
class CaptionPairs:
    """Makes candidates with a text-to-image model. Is sent to other processes; calling it loads the model.

    Calling it raises ``ModelError`` if the model cannot be loaded.
    """

    model: str
    """A diffusers folder of SD1.5's, SD2.1's or SDXL's layout."""
    settings: PairSettings = PairSettings()
    drawing: Drawing = Drawing()
    batch: int = field(default=4, repr=False)
    """Pairs in one call of the model; matters for memory and speed only."""
    device: str = field(default="cpu", repr=False)
    half: bool = False
    """Whether weights are loaded in fp16."""

    def __call__(self) -> "CandidateMaker":
        """Loads the model."""
        dtype = torch.float16 if self.half else torch.float32
        return CandidateMaker(load_text_to_image(self.model, self.device, dtype), self)


class CandidateMaker:
    """Makes the candidates that a ``CaptionPairs`` describes."""

    def __init__(self, model: TextToImage, spec: CaptionPairs) -> None:
        self._model = model
        self._spec = spec
        self.name = model.title
        self.needs_anchor = spec.settings.strength < 1

    def fits(self, caption: str) -> bool:
        """Whether the text window holds the whole caption."""
        return not read_caption(caption, self._model.tokenizers[0]).is_cut

    def pairs(
        self, captions: tuple[str, str], seeds: Sequence[int], anchor: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Returns source and target image of each seed, [H, W, 3] with 8-bit values in 0..1.

        Raises:
            BuildError: as ``sample_pairs``.
        """
        requests = [self._spec.drawing.request(captions, seed, anchor) for seed in seeds]
        made: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(requests), self._spec.batch):
            images = sample_pairs(
                self._model, requests[start : start + self._spec.batch], self._spec.settings
            )
            made += zip(*(quantized(each) for each in images), strict=True)
        return made
