"""The files a run leaves: results.json, results.csv, report.html and grid.png."""

import csv
import io
import json
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
from .effects import TEST_PAIRS, TRAIN_PAIRS, EffectSource
from .methods import METHODS
from .results import EffectFolder, Outcome
from .tables import DIGITS, HEADS, METRICS, TABLES, summary, table_rows, value_of

# Pixels in grid.png.
_CELL = 96
_GAP = 3
_LABEL = 130


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
        about: settings of the run, printed in the report.
    """
    for source in sources:
        if not (folder.path / "effects" / source.name / f"test-{TEST_PAIRS - 1}_1.png").exists():
            folder.save_effect_images(source.load())
    parts = {part: summary(outcomes, part) for part in ("all", "global", "local")}
    content = {
        "benchmark": benchmark,
        "about": dict(about),
        "methods": parts["all"],
        "parts": parts,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    write_text(json.dumps(content, indent=1), folder.path / "results.json")
    write_text(csv_text(outcomes), folder.path / "results.csv")
    save_image(grid(folder, outcomes, sources), folder.path / "grid.png")
    page = folder.path / "report.html"
    write_text(html_text(folder, outcomes, sources, benchmark, about), page)
    return page


def csv_text(outcomes: Sequence[Outcome]) -> str:
    """Returns results.csv: one line per outcome, means over its test images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = (*METRICS, "image_similarity")
    writer.writerow(["effect", "scope", "method", "seed", *metrics, "init_text", "final_loss", "seconds"])
    for outcome in outcomes:
        # repr keeps every digit. A metric that was not measured gives an empty cell.
        values = [value_of(outcome, metric) for metric in metrics]
        cells = ["" if math.isnan(value) else repr(value) for value in values]
        loss = "" if outcome.final_loss is None else repr(outcome.final_loss)
        key = [outcome.effect, outcome.scope, outcome.method, outcome.seed]
        writer.writerow([*key, *cells, outcome.init_text, loss, outcome.seconds])
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
    heads = [*HEADS.values(), *(f"paper {head}" for head in HEADS.values())]
    for table in TABLES:
        rows = table_rows(table, outcomes, benchmark)
        if rows:
            blocks.append(html.table(table.title, heads, rows))
    blocks.append(
        "<p><small>The paper's figures are those of TOP-Bench at 512 px with full-size InstructPix2Pix."
        "</small></p><h2>Effects</h2>"
    )
    methods = [METHODS[name] for name in dict.fromkeys(outcome.method for outcome in outcomes)]
    blocks.append(html.method_list((method.name, method.title, method.text) for method in methods))
    for source in sources:
        own_outcomes = [outcome for outcome in outcomes if outcome.effect == source.name]
        blocks.extend(_effect_html(folder, own_outcomes, source))
    return "\n".join(blocks)


def _effect_html(folder: EffectFolder, outcomes: Sequence[Outcome], source: EffectSource) -> list[str]:
    """An effect's section: training pairs, test images, and a row of images for each outcome."""
    home = f"effects/{source.name}"
    words = escape(source.words)
    pairs = [f"{home}/pair-{index}_{side}.png" for index in range(TRAIN_PAIRS) for side in range(2)]
    blocks = [
        f"<h3>{escape(source.name)} <small>{source.scope}, “{words}”</small></h3>",
        f"<details><summary>training pairs</summary><div class=row>{html.images(pairs)}</div></details>",
    ]
    for title, side in (("unseen inputs", 0), ("truth", 1)):
        blocks.append(
            html.image_row(title, [f"{home}/test-{index}_{side}.png" for index in range(TEST_PAIRS)])
        )
    for outcome in outcomes:
        values = {metric: value_of(outcome, metric) for metric in METRICS}
        figures = ", ".join(
            f"{metric} {value:.{DIGITS[metric]}f}"
            for metric, value in values.items()
            if not math.isnan(value)
        )
        seed = f" seed {outcome.seed}" if outcome.seed else ""
        init_text = f" “{outcome.init_text}”" if outcome.init_text else ""
        files = [
            folder.image(outcome.effect, outcome.method, outcome.seed, index)
            .relative_to(folder.path)
            .as_posix()
            for index in range(TEST_PAIRS)
        ]
        blocks.append(html.image_row(f"{outcome.method}{seed}", files, f"{figures}{init_text}"))
    return blocks


def grid(folder: EffectFolder, outcomes: Sequence[Outcome], sources: Sequence[EffectSource]) -> Image.Image:
    """Draws grid.png. Each effect has its first training pairs at the left.

    Right of them are rows of test images: inputs, each method's output with the first seed, ground truth.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    first = {(outcome.effect, outcome.method): outcome for outcome in reversed(outcomes)}
    rows = len(methods) + 2
    step = _CELL + _GAP
    left = _LABEL + 2 * step + 12
    height = rows * step + 22
    sheet = Image.new("RGB", (left + TEST_PAIRS * step + 4, height * len(sources)), "white")
    draw = ImageDraw.Draw(sheet)

    def paste(file: Path, x: int, y: int) -> None:
        with Image.open(file) as image:
            sheet.paste(image.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS), (x, y))

    for place, source in enumerate(sources):
        top = place * height
        home = folder.path / "effects" / source.name
        draw.line([(0, top), (sheet.width, top)], fill="black")
        draw.text((4, top + 4), f"{source.name}   ({source.scope})   '{source.words}'", fill="black")
        for index in range(min(rows, TRAIN_PAIRS)):
            for side in range(2):
                paste(home / f"pair-{index}_{side}.png", _LABEL + side * step, top + 20 + index * step)
        lines = [("unseen input", [home / f"test-{index}_0.png" for index in range(TEST_PAIRS)])]
        for method in methods:
            outcome = first.get((source.name, method))
            if outcome is not None:
                files = [
                    folder.image(source.name, method, outcome.seed, index) for index in range(TEST_PAIRS)
                ]
                lines.append((f"{method}  {value_of(outcome, 'psnr'):.1f} dB", files))
        lines.append(("truth", [home / f"test-{index}_1.png" for index in range(TEST_PAIRS)]))
        for row, (name, files) in enumerate(lines):
            y = top + 20 + row * step
            draw.text((4, y + _CELL // 2 - 6), name, fill="black")
            for column, file in enumerate(files):
                paste(file, left + column * step, y)
    return sheet
