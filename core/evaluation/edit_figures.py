"""All figures of a batch of edits, and their text table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..encoders.clip import ClipModel, image_features, text_features
from ..errors import EvaluationError
from ..pairs.pairs import EditPairs
from .metrics import (
    direction_distance,
    direction_similarity,
    image_similarity,
    mean,
    psnr,
    ssim,
    visual_similarity,
)
from .perceptual import Perceptual
from .reports.figures import interval


@dataclass
class EditFigures:
    """Figures of a batch of edits."""

    columns: dict[str, list[float]]
    """Metric -> value of each image."""
    direction: float = math.nan
    """Direction of the batch, see ``measure_edits``; nan if it was not measured."""
    remarks: list[str] = field(default_factory=list)
    """Notes, such as why a metric was not measured."""

    def mean(self, metric: str) -> float:
        """Returns the mean over the images; nan if the metric was not measured."""
        return mean(self.columns.get(metric, []))

    def table(self, remarks: Sequence[str] = ()) -> str:
        """Formats the means, with their 95 % intervals if there are several images, and Direction, then the
        figures of each image, and below them the given and the own remarks."""
        digits = {name: 2 if name.startswith("PSNR") else 4 for name in self.columns}
        width = max(map(len, (*self.columns, "Direction")))
        lines = [
            f"{name:<{width}}  {interval(values).show(digits[name])}" for name, values in self.columns.items()
        ]
        if not math.isnan(self.direction):
            lines.append(f"{'Direction':<{width}}  {self.direction:.4f}")
        images = list(zip(*self.columns.values(), strict=True))
        if len(images) > 1:
            lines.insert(0, f"{len(images)} images, mean ± 95 % interval")
            lines += ["", "image  " + "  ".join(name.rjust(7) for name in self.columns)]
            for index, values in enumerate(images):
                cells = [
                    f"{value:.{digits[name]}f}".rjust(max(len(name), 7))
                    for name, value in zip(self.columns, values, strict=True)
                ]
                lines.append(f"{index + 1:<5}  " + "  ".join(cells))
        return "\n".join([*lines, "", *remarks, *self.remarks]).rstrip()


def measure_edits(
    edited: Tensor,
    truth: Tensor,
    *,
    before: Tensor | None = None,
    clip: ClipModel | None = None,
    captions: tuple[str, str] = ("", ""),
    perceptual: Perceptual | None = None,
    pairs: EditPairs | None = None,
) -> EditFigures:
    """Measures everything that the arguments allow.

    With ``pairs``, Direction is InstructBrush's (section 6, Metrics): it compares the mean change of the
    images with the mean change of the pairs. Without, it compares with the mean change to the truth.

    Args:
        edited, truth: [N, H, W, 3] in 0..1.
        before: the images before the edit; needed for the metrics with CLIP.
        clip: measures direction and similarity; None leaves them out.
        captions: of the images before and after the edit; with both, agreement with the words is measured.
        perceptual: measures LPIPS; None leaves it out.
        pairs: the pairs that the edit was learned from, for Direction and Visual CLIP.

    Raises:
        EvaluationError: the images differ in number or size, or are too small.
    """
    figures = EditFigures({"PSNR": psnr(edited, truth).tolist(), "SSIM": ssim(edited, truth).tolist()})
    if perceptual is not None:
        figures.columns["LPIPS"] = perceptual.distance(edited, truth).tolist()
    if before is not None:
        if before.shape != edited.shape:
            raise EvaluationError(
                f"Evaluate Edit: {len(before)} images of {before.shape[2]} x {before.shape[1]} before the "
                f"edit do not match {len(edited)} edited images of {edited.shape[2]} x {edited.shape[1]}. "
                "Connect the same images, at the same size."
            )
        figures.columns["PSNR of copying"] = psnr(before, truth).tolist()
    if before is not None and clip is not None:
        inputs, outputs = (image_features(clip, images).cpu() for images in (before, edited))
        figures.columns["similarity to input"] = image_similarity(inputs, outputs).tolist()
        _measure_agreement(figures, clip, inputs, outputs, captions)
        if pairs is None:
            _measure_direction_to_truth(figures, clip, outputs - inputs, inputs, truth)
        else:
            _measure_direction_of_pairs(figures, clip, outputs - inputs, pairs)
    elif clip is not None:
        figures.remarks.append("Direction is not measured: connect the images before the edit.")
    elif pairs is not None:
        figures.remarks.append("Direction is not measured: connect a CLIP.")
    return figures


def _measure_agreement(
    figures: EditFigures, clip: ClipModel, inputs: Tensor, outputs: Tensor, captions: tuple[str, str]
) -> None:
    given = [caption for caption in captions if caption.strip()]
    if len(given) == 2:
        texts = text_features(clip, given).cpu()
        agreement = direction_similarity(inputs, outputs, texts[:1], texts[1:])
        figures.columns["agreement with words"] = agreement.tolist()
    elif given:
        figures.remarks.append("Agreement with the words is not measured: give both captions.")


def _measure_direction_to_truth(
    figures: EditFigures, clip: ClipModel, edits: Tensor, inputs: Tensor, truth: Tensor
) -> None:
    figures.direction = direction_distance(edits, image_features(clip, truth).cpu() - inputs)
    figures.remarks.append(
        f"Direction ({clip.name}) compares with the change to the true results. "
        "Connect the training pairs to compare with theirs, as InstructBrush does."
    )


def _measure_direction_of_pairs(
    figures: EditFigures, clip: ClipModel, edits: Tensor, pairs: EditPairs
) -> None:
    before, after = (
        image_features(clip, images).cpu()
        for images in ((pair.before for pair in pairs), (pair.after for pair in pairs))
    )
    examples = after - before
    figures.columns["Visual CLIP"] = visual_similarity(edits, examples).tolist()
    figures.direction = direction_distance(edits, examples)
    count = f"{len(pairs)} training pairs" if len(pairs) > 1 else "the training pair"
    figures.remarks.append(f"Direction ({clip.name}) compares with the change of {count}.")
