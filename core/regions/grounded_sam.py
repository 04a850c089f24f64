"""Finds boxes with Grounding DINO and the mask in each box with SAM, as UltraEdit makes its fine masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict

from ..errors import RegionError
from ..models.hub_folders import model_title
from .boxes import Box, box_mask
from .finder import (
    MOST_OBJECTS,
    PROCESSOR_OPTIONS,
    FoundObject,
    channels_first,
    check_request,
    check_threshold,
)
from .finder_folders import GROUNDING_DINO, SAM, load_folder

# Boxes for one phrase with a larger intersection over union are one object, as in Grounded-SAM's demo.
_SAME_OBJECT_IOU = 0.8
# Limits memory: SAM's masks have the size of its input images.
_BOXES_AT_ONCE = 8


class GroundedSam:
    """A ``RegionFinder`` made of Grounding DINO and SAM. Without SAM, masks are the boxes.

    An object is a box whose score (the highest probability of any token, as in transformers) exceeds
    ``box_threshold`` and that has a word with a probability above ``text_threshold``. It gets the phrase of
    its most probable word. Of boxes for one phrase that nearly coincide, only the best is kept.

    Args:
        dino_folder: folder of Grounding DINO.
        sam_folder: folder of SAM; None for boxes alone.
        device: where the networks run.

    Raises:
        ModelError: a folder cannot be loaded.
    """

    thresholds = (0.3, 0.25)
    known_nouns: Sequence[str] = ()

    def __init__(
        self, dino_folder: Path, sam_folder: Path | None, device: torch.device | str = "cpu"
    ) -> None:
        self._dino, self._dino_processor = load_folder(dino_folder, GROUNDING_DINO)
        self.name = model_title(dino_folder)
        # ComfyUI sets module.device, which transformers' models forbid, so a module wraps them.
        modules = ModuleDict({"dino": self._dino})
        self._sam: Any = None
        if sam_folder is not None:
            self._sam, self._sam_processor = load_folder(sam_folder, SAM)
            self.name += f" + {model_title(sam_folder)}"
            modules["sam"] = self._sam
        self.module: Module = modules.eval().to(device)

    @property
    def device(self) -> torch.device:
        """The current device."""
        return next(self.module.parameters()).device

    @torch.no_grad()
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
        box_limit = check_threshold("box_threshold", box_threshold, self.thresholds[0], self.name)
        text_limit = check_threshold("text_threshold", text_threshold, self.thresholds[1], self.name)
        pixels = channels_first(image)
        boxes, scores, owners = self._boxes(pixels, phrases, box_limit, text_limit)
        boxes = boxes[:most]
        masks = self._masks(pixels, boxes)
        # Only the first ``most`` scores and owners have a box.
        rows = zip(boxes.tolist(), scores[:most].tolist(), owners[:most].tolist(), masks, strict=True)
        return [FoundObject(phrases[owner], score, Box(*box), mask) for box, score, owner, mask in rows]

    def _boxes(
        self, pixels: Tensor, phrases: Sequence[str], box_threshold: float, text_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns boxes [N, 4] (left, top, right, bottom), scores [N] and phrase numbers [N], best first."""
        from torchvision.ops import batched_nms

        text = " ".join(f"{phrase.lower()}." for phrase in phrases)
        inputs = self._dino_processor(images=pixels, text=text, **PROCESSOR_OPTIONS)
        ids = inputs["input_ids"][0]
        most_tokens = int(self._dino.config.max_text_len)
        if len(ids) > most_tokens:
            raise RegionError(
                f"Find Region: the words are {len(ids)} tokens long; Grounding DINO reads {most_tokens}. "
                "Look for fewer things at a time."
            )
        outputs = self._dino(**inputs.to(self.device))
        probabilities = outputs.logits[0, :, : len(ids)].float().sigmoid().cpu()
        word_scores, owners = self._phrase_scores(ids, probabilities, len(phrases)).max(1)
        scores = probabilities.amax(1)
        corners = _corners(outputs.pred_boxes[0].float().cpu(), *pixels.shape[1:])
        not_empty = (corners[:, 2:] > corners[:, :2]).all(1)
        kept = (scores > box_threshold) & (word_scores > text_threshold) & not_empty
        corners = corners[kept]
        scores = scores[kept]
        owners = owners[kept]
        order = batched_nms(corners, scores, owners, _SAME_OBJECT_IOU)
        return corners[order], scores[order], owners[order]

    def _phrase_scores(self, ids: Tensor, probabilities: Tensor, phrases: int) -> Tensor:
        """Returns the probability of the best word of each phrase [N, phrases]."""
        tokenizer = self._dino_processor.tokenizer
        phrase_ends = ids == tokenizer.convert_tokens_to_ids(".")
        special = torch.isin(ids, torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
        is_word = ~phrase_ends & ~special
        phrase_of_token = phrase_ends.cumsum(0)
        best = [
            probabilities.masked_fill(~(is_word & (phrase_of_token == number)), 0).amax(1)
            for number in range(phrases)
        ]
        return torch.stack(best, dim=1)

    def _masks(self, pixels: Tensor, boxes: Tensor) -> list[Tensor]:
        """Returns the mask [H, W] in each of the boxes [N, 4]."""
        if not len(boxes):
            return []
        if self._sam is None:
            return [box_mask([Box(*corners)], *pixels.shape[1:]) for corners in boxes.tolist()]
        inputs = self._sam_processor(images=pixels, input_boxes=[boxes.tolist()], **PROCESSOR_OPTIONS)
        embeddings = self._sam.get_image_embeddings(inputs["pixel_values"].to(self.device))
        sizes = {name: inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs}
        masks: list[Tensor] = []
        for some_boxes in inputs["input_boxes"].float().to(self.device).split(_BOXES_AT_ONCE, dim=1):
            # A box is a clear prompt, for which SAM has one mask; the three masks are for ambiguous prompts.
            outputs = self._sam(image_embeddings=embeddings, input_boxes=some_boxes, multimask_output=False)
            full_size = self._sam_processor.post_process_masks(outputs.pred_masks.float().cpu(), **sizes)[0]
            masks.extend(full_size[:, 0].float())
        return masks


def _corners(boxes: Tensor, height: int, width: int) -> Tensor:
    """Converts relative boxes [N, 4] (center, size) to pixels (left, top, right, bottom) in the image."""
    center, size = boxes.split(2, dim=1)
    sides = torch.tensor([width, height, width, height])
    corners = torch.cat([center - size / 2, center + size / 2], dim=1) * sides
    return corners.clamp(min=torch.zeros(4), max=sides.float())
