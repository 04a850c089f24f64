"""The files a run on items leaves: results.json, results.csv, report.html and grid.png."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ...storage.files import write_text
from ...storage.image_files import save_image
from ..metrics import mean
from ..reports import html
from ..results import report_json
from ..stored_images import STORED
from .datasets.item_storage import StoredItem
from .methods import ITEM_METHODS, title_of
from .results import ItemFolder, Score
from .tables import DIGITS, ItemBenchmark, summary, table_rows, value_of

_GRID_ITEMS = 24
# Pixels in grid.png.
_CELL = 128
_GAP = 3
_LABEL = 130


def write_report(
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    benchmark: ItemBenchmark,
    side: int | None,
    about: Mapping[str, Any],
    remarks: Sequence[str],
) -> Path:
    """Writes all files and returns the HTML file. Except for seconds, a resumed run gives the same files.

    Args:
        folder: holds the scores.
        scores: all scores of the run.
        sources: their items. Their images are saved beside the report, so it needs no other files.
        benchmark: the table and its published figures.
        side: size of the saved images in pixels, see ``editor_input``.
        about: settings of the run, printed in the report.
        remarks: notes on the figures, printed in the report.
    """
    for source in sources:
        last = len(source.turns) - 1
        last_kind = "source" if source.turns[last].truth is None else "truth"
        if not folder.own(source.name, last_kind, last).exists():
            folder.save_item_images(source.load(), side)
    content = {
        "benchmark": benchmark.name,
        "about": dict(about),
        "remarks": list(remarks),
        "parts": summary(scores, benchmark),
        "outcomes": [asdict(score) for score in scores],
    }
    write_text(report_json(content), folder.path / "results.json")
    write_text(csv_text(scores, benchmark), folder.path / "results.csv")
    save_image(grid(folder, scores, sources[:_GRID_ITEMS]), folder.path / "grid.png")
    page = folder.path / "report.html"
    write_text(html_text(folder, scores, sources, benchmark, about, remarks), page)
    return page


def csv_text(scores: Sequence[Score], benchmark: ItemBenchmark) -> str:
    """Returns results.csv: one line per image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item", "scope", "method", "seed", "picture", *benchmark.metrics, "seconds"])
    for score in scores:
        for index in range(len(score.l1)):
            # repr keeps every digit. A metric that was not measured gives an empty cell.
            values = ["".join(map(repr, value_of(score, metric, [index]))) for metric in benchmark.metrics]
            key = [score.item, score.scope, score.method, score.seed]
            writer.writerow([*key, _image_label(index, score.turns), *values, score.seconds])
    return text.getvalue()


def html_text(
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    benchmark: ItemBenchmark,
    about: Mapping[str, Any],
    remarks: Sequence[str],
) -> str:
    """Returns report.html: one page that refers to the images beside it."""
    heads = list(benchmark.metrics.values())
    if benchmark.side_by_side:
        prefixes = [f"{part} " for part in benchmark.parts]
        gray_from = 3 + 2 * len(heads)  # no column: the published figures are rows
    else:
        prefixes = ["", "paper "]
        gray_from = 3 + len(heads)
    blocks = html.page_head(benchmark.name, about, gray_from)
    all_heads = [prefix + head for prefix in prefixes for head in heads]
    blocks.append(html.table(benchmark.title, all_heads, table_rows(scores, benchmark)))
    notes = "<br>".join(escape(remark) for remark in (*remarks, benchmark.about))
    blocks.append(f"<p><small>{notes}</small></p><h2>Items</h2>")
    names = dict.fromkeys(score.method for score in scores)
    blocks.append(
        html.method_list(
            (name, title_of(name), ITEM_METHODS[name].text if name in ITEM_METHODS else STORED)
            for name in names
        )
    )
    scores_of: dict[str, list[Score]] = {}
    for score in scores:
        scores_of.setdefault(score.item, []).append(score)
    for source in sources:
        blocks.extend(_item_html(folder, scores_of.get(source.name, []), source, benchmark))
    return "\n".join(blocks)


def _item_html(
    folder: ItemFolder, scores: Sequence[Score], source: StoredItem, benchmark: ItemBenchmark
) -> list[str]:
    """An item's section: source and ground truth of its turns, and a row of images for each score."""

    def relative(path: Path) -> str:
        return path.relative_to(folder.path).as_posix()

    turns = range(len(source.turns))
    words = escape(source.words)
    blocks = [f"<h3>{escape(source.name)} <small>{escape(source.scope)}, “{words}”</small></h3>"]
    kinds = ["source"] if source.turns[0].truth is None else ["source", "truth"]
    for kind in kinds:
        blocks.append(html.image_row(kind, [relative(folder.own(source.name, kind, turn)) for turn in turns]))
    for score in scores:
        files = [
            relative(folder.image(score.item, score.method, score.seed, index))
            for index in range(len(score.l1))
        ]
        seed = f" seed {score.seed}" if score.seed else ""
        title = f"{score.method}{seed}"
        blocks.append(html.image_row(title, files[: score.turns], _figures(score, benchmark, list(turns))))
        if files[score.turns :]:
            chain = [files[0], *files[score.turns :]]
            figures = _figures(score, benchmark, [len(files) - 1])
            blocks.append(html.image_row(f"{title}, one after the other", chain, figures))
    return blocks


def grid(folder: ItemFolder, scores: Sequence[Score], sources: Sequence[StoredItem]) -> Image.Image:
    """Draws grid.png: a row for each turn with source, each method's output (first seed), ground truth."""
    methods = list(dict.fromkeys(score.method for score in scores))
    with_truth = any(source.turns[0].truth is not None for source in sources)
    columns = ["source", *methods, *(["truth"] if with_truth else [])]
    step = _CELL + _GAP
    top = 18
    rows = [(source, turn) for source in sources for turn in range(len(source.turns))]
    sheet = Image.new("RGB", (_LABEL + len(columns) * step, top + len(rows) * (step + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((_LABEL + column * step, 4), name, fill="black")
    first_seed = {(score.item, score.method): score.seed for score in reversed(scores)}
    for row, (source, turn) in enumerate(rows):
        y = top + row * (step + 14)
        # Pillow's built-in font has Latin letters only.
        words = source.turns[turn].words.encode("latin-1", "replace").decode("latin-1")
        draw.text((4, y), f"{source.name}  {turn + 1}: {words}", fill="black")
        files = [folder.own(source.name, "source", turn)]
        for method in methods:
            files.append(folder.image(source.name, method, first_seed[source.name, method], turn))
        if with_truth:
            files.append(folder.own(source.name, "truth", turn))
        for column, file in enumerate(files):
            with Image.open(file) as image:
                cell = image.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (_LABEL + column * step, y + 14))
    return sheet


def _figures(score: Score, benchmark: ItemBenchmark, images: Sequence[int]) -> str:
    measured = {head: value_of(score, metric, images) for metric, head in benchmark.metrics.items()}
    return ", ".join(
        f"{head.split()[0]} {mean(values):.{DIGITS}f}" for head, values in measured.items() if values
    )


def _image_label(index: int, turns: int) -> str:
    """Returns "turn 2", or "turn 2 after 1" for an edit of the output of turn 1."""
    return f"turn {index + 1}" if index < turns else f"turn {index - turns + 2} after {index - turns + 1}"
