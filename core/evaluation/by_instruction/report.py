"""What a run on items leaves for people and programs: results.json, results.csv, report.html and grid.png."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ...storage.files import write_text
from ...storage.images import save_image
from ..by_example.report import STYLE, image_row
from ..metrics import mean
from ..results import ItemFolder
from .item_storage import StoredItem
from .items import Score
from .methods import ITEM_METHODS
from .tables import DIGITS, ItemBenchmark, lines_of, summary, value_of

_GRID_ITEMS = 24
_CELL, _GAP, _LABEL = 128, 3, 130


def write_report(
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    benchmark: ItemBenchmark,
    side: int | None,
    about: Mapping[str, Any],
    remarks: Sequence[str],
) -> Path:
    """Write everything; returns the HTML file. Nothing in it but seconds depends on when or how often the run was stopped.

    Args:
        folder: where the scores are.
        scores: all of them.
        sources: their items; the images are kept once, so that the report stands by itself.
        benchmark: what is printed.
        side: pixels of the images that are kept, see :func:`~.items.prepared`.
        about: what was run, for the reader.
        remarks: what must be known about the figures.
    """
    for source in sources:
        last = len(source.turns) - 1
        if not folder.own(
            source.name, "source" if source.turns[last].truth is None else "truth", last
        ).exists():
            folder.write_item(source.load(), side)
    content = {
        "benchmark": benchmark.name,
        "about": dict(about),
        "remarks": list(remarks),
        "parts": summary(scores, benchmark),
        "outcomes": [asdict(score) for score in scores],
    }
    write_text(json.dumps(content, indent=1), folder.path / "results.json")
    write_text(csv_text(scores, benchmark), folder.path / "results.csv")
    save_image(grid(folder, scores, sources[:_GRID_ITEMS]), folder.path / "grid.png")
    page = folder.path / "report.html"
    write_text(html_text(folder, scores, sources, benchmark, about, remarks), page)
    return page


def csv_text(scores: Sequence[Score], benchmark: ItemBenchmark) -> str:
    """A line for every image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item", "scope", "method", "seed", "picture", *benchmark.metrics, "seconds"])
    for score in scores:
        for index in range(len(score.l1)):
            # repr keeps every digit; nothing is written for what was not measured.
            values = ["".join(map(repr, value_of(score, metric, [index]))) for metric in benchmark.metrics]
            writer.writerow(
                [
                    score.item,
                    score.scope,
                    score.method,
                    score.seed,
                    _label(index, score.turns),
                    *values,
                    score.seconds,
                ]
            )
    return text.getvalue()


def html_text(
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    benchmark: ItemBenchmark,
    about: Mapping[str, Any],
    remarks: Sequence[str],
) -> str:
    """The report as one page that refers to the images beside it."""
    heads = list(benchmark.metrics.values())
    # The paper's columns are grey; where it has rows instead, none is.
    style = STYLE.replace("nth-child(n+7)", f"nth-child(n+{3 + len(heads) * (2 if benchmark.across else 1)})")
    left, right = (f"{part} " for part in benchmark.parts) if benchmark.across else ("", "paper ")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(benchmark.name)}</title><style>{style}</style><h1>{escape(benchmark.name)}</h1>"
    ]
    parts.append(
        "<p>"
        + " · ".join(f"{escape(str(key))}: {escape(str(value))}" for key, value in about.items())
        + "</p>"
    )
    top = "".join(
        f"<th>{head}</th>"
        for head in ("Datasets", "Method", *[side + head for side in (left, right) for head in heads])
    )
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines_of(scores, benchmark)
    )
    parts.append(f"<h2>{escape(benchmark.title)}</h2><table><tr>{top}</tr>{rows}</table>")
    parts.append(
        "<p><small>"
        + "<br>".join(escape(remark) for remark in (*remarks, benchmark.about))
        + "</small></p><h2>Items</h2>"
    )
    methods = [ITEM_METHODS[name] for name in dict.fromkeys(score.method for score in scores)]
    parts.append(
        "<ul>"
        + "".join(f"<li><b>{method.name}</b> ({method.title}): {method.text}</li>" for method in methods)
        + "</ul>"
    )
    own: dict[str, list[Score]] = {}
    for score in scores:
        own.setdefault(score.item, []).append(score)
    for source in sources:
        turns = range(len(source.turns))
        parts.append(
            f"<h3>{escape(source.name)} <small>{escape(source.scope)}, “{escape(source.words)}”</small></h3>"
        )
        parts.append(
            image_row("source", [_file(folder, folder.own(source.name, "source", turn)) for turn in turns])
        )
        if source.turns[0].truth is not None:
            parts.append(
                image_row("truth", [_file(folder, folder.own(source.name, "truth", turn)) for turn in turns])
            )
        for score in own.get(source.name, ()):
            made = [
                _file(folder, folder.image(score.item, score.method, score.seed, index))
                for index in range(len(score.l1))
            ]
            seed = f" seed {score.seed}" if score.seed else ""
            parts.append(
                image_row(
                    f"{score.method}{seed}", made[: score.turns], _figures(score, benchmark, list(turns))
                )
            )
            if made[score.turns :]:
                chain = [made[0], *made[score.turns :]]
                parts.append(
                    image_row(
                        f"{score.method}{seed}, one after the other",
                        chain,
                        _figures(score, benchmark, [len(made) - 1]),
                    )
                )
    return "\n".join(parts)


def grid(folder: ItemFolder, scores: Sequence[Score], sources: Sequence[StoredItem]) -> Image.Image:
    """A row of images for every turn of some items: the source, each method's output with the first seed, and the truth where there is one."""
    methods = list(dict.fromkeys(score.method for score in scores))
    truths = any(source.turns[0].truth is not None for source in sources)
    columns = ["source", *methods, *(["truth"] if truths else [])]
    step, top = _CELL + _GAP, 18
    rows = [(source, turn) for source in sources for turn in range(len(source.turns))]
    sheet = Image.new("RGB", (_LABEL + len(columns) * step, top + len(rows) * (step + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((_LABEL + column * step, 4), name, fill="black")
    first = {(score.item, score.method): score.seed for score in reversed(scores)}
    for place, (source, turn) in enumerate(rows):
        y = top + place * (step + 14)
        # The sheet's own letters are Latin alone.
        words = source.turns[turn].words.encode("latin-1", "replace").decode("latin-1")
        draw.text((4, y), f"{source.name}  {turn + 1}: {words}", fill="black")
        files = [folder.own(source.name, "source", turn)]
        files += [folder.image(source.name, method, first[source.name, method], turn) for method in methods]
        files += [folder.own(source.name, "truth", turn)] if truths else []
        for column, file in enumerate(files):
            with Image.open(file) as image:
                shown = image.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            sheet.paste(shown, (_LABEL + column * step, y + 14))
    return sheet


def _figures(score: Score, benchmark: ItemBenchmark, images: Sequence[int]) -> str:
    measured = {head: value_of(score, metric, images) for metric, head in benchmark.metrics.items()}
    return ", ".join(
        f"{head.split()[0]} {mean(values):.{DIGITS}f}" for head, values in measured.items() if values
    )


def _label(index: int, turns: int) -> str:
    """Such as "turn 2", and "turn 2 after 1" where it went on from an output."""
    return f"turn {index + 1}" if index < turns else f"turn {index - turns + 2} after {index - turns + 1}"


def _file(folder: ItemFolder, path: Path) -> str:
    return path.relative_to(folder.path).as_posix()
