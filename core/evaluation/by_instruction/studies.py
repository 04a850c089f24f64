"""Results of a run on items as studies of preference, which Judge Preference goes on with (Table 4 of ReasonPix2Pix): one for each part of the benchmark."""

import random
from collections.abc import Sequence
from pathlib import Path

from ...storage.image_files import read_image
from ..preference.ratings import Study
from ..preference.study import StudyItem
from ..results import ItemFolder
from .item_storage import StoredItem
from .items import Score
from .tables import ItemBenchmark


def begin_studies(
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    benchmark: ItemBenchmark,
    place: Path,
    most: int,
) -> list[Study]:
    """Begin studies of what the methods made with the first seed, or go on with those that are there.

    Args:
        folder: where the images are, sources among them (:func:`~.report.write_report`).
        scores: of all methods that are compared, two or more.
        sources: their items, of one turn each.
        benchmark: its parts.
        place: the study of a part is kept in a folder of the part's name within.
        most: of each part so many items are drawn, the same of every part; the paper has 100.

    Raises:
        EvaluationError: see :meth:`~..preference.ratings.Study.begin`.
    """
    methods = list(dict.fromkeys(score.method for score in scores))
    studies = []
    for part, block in benchmark.parts.items():
        named = {score.item for score in scores if block.images(score)}
        chosen = [source for source in sources if source.name in named]
        drawn = sorted(random.Random(0).sample(range(len(chosen)), min(most, len(chosen))))
        if drawn:
            studies.append(
                Study.begin(place / part, [_study_item(folder, chosen[number], methods) for number in drawn])
            )
    return studies


def _study_item(folder: ItemFolder, source: StoredItem, methods: Sequence[str]) -> StudyItem:
    results = {method: read_image(folder.image(source.name, method, 0, 0)) for method in methods}
    return StudyItem(source.name, results, source.words, read_image(folder.own(source.name, "source", 0)))
