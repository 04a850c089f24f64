"""All figures of a batch of edits, and their text table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..encoders.clip import ClipModel, image_features, text_features
from ..errors import EvaluationError
from .metrics import direction_distance, direction_similarity, image_similarity, mean, psnr, ssim
from .perceptual import Perceptual


@dataclass
class EditFigures:
    """Figures of a batch of edits."""

    columns: dict[str, list[float]]
    """Metric -> value of each image."""
    direction: float = math.nan
    """InstructBrush's Direction of the batch; nan if it was not measured."""
    remarks: list[str] = field(default_factory=list)
    """Notes, such as why a metric was not measured."""

    def mean(self, metric: str) -> float:
        """Returns the mean over the images; nan if the metric was not measured."""
        return mean(self.columns.get(metric, []))

    def table(self, remarks: Sequence[str] = ()) -> str:
        """Formats the mean, each image, and below them the given and the own remarks."""
        widths = [max(len(name), 7) for name in self.columns]
        digits = [2 if name.startswith("PSNR") else 4 for name in self.columns]
        heads = [name.rjust(width) for name, width in zip(self.columns, widths, strict=True)]
        lines = ["      " + "  ".join(heads)]
        rows = [("mean", [mean(values) for values in self.columns.values()])]
        for index, values in enumerate(zip(*self.columns.values(), strict=True)):
            rows.append((str(index), list(values)))
        for label, values in rows:
            cells = [
                f"{value:.{places}f}".rjust(width)
                for value, width, places in zip(values, widths, digits, strict=True)
            ]
            lines.append(f"{label:<4}  " + "  ".join(cells))
        return "\n".join([*lines, *remarks, *self.remarks])


def measure_edits(
    edited: Tensor,
    truth: Tensor,
    *,
    before: Tensor | None = None,
    clip: ClipModel | None = None,
    captions: tuple[str, str] = ("", ""),
    perceptual: Perceptual | None = None,
) -> EditFigures:
    """Measures everything that the arguments allow.

    Args:
        edited, truth: [N, H, W, 3] in 0..1.
        before: the images before the edit; needed for the metrics with CLIP.
        clip: measures direction and similarity; None leaves them out.
        captions: of the images before and after the edit; with both, agreement with the words is measured.
        perceptual: measures LPIPS; None leaves it out.

    Raises:
        EvaluationError: the images differ in number or size, or are too small.
    """
    figures = EditFigures({"PSNR": psnr(edited, truth).tolist(), "SSIM": ssim(edited, truth).tolist()})
    if perceptual is not None:
        figures.columns["LPIPS"] = perceptual.distance(edited, truth).tolist()
    if before is None:
        if clip is not None:
            figures.remarks.append("Direction is not measured: connect the images before the edit.")
        return figures
    if before.shape != edited.shape:
        raise EvaluationError(
            f"Evaluate Edit: {len(before)} images of {before.shape[2]} x {before.shape[1]} before the edit "
            f"do not match {len(edited)} edited images of {edited.shape[2]} x {edited.shape[1]}. "
            "Connect the same images, at the same size."
        )
    figures.columns["PSNR of copying"] = psnr(before, truth).tolist()
    if clip is not None:
        _measure_with_clip(figures, clip, before, edited, truth, captions)
    return figures


def _measure_with_clip(
    figures: EditFigures,
    clip: ClipModel,
    before: Tensor,
    edited: Tensor,
    truth: Tensor,
    captions: tuple[str, str],
) -> None:
    inputs = image_features(clip, before).cpu()
    outputs = image_features(clip, edited).cpu()
    truths = image_features(clip, truth).cpu()
    figures.direction = direction_distance(outputs - inputs, truths - inputs)
    figures.columns["similarity to input"] = image_similarity(inputs, outputs).tolist()
    given = [caption for caption in captions if caption.strip()]
    if len(given) == 2:
        texts = text_features(clip, given).cpu()
        agreement = direction_similarity(inputs, outputs, texts[:1], texts[1:])
        figures.columns["agreement with words"] = agreement.tolist()
    elif given:
        figures.remarks.append("Agreement with the words is not measured: give both captions.")
    figures.remarks.append(f"Direction {figures.direction:.4f} ({clip.name})")
