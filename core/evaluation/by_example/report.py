"""What a run leaves for people and programs: results.json, results.csv, report.html and grid.png."""

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
from ...storage.images import save_image
from ..results import Outcome, ResultFolder
from .effects import TEST_PAIRS, TRAIN_PAIRS, EffectSource
from .methods import METHODS
from .tables import DIGITS, HEADS, METRICS, TABLES, lines_of, summary, value_of

_CELL, _GAP, _LABEL = 96, 3, 130

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}td:nth-child(n+7){color:#777}
.row{display:flex;gap:4px;align-items:center;margin:2px 0;flex-wrap:wrap}.row b{width:190px;font-weight:400;font-size:13px}
.row img{width:104px;height:104px;object-fit:cover}.row b small{display:block;line-height:1.25}h2{margin-top:2.5rem}h3{margin:1.5rem 0 .3rem}small{color:#777}
"""


def write_report(
    folder: ResultFolder,
    outcomes: Sequence[Outcome],
    sources: Sequence[EffectSource],
    benchmark: str,
    about: Mapping[str, Any],
) -> Path:
    """Write everything; returns the HTML file. Nothing in it but seconds depends on when or how often the run was stopped.

    Args:
        folder: where the outcomes are.
        outcomes: all of them.
        sources: their effects; the images are kept once, so that the report stands by itself.
        benchmark: its name, such as ``TOP-Bench``.
        about: what was run, for the reader.
    """
    for source in sources:
        if not (folder.path / "effects" / source.name / f"test-{TEST_PAIRS - 1}_1.png").exists():
            folder.write_effect(source.load())
    tables = {part: summary(outcomes, part) for part in ("all", "global", "local")}
    content = {
        "benchmark": benchmark,
        "about": dict(about),
        "methods": tables["all"],
        "parts": tables,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    write_text(json.dumps(content, indent=1), folder.path / "results.json")
    write_text(csv_text(outcomes), folder.path / "results.csv")
    save_image(grid(folder, outcomes, sources), folder.path / "grid.png")
    page = folder.path / "report.html"
    write_text(html_text(folder, outcomes, sources, benchmark, about), page)
    return page


def csv_text(outcomes: Sequence[Outcome]) -> str:
    """A line for every outcome, means over its test images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "effect",
            "scope",
            "method",
            "seed",
            *METRICS,
            "image_similarity",
            "init_text",
            "final_loss",
            "seconds",
        ]
    )
    for outcome in outcomes:
        # repr keeps every digit; nothing is written for what was not measured.
        values = [
            "" if math.isnan(value) else repr(value)
            for value in (value_of(outcome, metric) for metric in (*METRICS, "image_similarity"))
        ]
        loss = "" if outcome.final_loss is None else repr(outcome.final_loss)
        writer.writerow(
            [
                outcome.effect,
                outcome.scope,
                outcome.method,
                outcome.seed,
                *values,
                outcome.init_text,
                loss,
                outcome.seconds,
            ]
        )
    return text.getvalue()


def html_text(
    folder: ResultFolder,
    outcomes: Sequence[Outcome],
    sources: Sequence[EffectSource],
    benchmark: str,
    about: Mapping[str, Any],
) -> str:
    """The report as one page that refers to the images beside it."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(benchmark)}</title><style>{STYLE}</style><h1>{escape(benchmark)}</h1>"
    ]
    parts.append(
        "<p>"
        + " · ".join(f"{escape(str(key))}: {escape(str(value))}" for key, value in about.items())
        + "</p>"
    )
    for table in TABLES:
        lines = lines_of(table, outcomes, benchmark)
        if lines:
            heads = "".join(
                f"<th>{head}</th>"
                for head in (
                    "Datasets",
                    "Method",
                    *HEADS.values(),
                    *[f"paper {head}" for head in HEADS.values()],
                )
            )
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
            )
            parts.append(f"<h2>{escape(table.title)}</h2><table><tr>{heads}</tr>{rows}</table>")
    parts.append(
        "<p><small>The paper's figures are those of TOP-Bench at 512 px with full-size InstructPix2Pix.</small></p><h2>Effects</h2>"
    )
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    legend = [f"<li><b>{name}</b> ({METHODS[name].title}): {METHODS[name].text}</li>" for name in methods]
    parts.append("<ul>" + "".join(legend) + "</ul>")
    for source in sources:
        own = [outcome for outcome in outcomes if outcome.effect == source.name]
        where = f"effects/{source.name}"
        parts.append(
            f"<h3>{escape(source.name)} <small>{source.scope}, “{escape(source.words)}”</small></h3>"
        )
        pairs = "".join(
            _image(f"{where}/pair-{index}_{side}.png") for index in range(TRAIN_PAIRS) for side in range(2)
        )
        parts.append(f"<details><summary>training pairs</summary><div class=row>{pairs}</div></details>")
        for title, side in (("unseen inputs", 0), ("truth", 1)):
            parts.append(
                image_row(title, [f"{where}/test-{index}_{side}.png" for index in range(TEST_PAIRS)])
            )
        for outcome in own:
            values = {metric: value_of(outcome, metric) for metric in METRICS}
            figures = ", ".join(
                f"{metric} {value:.{DIGITS[metric]}f}"
                for metric, value in values.items()
                if not math.isnan(value)
            )
            seed = f" seed {outcome.seed}" if outcome.seed else ""
            words = f" “{outcome.init_text}”" if outcome.init_text else ""
            files = [
                folder.image(outcome.effect, outcome.method, outcome.seed, index)
                .relative_to(folder.path)
                .as_posix()
                for index in range(TEST_PAIRS)
            ]
            parts.append(image_row(f"{outcome.method}{seed}", files, f"{figures}{words}"))
    return "\n".join(parts)


def image_row(title: str, files: Sequence[str], note: str = "") -> str:
    """Images side by side under a title, as HTML; ``files`` are relative to the page."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<div class=row><b>{escape(title)}{small}</b>{''.join(_image(file) for file in files)}</div>"


def _image(file: str) -> str:
    return f'<img loading=lazy src="{escape(file)}" alt="">'


def grid(folder: ResultFolder, outcomes: Sequence[Outcome], sources: Sequence[EffectSource]) -> Image.Image:
    """Every effect as rows of images: three training pairs, then inputs, each method's output with the first seed, and the truth."""
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    found = {(outcome.effect, outcome.method): outcome for outcome in reversed(outcomes)}
    rows = len(methods) + 2
    step = _CELL + _GAP
    left = _LABEL + 2 * step + 12
    height = rows * step + 22
    sheet = Image.new("RGB", (left + TEST_PAIRS * step + 4, height * len(sources)), "white")
    draw = ImageDraw.Draw(sheet)

    def put(file: Path, x: int, y: int) -> None:
        with Image.open(file) as image:
            sheet.paste(image.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS), (x, y))

    for place, source in enumerate(sources):
        top, home = place * height, folder.path / "effects" / source.name
        draw.line([(0, top), (sheet.width, top)], fill="black")
        draw.text((4, top + 4), f"{source.name}   ({source.scope})   '{source.words}'", fill="black")
        for index in range(min(rows, TRAIN_PAIRS)):
            for side in range(2):
                put(home / f"pair-{index}_{side}.png", _LABEL + side * step, top + 20 + index * step)
        lines: list[tuple[str, list[Path]]] = [
            ("unseen input", [home / f"test-{index}_0.png" for index in range(TEST_PAIRS)])
        ]
        for method in methods:
            outcome = found.get((source.name, method))
            if outcome is not None:
                files = [
                    folder.image(source.name, method, outcome.seed, index) for index in range(TEST_PAIRS)
                ]
                lines.append((f"{method}  {value_of(outcome, 'psnr'):.1f} dB", files))
        lines.append(("truth", [home / f"test-{index}_1.png" for index in range(TEST_PAIRS)]))
        for line, (name, files) in enumerate(lines):
            y = top + 20 + line * step
            draw.text((4, y + _CELL // 2 - 6), name, fill="black")
            for column, file in enumerate(files):
                put(file, left + column * step, y)
    return sheet
