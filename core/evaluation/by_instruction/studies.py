"""Preference studies of a run's results: UltraEdit's on MagicBrush and Emu Edit Test, and ReasonPix2Pix's."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...storage.image_files import read_image
from ..preference.study import Study
from ..preference.study_file import StudyItem
from ..preference.voting import PLAIN_PAIRS, ULTRAEDIT_CRITERIA, Vote, Voting
from .datasets.item_storage import StoredItem
from .results import ItemFolder, Score
from .tables import ItemBenchmark


@dataclass(frozen=True)
class StudyPlan:
    """The user study of a paper on one benchmark."""

    parts: tuple[str, ...]
    """The parts of the benchmark that get a study each."""
    voting: Voting
    examples: int
    """Number of examples that the paper draws."""
    published: Mapping[str, str]
    """Part -> the paper's result in a sentence."""


_BY_CRITERIA = Voting(criteria=tuple(ULTRAEDIT_CRITERIA))

PLANS: Mapping[str, StudyPlan] = {
    "MagicBrush": StudyPlan(
        # Every turn edits its own true source. The paper does not say whether sessions were judged, too.
        ("single",),
        _BY_CRITERIA,
        500,
        {
            "single": "UltraEdit, Table 7, TrueSkill: UltraEdit 25.5 ± 0.8, MagicBrush 23.7 ± 0.7, "
            "InstructPix2Pix 22.6 ± 0.7."
        },
    ),
    "Emu Edit Test": StudyPlan(
        # The paper leaves out rows with placeholder captions.
        ("captioned",),
        _BY_CRITERIA,
        500,
        {
            "captioned": "UltraEdit, Table 8, TrueSkill: SD3 26.7 ± 0.7, SDXL 26.5 ± 0.7, SD1.5 26.0 ± 0.7, "
            "each with UltraEdit; Emu Edit 25.1 ± 0.7."
        },
    ),
    # The paper picks the best of four: `vote="best"`. Pairs also tell apart methods that are seldom the best.
    "Reasoning": StudyPlan(
        ("direct", "reasoning"),
        PLAIN_PAIRS,
        100,
        {
            "direct": "ReasonPix2Pix, Table 4, picked as the best of four: ReasonPix2Pix 35 %, "
            "InstructDiffusion 28 %, MagicBrush 21 %, InstructPix2Pix 16 %.",
            "reasoning": "ReasonPix2Pix, Table 4, picked as the best of four: ReasonPix2Pix 54 %, "
            "InstructDiffusion 18 %, MagicBrush 15 %, InstructPix2Pix 13 %.",
        },
    ),
}
"""Name of the benchmark -> its study."""


def begin_studies(
    folder: ItemFolder,
    scores: Sequence[Score],
    sources: Sequence[StoredItem],
    benchmark: ItemBenchmark,
    place: Path,
    max_examples: int | None = None,
    vote: Vote | None = None,
) -> list[Study]:
    """Begins or resumes studies of what the methods made with the first seed.

    Args:
        folder: holds the images. ``write_report`` saves the sources there first.
        scores: scores of two or more methods.
        sources: their items.
        benchmark: one with a plan in ``PLANS``. Each part of the plan gets a study.
        place: folder of the studies; each study is in a subfolder with the part's name.
        max_examples: number of examples drawn for each study; None draws the plan's. An example is one turn
            of an item.
        vote: what judges are asked; None is the plan's.

    Raises:
        EvaluationError: see ``Study.begin``.
    """
    plan = PLANS[benchmark.name]
    voting = plan.voting if vote is None else replace(plan.voting, vote=vote)
    methods = list(dict.fromkeys(score.method for score in scores))
    score_of = {score.item: score for score in reversed(scores)}
    studies = []
    for part_name in plan.parts:
        part = benchmark.parts[part_name]
        candidates = [
            (source, turn)
            for source in sources
            if source.name in score_of
            for turn in part.images(score_of[source.name])
        ]
        count = min(max_examples or plan.examples, len(candidates))
        drawn = sorted(random.Random(0).sample(range(len(candidates)), count))
        if drawn:
            items = list(_study_items(folder, [candidates[index] for index in drawn], methods))
            studies.append(Study.begin(place / part_name, items, voting=voting))
    return studies


def _study_items(
    folder: ItemFolder, examples: Sequence[tuple[StoredItem, int]], methods: Sequence[str]
) -> Iterator[StudyItem]:
    for source, turn in examples:
        results = {method: read_image(folder.image(source.name, method, 0, turn)) for method in methods}
        name = source.name if len(source.turns) == 1 else f"{source.name} turn {turn + 1}"
        before = read_image(folder.own(source.name, "source", turn))
        yield StudyItem(name, results, source.turns[turn].words, before)
