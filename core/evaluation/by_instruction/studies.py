"""Preference studies of a run's results, as in Table 4 of ReasonPix2Pix: one study for each part."""

import random
from collections.abc import Sequence
from pathlib import Path

from ...storage.image_files import read_image
from ..preference.study import Study
from ..preference.study_file import StudyItem
from .datasets.item_storage import StoredItem
from .results import ItemFolder, Score
from .tables import ItemBenchmark


def begin_studies(
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    benchmark: ItemBenchmark,
    place: Path,
    max_items: int,
) -> list[Study]:
    """Begins or resumes studies of what the methods made with the first seed.

    Args:
        folder: holds the images. ``write_report`` saves the sources there first.
        scores: scores of two or more methods.
        sources: their items, with one turn each.
        benchmark: its parts. Each part gets a study.
        place: folder of the studies; each study is in a subfolder with the part's name.
        max_items: number of items drawn for each study; the paper has 100.

    Raises:
        EvaluationError: see ``Study.begin``.
    """
    methods = list(dict.fromkeys(score.method for score in scores))
    studies = []
    for part_name, part in benchmark.parts.items():
        names = {score.item for score in scores if part.images(score)}
        candidates = [source for source in sources if source.name in names]
        count = min(max_items, len(candidates))
        drawn = sorted(random.Random(0).sample(range(len(candidates)), count))
        if drawn:
            items = [_study_item(folder, candidates[index], methods) for index in drawn]
            studies.append(Study.begin(place / part_name, items))
    return studies


def _study_item(folder: ItemFolder, source: StoredItem, methods: Sequence[str]) -> StudyItem:
    results = {method: read_image(folder.image(source.name, method, 0, 0)) for method in methods}
    return StudyItem(source.name, results, source.words, read_image(folder.own(source.name, "source", 0)))
