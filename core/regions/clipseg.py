"""Finds masks directly from words with CLIPSeg."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict, functional

from ..errors import RegionError
from ..models.hub_folders import model_title
from .boxes import Box
from .finder import (
    MOST_OBJECTS,
    PROCESSOR_OPTIONS,
    FoundObject,
    channels_first,
    check_request,
    check_threshold,
    knows,
)
from .finder_folders import CLIPSEG, load_folder


class ClipSegFinder:
    """A ``RegionFinder`` made of CLIPSeg, which predicts for each pixel how well words describe it.

    A pixel is part of a phrase's mask if its probability exceeds ``text_threshold``. Every fragment of that
    mask (pixels connected also at corners) is an object if its highest probability, its score, exceeds
    ``box_threshold``.

    Args:
        folder: folder of CLIPSeg.
        device: where the network runs.
        name: name for reports; the folder's name by default.
        thresholds: default thresholds.

    Raises:
        ModelError: the folder cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        name: str | None = None,
        thresholds: tuple[float, float] = (0.4, 0.4),
    ) -> None:
        self._clipseg, self._processor = load_folder(folder, CLIPSEG)
        self.name = name or model_title(folder)
        self.thresholds = thresholds
        self.known_nouns: Sequence[str] = tuple(getattr(self._clipseg.config, "known_nouns", ()))
        self.module: Module = ModuleDict({"clipseg": self._clipseg}).eval().to(device)

    @property
    def device(self) -> torch.device:
        """The current device."""
        return next(self.module.parameters()).device

    def find(
        self,
        image: Tensor,
        phrases: Sequence[str],
        box_threshold: float | None = None,
        text_threshold: float | None = None,
        most: int = MOST_OBJECTS,
    ) -> list[FoundObject]:
        """See ``RegionFinder.find``."""
        phrases = check_request(image, phrases, most)
        phrases = [phrase for phrase in phrases if knows(self.known_nouns, phrase)]
        box_limit = check_threshold("box_threshold", box_threshold, self.thresholds[0], self.name)
        text_limit = check_threshold("text_threshold", text_threshold, self.thresholds[1], self.name)
        fragments: list[_Fragment] = []
        maps = self.probabilities(image, phrases) if phrases else ()
        for phrase, probabilities in zip(phrases, maps, strict=True):
            fragments += _fragments(phrase, probabilities, box_limit, text_limit)
        best = sorted(fragments, key=lambda fragment: -fragment.score)[:most]
        return [
            FoundObject(part.phrase, part.score, part.box, (part.labels == part.number).float())
            for part in best
        ]

    @torch.no_grad()
    def probabilities(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        """Returns how probably each pixel of an image [H, W, 3] belongs to each of P phrases.

        Returns:
            [P, H, W] in 0..1, on the CPU.

        Raises:
            RegionError: a phrase exceeds the text window.
        """
        pixels = channels_first(image)
        prepared = self._processor.image_processor(pixels, **PROCESSOR_OPTIONS)["pixel_values"]
        clipseg = self._clipseg
        # The image is encoded once, whatever the number of phrases.
        states = clipseg.clip.vision_model(
            prepared.to(self.device), output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        activations = [states[layer + 1] for layer in clipseg.extract_layers]
        most_tokens = int(clipseg.config.text_config.max_position_embeddings)
        maps = []
        for phrase in phrases:
            words = self._processor.tokenizer([phrase], return_tensors="pt")
            length = words["input_ids"].shape[1]
            if length > most_tokens:
                raise RegionError(
                    f"Find Region: '{phrase[:40]}...' is {length} tokens long; {self.name} reads "
                    f"{most_tokens}. Use fewer words."
                )
            text = {name: words[name].to(self.device) for name in ("input_ids", "attention_mask")}
            condition = clipseg.get_conditional_embeddings(batch_size=1, **text)
            logits = clipseg.decoder(activations, condition).logits.float().cpu()
            logits = logits.reshape(1, 1, *logits.shape[-2:])
            resized = functional.interpolate(logits, pixels.shape[1:], mode="bilinear", antialias=True)
            maps.append(resized[0, 0].sigmoid())
        return torch.stack(maps)


@dataclass(frozen=True)
class _Fragment:
    """A connected part of a phrase's mask: the pixels of ``labels`` [H, W] that equal ``number``."""

    phrase: str
    score: float
    box: Box
    labels: Tensor
    number: int


def _fragments(
    phrase: str, probabilities: Tensor, box_threshold: float, text_threshold: float
) -> list[_Fragment]:
    from scipy import ndimage

    values = probabilities.numpy()
    labelled: Any = ndimage.label(values > text_threshold, structure=[[1] * 3] * 3)
    numbered, count = labelled
    peaks = ndimage.maximum(values, numbered, range(1, count + 1)) if count else []
    labels = torch.from_numpy(numbered)
    fragments = []
    for number, (peak, extent) in enumerate(zip(peaks, ndimage.find_objects(numbered), strict=True), 1):
        if peak > box_threshold:
            y, x = extent
            box = Box(float(x.start), float(y.start), float(x.stop), float(y.stop))
            fragments.append(_Fragment(phrase, float(peak), box, labels, number))
    return fragments
