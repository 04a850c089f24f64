"""Draws the norms of an instruction as bars, one panel for every segment."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..diffusion.schedule import segment_bounds
from .inspect import Norms, Projection, measured, norms, short_layer_name
from .instruction import Blend, Instruction, WeightedInstruction, parts_of

_BACKGROUND = "#1e1e22"
_INK = "#dddddd"
_FAINT = "#4a4a52"
_KEYS = "#5b9bf3"
_VALUES = "#f0a050"

# Pixels.
_WIDTH = 640
_PANEL = 66
_MARGIN = 18
_SCALE_WIDTH = 92
_LEAST_LABEL_STEP = 48
_MOST_BAR = 40
# Most panels of all charts together.
_MOST_PANELS = 64


def draw_norms(instruction: Instruction | Blend, project: Projection | None = None) -> Image.Image:
    """Draws a pair of bars for every layer, keys blue, values orange. Parts of a blend get a chart each.

    After 64 segments, the last line says how many more there are.

    Args:
        instruction: a single one or a blend.
        project: see ``norms``.
    """
    parts = parts_of(instruction)
    charts = []
    left = _MOST_PANELS
    for part in parts:
        panels = min(left, part.instruction.info.segments)
        if panels:
            charts.append(_Chart(part, norms(part.instruction, project), panels).draw())
        left -= panels
    hidden = max(sum(part.instruction.info.segments for part in parts) - _MOST_PANELS, 0)
    height = sum(chart.height for chart in charts) + _MARGIN * (hidden > 0)
    whole = Image.new("RGB", (_WIDTH, height), _BACKGROUND)
    top = 0
    for chart in charts:
        whole.paste(chart, (0, top))
        top += chart.height
    if hidden:
        line = f"... and {hidden} more segments"
        ImageDraw.Draw(whole).text((6, top), line, fill=_INK, font=ImageFont.load_default())
    return whole


class _Chart:
    """The chart of the first segments of one instruction."""

    def __init__(self, part: WeightedInstruction, found: Norms, panels: int) -> None:
        title = part.instruction.title[:60]
        self._title = title if part.weight == 1 else f"{part.weight:g} x {title}"
        self._unit = "change / init text" if found.relative else measured(part.instruction)
        self._norms = found
        self._segments, self._layers = found.keys.shape
        self._panels = panels
        self._step = (_WIDTH - _SCALE_WIDTH - 8) / self._layers
        self._series: list[tuple[Tensor, str]] = [(found.keys, _KEYS)]
        if found.values is not None:
            self._series.append((found.values, _VALUES))
        self._highest = max(max(tensor.max().item() for tensor, _ in self._series), 1e-12)
        self._image = Image.new("RGB", (_WIDTH, 3 * _MARGIN + panels * _PANEL), _BACKGROUND)
        self._pen = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default()

    def draw(self) -> Image.Image:
        self._draw_header()
        for segment in range(self._panels):
            self._draw_segment(segment)
        self._draw_layer_names()
        return self._image

    def _draw_header(self) -> None:
        self._write((6, 4), self._title, _INK)
        highest = self._norms.format(torch.tensor(self._highest))
        self._write((_WIDTH - 250, 4), f"{self._unit}, full height {highest}", _INK)
        if self._norms.values is not None:
            self._write((_WIDTH - 40, 4), "K", _KEYS)
            self._write((_WIDTH - 24, 4), "V", _VALUES)

    def _draw_segment(self, segment: int) -> None:
        bottom = _MARGIN + (segment + 1) * _PANEL
        first, last = segment_bounds(segment, self._segments)
        self._write((6, bottom - _PANEL // 2 - 6), f"t {first}-{last - 1}", _INK)
        self._pen.line([(_SCALE_WIDTH, bottom), (_WIDTH - 8, bottom)], fill=_FAINT)
        bar = min(self._step * 0.4, _MOST_BAR)
        for layer in range(self._layers):
            for index, (tensor, color) in enumerate(self._series):
                left = self._left(layer) + index * bar
                height = tensor[segment, layer].item() / self._highest * (_PANEL - 10)
                self._pen.rectangle([left, bottom - height, max(left + bar - 1, left), bottom], fill=color)

    def _draw_layer_names(self) -> None:
        top = _MARGIN + self._panels * _PANEL + 6
        names = [short_layer_name(layer) for layer in self._norms.layers]
        if self._step >= _LEAST_LABEL_STEP:
            for layer, name in enumerate(names):
                self._write((self._left(layer), top), name, _INK)
        else:
            self._write((_SCALE_WIDTH, top), f"{self._layers} layers, from {names[0]} to {names[-1]}", _INK)

    def _left(self, layer: int) -> float:
        return _SCALE_WIDTH + layer * self._step + self._step * 0.1

    def _write(self, place: tuple[float, float], text: str, color: str) -> None:
        # The default font only has Latin letters.
        self._pen.text(place, text.encode("ascii", "replace").decode(), fill=color, font=self._font)
