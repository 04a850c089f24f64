"""The files a run leaves: results.json, results.csv, report.html and grid.png."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ...storage.files import write_text
from ...storage.image_files import save_image
from ..reports import html
from ..reports.histogram import histogram_svg
from ..results import report_json
from ..stored_images import STORED
from .comparison import (
    COMPARISON_NOTES,
    COMPARISON_TITLE,
    COSTS,
    comparison_heads,
    comparison_rows,
    plain_rows,
)
from .effects import EffectSource
from .methods import METHODS
from .results import EffectFolder, Outcome
from .tables import DIGITS, HEADS, METRICS, SIMILARITIES, TABLES, summary, table_rows, value_of

# Pixels in grid.png.
_CELL = 96
_GAP = 3
_LABEL = 130
# Effects in grid.png; it would be too large with more.
_MOST_EFFECTS = 25

# Further columns of results.csv.
_SETTINGS = ("learning_rate", "text_scale", "image_scale")
_HISTOGRAMS = {
    "image_similarity": "Image CLIP similarity",
    "direction_similarity": "Directional CLIP similarity",
    "visual_similarity": "Visual CLIP similarity",
}


def write_report(
    folder: EffectFolder,
    outcomes: Sequence[Outcome],
    sources: Sequence[EffectSource],
    benchmark: str,
    about: Mapping[str, Any],
) -> Path:
    """Writes all files and returns the HTML file. Except for seconds, a resumed run gives the same files.

    Args:
        folder: holds the outcomes.
        outcomes: all outcomes of the run.
        sources: their effects. Their images are saved beside the report, so it needs no other files.
        benchmark: its name, such as ``TOP-Bench``.
        about: settings of the run, printed in the report. Its ``seeds`` are counted here, because outcomes
            may be of more seeds than this run had.
    """
    about = {**about, "seeds": len({outcome.seed for outcome in outcomes})}
    counts = {outcome.effect: len(outcome.psnr) for outcome in outcomes}
    for source in sources:
        last = counts.get(source.name, 1) - 1
        if not (folder.path / "effects" / source.name / f"test-{last}_1.png").exists():
            folder.save_effect_images(source.load())
    parts = {part: summary(outcomes, part) for part in ("all", "global", "local")}
    content = {
        "benchmark": benchmark,
        "about": dict(about),
        "methods": parts["all"],
        "parts": parts,
        "comparison": plain_rows(outcomes),
        "similarities": summary(outcomes, "all", SIMILARITIES),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    write_text(report_json(content), folder.path / "results.json")
    write_text(csv_text(outcomes), folder.path / "results.csv")
    save_image(grid(folder, outcomes, sources), folder.path / "grid.png")
    page = folder.path / "report.html"
    write_text(html_text(folder, outcomes, sources, benchmark, about), page)
    return page


def csv_text(outcomes: Sequence[Outcome]) -> str:
    """Returns results.csv: one line per outcome, means over its test images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = (*METRICS, *SIMILARITIES)
    ends = ("init_text", "final_loss", "seconds")
    writer.writerow(["effect", "scope", "method", "seed", *metrics, *ends, *COSTS, *_SETTINGS])
    for outcome in outcomes:
        # repr keeps every digit. A metric that was not measured gives an empty cell.
        values = [value_of(outcome, metric) for metric in metrics]
        cells = ["" if math.isnan(value) else repr(value) for value in values]
        loss = "" if outcome.final_loss is None else repr(outcome.final_loss)
        key = [outcome.effect, outcome.scope, outcome.method, outcome.seed]
        costs = [getattr(outcome, name) for name in (*COSTS, *_SETTINGS)]
        writer.writerow([*key, *cells, outcome.init_text, loss, outcome.seconds, *costs])
    return text.getvalue()


def html_text(
    folder: EffectFolder,
    outcomes: Sequence[Outcome],
    sources: Sequence[EffectSource],
    benchmark: str,
    about: Mapping[str, Any],
) -> str:
    """Returns report.html: one page that refers to the images beside it."""
    blocks = html.page_head(benchmark, about, gray_from=7)
    for table in TABLES:
        rows = table_rows(table, outcomes, benchmark)
        if rows:
            heads = [HEADS[metric] for metric in table.metrics]
            columns = [*heads, *(f"paper {head}" for head in heads)]
            blocks.append(html.table(table.title, columns, rows, gray_from=3 + len(heads)))
    blocks.append(
        "<p><small>The papers' figures are those of full-size InstructPix2Pix: InstructBrush's on TOP-Bench "
        "at 512 px, Visii's on Clean-InstructPix2Pix.</small></p>"
    )
    blocks.append(html.plain_table(COMPARISON_TITLE, comparison_heads(), comparison_rows(outcomes)))
    blocks.append(f"<p><small>{' '.join(COMPARISON_NOTES)}</small></p>")
    blocks.extend(_histograms(outcomes))
    blocks.append("<h2>Effects</h2>")
    names = dict.fromkeys(outcome.method for outcome in outcomes)
    blocks.append(html.method_list(_description(name) for name in names))
    for source in sources:
        own_outcomes = [outcome for outcome in outcomes if outcome.effect == source.name]
        blocks.extend(_effect_html(folder, own_outcomes, source))
    return "\n".join(blocks)


def _description(name: str) -> tuple[str, str, str]:
    """Name, the paper's name and one line of text of a method."""
    if name not in METHODS:
        return name, name, STORED
    return name, METHODS[name].title, METHODS[name].text


def _histograms(outcomes: Sequence[Outcome]) -> list[str]:
    """Visii's Fig. 7: how each similarity is distributed over the test images."""
    drawings = []
    for metric, title in _HISTOGRAMS.items():
        values: dict[str, list[float]] = {}
        for outcome in outcomes:
            values.setdefault(outcome.method, []).extend(getattr(outcome, metric) or ())
        drawings.append(histogram_svg(title, values))
    if not any(drawings):
        return []
    return ["<h2>Similarities over the test images (Visii's Fig. 7)</h2><div class=row>", *drawings, "</div>"]


def _counts(folder: EffectFolder, source: EffectSource) -> tuple[int, int]:
    """Numbers of training and test pairs that are saved in the folder."""
    home = folder.path / "effects" / source.name
    train, test = (len(list(home.glob(f"{kind}-*_1.png"))) for kind in ("pair", "test"))
    return train, test


def _effect_html(folder: EffectFolder, outcomes: Sequence[Outcome], source: EffectSource) -> list[str]:
    """An effect's section: training pairs, test images, and a row of images for each outcome."""
    home = f"effects/{source.name}"
    words = escape(source.words)
    train, test = _counts(folder, source)
    pairs = [f"{home}/pair-{index}_{side}.png" for index in range(train) for side in range(2)]
    blocks = [
        f"<h3>{escape(source.name)} <small>{source.scope}, “{words}”</small></h3>",
        f"<details><summary>training pairs</summary><div class=row>{html.images(pairs)}</div></details>",
    ]
    for title, side in (("unseen inputs", 0), ("truth", 1)):
        blocks.append(html.image_row(title, [f"{home}/test-{index}_{side}.png" for index in range(test)]))
    for outcome in outcomes:
        values = {metric: value_of(outcome, metric) for metric in METRICS}
        figures = ", ".join(
            f"{metric} {value:.{DIGITS[metric]}f}"
            for metric, value in values.items()
            if not math.isnan(value)
        )
        seed = f" seed {outcome.seed}" if outcome.seed else ""
        init_text = f" “{outcome.init_text}”" if outcome.init_text else ""
        images = (folder.image(outcome.effect, outcome.method, outcome.seed, index) for index in range(test))
        # Results that came in one file have no images.
        files = [image.relative_to(folder.path).as_posix() for image in images if image.is_file()]
        losses = f", losses: {outcome.losses}" if outcome.losses else ""
        remark = f" {outcome.remark}" if outcome.remark else ""
        blocks.append(
            html.image_row(f"{outcome.method}{seed}", files, f"{figures}{init_text}{losses}{remark}")
        )
    return blocks


def grid(folder: EffectFolder, outcomes: Sequence[Outcome], sources: Sequence[EffectSource]) -> Image.Image:
    """Draws grid.png, for the first 25 effects. Each has its first training pairs at the left.

    Right of them are rows of test images: inputs, each method's output with the first seed, ground truth.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    first = {(outcome.effect, outcome.method): outcome for outcome in reversed(outcomes)}
    sources = sources[:_MOST_EFFECTS]
    counts = {source.name: _counts(folder, source) for source in sources}
    columns = max(test for _, test in counts.values())
    rows = len(methods) + 2
    step = _CELL + _GAP
    left = _LABEL + 2 * step + 12
    height = rows * step + 22
    sheet = Image.new("RGB", (left + columns * step + 4, height * len(sources)), "white")
    draw = ImageDraw.Draw(sheet)

    def paste(file: Path, x: int, y: int) -> None:
        if not file.is_file():
            return  # the result came in one file without images
        with Image.open(file) as image:
            sheet.paste(image.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS), (x, y))

    for place, source in enumerate(sources):
        top = place * height
        home = folder.path / "effects" / source.name
        draw.line([(0, top), (sheet.width, top)], fill="black")
        draw.text((4, top + 4), f"{source.name}   ({source.scope})   '{source.words}'", fill="black")
        train, test = counts[source.name]
        for index in range(min(rows, train)):
            for side in range(2):
                paste(home / f"pair-{index}_{side}.png", _LABEL + side * step, top + 20 + index * step)
        lines = [("unseen input", [home / f"test-{index}_0.png" for index in range(test)])]
        for method in methods:
            outcome = first.get((source.name, method))
            if outcome is not None:
                files = [folder.image(source.name, method, outcome.seed, index) for index in range(test)]
                lines.append((f"{method}  {value_of(outcome, 'psnr'):.1f} dB", files))
        lines.append(("truth", [home / f"test-{index}_1.png" for index in range(test)]))
        for row, (name, files) in enumerate(lines):
            y = top + 20 + row * step
            draw.text((4, y + _CELL // 2 - 6), name, fill="black")
            for column, file in enumerate(files):
                paste(file, left + column * step, y)
    return sheet
