"""Finding regions by words: Grounding DINO's boxes with SAM's masks in them, or CLIPSeg's masks.

UltraEdit makes its fine masks so (SAM, prompted by Grounding DINO's boxes). All models come from local folders.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict, functional

from ..errors import ModelError, RegionError
from ..models.builtin import POCKET_FINDER_FOLDER
from ..models.hub_folders import model_title
from .finder_models import CLIPSEG, GROUNDING_DINO, SAM, load_folder
from .masks import Box

MOST = 20
"""Objects that are kept in an image by default."""

_POCKET_THRESHOLDS = (0.5, 0.5)
_SAME = 0.8
"""Two boxes for one phrase that overlap more than this (intersection over union) are one object, as in Grounded-SAM's demonstration."""
_BOXES_AT_ONCE = 8
"""SAM's masks take memory at the size of its own images."""


@dataclass(frozen=True)
class Found:
    """One object.

    Attributes:
        phrase: the words it was found by.
        score: 0..1.
        box: in pixels of the image, within it.
        mask: fp32 [H, W] on the CPU, 1 on the object and 0 elsewhere. All zero where SAM sees nothing in the box.
    """

    phrase: str
    score: float
    box: Box
    mask: Tensor


class RegionFinder(Protocol):
    """A frozen model that finds objects by words."""

    @property
    def name(self) -> str:
        """Of its folders, for reports."""
        ...

    @property
    def module(self) -> Module:
        """All its networks, for who moves them between devices."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs now."""
        ...

    @property
    def thresholds(self) -> tuple[float, float]:
        """``box_threshold`` and ``text_threshold`` that suit it."""
        ...

    def find(
        self,
        image: Tensor,
        phrases: Sequence[str],
        box_threshold: float | None = None,
        text_threshold: float | None = None,
        most: int = MOST,
    ) -> list[Found]:
        """Find every object that one of the phrases names.

        Args:
            image: [H, W, 3] in 0..1, of any size.
            phrases: one or more, such as ``["red ball", "hat"]``; see :func:`phrases_of`.
            box_threshold: 0..1, what an object's score must exceed. ``None`` takes what suits the model.
            text_threshold: 0..1; how well words must fit. What it is compared with depends on the model.
            most: how many objects are kept at most, the best ones.

        Returns:
            The objects by falling score; an empty list when nothing was found.

        Raises:
            RegionError: a bad image or threshold, or no words or too many.
        """
        ...


class GroundedSam:
    """Grounding DINO for boxes, SAM for the mask in each of them.

    An object is a box whose score (the highest probability of any token, as in transformers) exceeds ``box_threshold`` and that has a word above
    ``text_threshold``; it belongs to the phrase of its most probable word. Of boxes for one phrase that nearly coincide the best is kept.

    Args:
        dino_folder, sam_folder: see :mod:`.finder_models`.
        device: where they shall run.

    Raises:
        ModelError: a folder cannot be used.
    """

    thresholds = (0.3, 0.25)

    def __init__(self, dino_folder: Path, sam_folder: Path, device: torch.device | str = "cpu") -> None:
        self._dino, self._words = load_folder(dino_folder, GROUNDING_DINO)
        self._sam, self._prompts = load_folder(sam_folder, SAM)
        self.name = f"{model_title(dino_folder)} + {model_title(sam_folder)}"
        # transformers' models let nobody set their device; around them ComfyUI can keep its books.
        self.module: Module = ModuleDict({"dino": self._dino, "sam": self._sam}).eval().to(device)

    @property
    def device(self) -> torch.device:
        """Where it runs now."""
        return next(self.module.parameters()).device

    @torch.no_grad()
    def find(
        self,
        image: Tensor,
        phrases: Sequence[str],
        box_threshold: float | None = None,
        text_threshold: float | None = None,
        most: int = MOST,
    ) -> list[Found]:
        """See :meth:`RegionFinder.find`."""
        phrases, limits = _checked(self, image, phrases, box_threshold, text_threshold, most)
        pixels = _pixels(image)
        boxes, scores, owners = self._boxes(pixels, phrases, *limits)
        boxes, scores, owners = boxes[:most], scores[:most], owners[:most]
        masks = self._masks(pixels, boxes)
        return [
            Found(phrases[owner], score, Box(*box), mask)
            for box, score, owner, mask in zip(
                boxes.tolist(), scores.tolist(), owners.tolist(), masks, strict=True
            )
        ]

    def _boxes(
        self, pixels: Tensor, phrases: Sequence[str], box_threshold: float, text_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [N, 4] (left, top, right, bottom), scores [N] and numbers of the phrases [N], the best first."""
        from torchvision.ops import batched_nms

        text = " ".join(f"{phrase.lower()}." for phrase in phrases)
        inputs = self._words(images=pixels, text=text, **_AS_IT_IS)
        ids = inputs["input_ids"][0]
        room = int(self._dino.config.max_text_len)
        if len(ids) > room:
            raise RegionError(
                f"Find Region: the words are {len(ids)} tokens long, Grounding DINO reads {room}. Look for fewer things at a time."
            )
        outputs = self._dino(**inputs.to(self.device))
        probabilities = outputs.logits[0, :, : len(ids)].float().sigmoid().cpu()
        tokenizer = self._words.tokenizer
        ends = ids == tokenizer.convert_tokens_to_ids(".")
        word = ~ends & ~torch.isin(ids, torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
        phrase_of = ends.cumsum(0)
        fits = torch.stack(
            [
                probabilities.masked_fill(~(word & (phrase_of == number)), 0).amax(1)
                for number in range(len(phrases))
            ],
            dim=1,
        )
        best, owners = fits.max(1)
        scores = probabilities.amax(1)

        height, width = pixels.shape[1:]
        middle, size = outputs.pred_boxes[0].float().cpu().split(2, dim=1)
        corners = torch.cat([middle - size / 2, middle + size / 2], dim=1) * torch.tensor(
            [width, height, width, height]
        )
        corners = corners.clamp(min=torch.zeros(4), max=torch.tensor([width, height, width, height]).float())
        kept = (scores > box_threshold) & (best > text_threshold) & (corners[:, 2:] > corners[:, :2]).all(1)
        corners, scores, owners = corners[kept], scores[kept], owners[kept]
        order = batched_nms(corners, scores, owners, _SAME)
        return corners[order], scores[order], owners[order]

    def _masks(self, pixels: Tensor, boxes: Tensor) -> list[Tensor]:
        """The mask [H, W] of what each box [N, 4] frames."""
        if not len(boxes):
            return []
        inputs = self._prompts(images=pixels, input_boxes=[boxes.tolist()], **_AS_IT_IS)
        images = self._sam.get_image_embeddings(inputs["pixel_values"].to(self.device))
        sizes = {name: inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs}
        masks: list[Tensor] = []
        for some in inputs["input_boxes"].float().to(self.device).split(_BOXES_AT_ONCE, dim=1):
            # A box leaves little doubt about what is meant: SAM's one mask for clear prompts, not its three for ambiguous ones.
            outputs = self._sam(image_embeddings=images, input_boxes=some, multimask_output=False)
            whole = self._prompts.post_process_masks(outputs.pred_masks.float().cpu(), **sizes)[0]
            masks.extend(whole[:, 0].float())
        return masks


class ClipSegFinder:
    """CLIPSeg: from words straight to how likely each pixel belongs to them.

    A pixel is part of a phrase's mask if its probability exceeds ``text_threshold``. Every fragment of that mask (pixels that touch, corners count) is an
    object if its highest probability, its score, exceeds ``box_threshold``.

    Args:
        folder: see :mod:`.finder_models`.
        device: where it shall run.
        name: what reports call it; the folder's name by default.
        thresholds: those that suit it.

    Raises:
        ModelError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        name: str | None = None,
        thresholds: tuple[float, float] = (0.4, 0.4),
    ) -> None:
        self._clipseg, self._processor = load_folder(folder, CLIPSEG)
        self.name, self.thresholds = name or model_title(folder), thresholds
        self.module: Module = ModuleDict({"clipseg": self._clipseg}).eval().to(device)

    @property
    def device(self) -> torch.device:
        """Where it runs now."""
        return next(self.module.parameters()).device

    def find(
        self,
        image: Tensor,
        phrases: Sequence[str],
        box_threshold: float | None = None,
        text_threshold: float | None = None,
        most: int = MOST,
    ) -> list[Found]:
        """See :meth:`RegionFinder.find`."""
        phrases, limits = _checked(self, image, phrases, box_threshold, text_threshold, most)
        likely = self.probabilities(image, phrases)
        fragments = [
            fragment
            for phrase, each in zip(phrases, likely, strict=True)
            for fragment in _fragments(phrase, each, *limits)
        ]
        best = sorted(fragments, key=lambda fragment: -fragment.score)[:most]
        return [
            Found(each.phrase, each.score, each.box, (each.labels == each.number).float()) for each in best
        ]

    @torch.no_grad()
    def probabilities(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        """How likely each pixel of an image [H, W, 3] belongs to each of P phrases: [P, H, W] in 0..1, on the CPU.

        Raises:
            RegionError: a phrase exceeds the text window.
        """
        pixels = _pixels(image)
        prepared = self._processor.image_processor(pixels, **_AS_IT_IS)["pixel_values"].to(self.device)
        room = int(self._clipseg.config.text_config.max_position_embeddings)
        maps = []
        for phrase in phrases:
            words = self._processor.tokenizer([phrase], return_tensors="pt")
            length = words["input_ids"].shape[1]
            if length > room:
                raise RegionError(
                    f"Find Region: '{phrase[:40]}...' is {length} tokens long, {self.name} reads {room}. Use fewer words."
                )
            given = {name: words[name].to(self.device) for name in ("input_ids", "attention_mask")}
            logits = self._clipseg(pixel_values=prepared, **given).logits.float().cpu()
            logits = logits.reshape(1, 1, *logits.shape[-2:])
            maps.append(
                functional.interpolate(logits, pixels.shape[1:], mode="bilinear", antialias=True)[
                    0, 0
                ].sigmoid()
            )
        return torch.stack(maps)


def load_finder(
    dino_folder: Path | None = None,
    sam_folder: Path | None = None,
    clipseg_folder: Path | None = None,
    device: torch.device | str = "cpu",
) -> RegionFinder:
    """A finder of local folders: Grounding DINO's with SAM's, or CLIPSeg's, or without any the built-in one.

    Raises:
        ModelError: a folder cannot be used, only one of the two is given, or there is no built-in finder.
    """
    if clipseg_folder is not None:
        return ClipSegFinder(clipseg_folder, device)
    if dino_folder is not None and sam_folder is not None:
        return GroundedSam(dino_folder, sam_folder, device)
    if dino_folder is not None or sam_folder is not None:
        raise ModelError(
            "Region finder: Grounding DINO finds boxes and SAM the masks in them. Give the folders of both, or one of CLIPSeg."
        )
    if not POCKET_FINDER_FOLDER.is_dir():
        raise ModelError(
            "Region finder: this build of InstructBrush has no built-in one. Give the folders of Grounding DINO and SAM, or one of CLIPSeg."
        )
    return ClipSegFinder(POCKET_FINDER_FOLDER, device, "pocket finder", _POCKET_THRESHOLDS)


def phrases_of(words: str) -> list[str]:
    """The things that words name, separated by ``.``, ``,``, ``;`` or line ends, each once and in their order.

    Raises:
        RegionError: there is nothing in them.
    """
    parts = (" ".join(part.split()) for part in re.split(r"[.,;\n]", words))
    phrases: dict[str, str] = {}
    for part in parts:
        if part:
            phrases.setdefault(part.lower(), part)
    if not phrases:
        raise RegionError(
            f"Find Region: there are no words in '{words.strip()[:40]}'. Name what to look for, such as: red ball, hat."
        )
    return list(phrases.values())


def union(found: Sequence[Found], height: int, width: int) -> Tensor:
    """The mask [H, W] of all objects together; all zero without any."""
    masks = [torch.zeros(height, width), *(each.mask for each in found)]
    return torch.stack(masks).amax(0)


def describe(found: Sequence[Found], phrases: Sequence[str]) -> str:
    """A table of objects in one image: phrase, score, box in pixels and area of the mask; then the phrases for which there is none."""
    rows = [("phrase", "score", "box", "area")]
    for each in found:
        left, top, right, bottom = (
            round(side) for side in (each.box.left, each.box.top, each.box.right, each.box.bottom)
        )
        rows.append(
            (
                each.phrase,
                f"{each.score:.2f}",
                f"{left}, {top} to {right}, {bottom}",
                f"{each.mask.mean().item():.1%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if found
        else []
    )
    names = {each.phrase for each in found}
    missing = [phrase for phrase in phrases if phrase not in names]
    if missing:
        lines.append(f"Nothing was found for {', '.join(missing)}. Lower box_threshold or use other words.")
    return "\n".join(lines)


_AS_IT_IS: dict[str, Any] = {
    "do_rescale": False,
    "input_data_format": "channels_first",
    "return_tensors": "pt",
}
"""Images come as tensors in 0..1: nothing is to be divided by 255."""


@dataclass(frozen=True)
class _Fragment:
    """Pixels of ``labels`` [H, W] that equal ``number``."""

    phrase: str
    score: float
    box: Box
    labels: Tensor
    number: int


def _fragments(phrase: str, likely: Tensor, box_threshold: float, text_threshold: float) -> list[_Fragment]:
    from scipy import ndimage

    values = likely.numpy()
    labelled: Any = ndimage.label(values > text_threshold, structure=[[1] * 3] * 3)
    numbered, count = labelled
    peaks = ndimage.maximum(values, numbered, range(1, count + 1)) if count else []
    extents = ndimage.find_objects(numbered)
    labels = torch.from_numpy(numbered)
    return [
        _Fragment(
            phrase,
            float(peak),
            Box(float(x.start), float(y.start), float(x.stop), float(y.stop)),
            labels,
            number,
        )
        for number, (peak, (y, x)) in enumerate(zip(peaks, extents, strict=True), 1)
        if peak > box_threshold
    ]


def _pixels(image: Tensor) -> Tensor:
    """[3, H, W] fp32 on the CPU, where transformers' processors work."""
    return image.detach().float().cpu().movedim(2, 0).contiguous()


def _checked(
    finder: RegionFinder,
    image: Tensor,
    phrases: Sequence[str],
    box_threshold: float | None,
    text_threshold: float | None,
    most: int,
) -> tuple[list[str], tuple[float, float]]:
    """The phrases, cleaned, and the two thresholds.

    Raises:
        RegionError: see :meth:`RegionFinder.find`.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not image.numel():
        raise RegionError(
            f"Find Region: an image of shape {list(image.shape)} does not fit; [height, width, 3] is needed."
        )
    if not image.isfinite().all():
        raise RegionError(
            "Find Region: the image holds values that are not finite. Look at the node that made it."
        )
    if most < 1:
        raise RegionError(f"Find Region: at most {most} objects is none. Allow at least 1.")
    limits = []
    for name, given, own in zip(
        ("box_threshold", "text_threshold"), (box_threshold, text_threshold), finder.thresholds, strict=True
    ):
        value = own if given is None else given
        if not math.isfinite(value) or not 0 <= value <= 1:
            raise RegionError(
                f"Find Region: {name} {value:g} is not between 0 and 1. {own:g} suits {finder.name}."
            )
        limits.append(value)
    return phrases_of("\n".join(phrases)), (limits[0], limits[1])
