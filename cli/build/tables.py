"""``build tables``: UltraEdit's Tables 5 and 6 of any data set of edits."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from ...core.generation.scoring import ScoringModels
from ...core.generation.ultraedit.edit_types import EDIT_TYPES
from ...core.generation.ultraedit.reports.edit_tables import find_tables
from ...core.generation.ultraedit.reports.quality import Quality, quality_of, table_6_text
from ...core.generation.ultraedit.reports.statistics import count_types, table_5_text


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("place", help="a data set's folder, one of its .parquet files, or a build's folder")
    parser.add_argument(
        "--score", action="store_true",
        help="compute the scores from images and captions, instead of taking those in the table",
    )  # fmt: skip
    parser.add_argument("--clip", default="pocket", help="CLIP of the scores (default pocket)")
    parser.add_argument(
        "--clip-folder", default="", metavar="FOLDER", help="folder with the CLIP's weights (default none)"
    )
    parser.add_argument("--dino", default="", metavar="FOLDER", help="DINOv2 (default none)")
    parser.add_argument("--device", default="auto", help="of the scoring models (default auto)")
    parser.set_defaults(command=show_tables)


def show_tables(options: argparse.Namespace) -> None:
    """Prints both tables. The last line on stdout is one JSON object."""
    place = Path(options.place)
    table = find_tables(place)
    counts = count_types(table.edits())
    print(f"Table 5: instructions by type\n{table_5_text(counts)}\n")
    quality: dict[str, Quality] = {}
    if options.score:
        table.check_images()
        scorer = ScoringModels(options.clip, options.clip_folder, options.dino, options.device)()
        quality = quality_of(table.edits(with_images=True), scorer, _skipped)
    elif table.has_scores:
        quality = quality_of(table.edits())
    if quality:
        print(f"Table 6: mean scores by task\n{table_6_text(quality, place.name)}\n")
    else:
        print("Table 6 needs scores, which the table does not hold. --score computes them.", file=sys.stderr)
    types = {
        kind: {name: [each.instances[n], each.unique[n]] for n, name in enumerate(EDIT_TYPES)}
        for kind, each in counts.items()
    }
    print(json.dumps({"types": types, "scores": {task: _facts(each) for task, each in quality.items()}}))


def _facts(quality: Quality) -> dict[str, Any]:
    """Means without values are null: JSON has no nan."""
    means = {name: None if math.isnan(value) else value for name, value in quality.means.items()}
    return {"edits": quality.edits, "means": means}


def _skipped(sentence: str) -> None:
    print(f"skipped: {sentence}", file=sys.stderr)
