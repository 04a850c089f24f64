"""Preference studies of MagicBrush and Emu Edit Test (UltraEdit), and best-of-all votes (ReasonPix2Pix)."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.evaluation.by_instruction.datasets.emu_edit import read_emu_edit
from instructbrush.core.evaluation.by_instruction.datasets.item_storage import StoredItem
from instructbrush.core.evaluation.by_instruction.datasets.magicbrush import read_magicbrush
from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.evaluation.by_instruction.results import ItemFolder, Score
from instructbrush.core.evaluation.by_instruction.studies import PLANS, begin_studies
from instructbrush.core.evaluation.by_instruction.tables import EMU_EDIT, MAGICBRUSH, REASON
from instructbrush.core.evaluation.preference.study import Study
from instructbrush.core.evaluation.preference.voting import ULTRAEDIT_CRITERIA
from instructbrush.tests.support.tiny_benchmarks import (
    SESSIONS,
    emu_rows,
    write_magicbrush_folder,
    write_parquet,
    write_reasoning_folder,
)

CRITERIA = tuple(ULTRAEDIT_CRITERIA)


def results(folder: ItemFolder, sources: Sequence[StoredItem], methods: Sequence[str]) -> list[Score]:
    """Writes results of each method: the source, darker for each method that follows."""
    scores = []
    for source in sources:
        item = source.load()
        folder.save_item_images(item, None)
        images = 2 * len(item.turns) - 1
        directions = [
            0.1 if item.turns[item.turn_of(index)].caption_before is not None else None
            for index in range(images)
        ]
        for number, method in enumerate(methods):
            score = Score(
                *(item.name, item.scope, method, 0, len(item.turns)),
                *((0.1,) * images, (0.1,) * images, (0.9,) * images, None, (None,) * images),
                tuple(directions),
            )
            sides = [item.turns[item.turn_of(index)].source * (1 - 0.3 * number) for index in range(images)]
            folder.write(score, sides)
            scores.append(score)
    return scores


def test_magicbrush_is_judged_turn_by_turn_by_three_criteria(tmp_path: Path) -> None:
    sources = read_magicbrush(write_magicbrush_folder(tmp_path / "data")).items
    folder = ItemFolder(tmp_path / "out")
    scores = results(folder, sources, ("words", "region"))
    (study,) = begin_studies(folder, scores, sources, MAGICBRUSH, tmp_path / "studies")
    turns = sum(SESSIONS.values())
    assert study.folder == tmp_path / "studies" / "single"
    assert study.voting.criteria == CRITERIA and len(study.comparisons) == 3 * turns
    by_name = {comparison.item: comparison for comparison in study.comparisons}
    assert len(by_name) == turns
    second = by_name["139 turn 2"]
    assert second.instruction == "turn block 2 of 139 upside down"
    # The second turn edits its own true source, not the output of the first turn.
    own = [folder.own("139", "source", 1), *(folder.image("139", each, 0, 1) for each in second.methods)]
    for shown, original in zip(second.images, own, strict=True):
        with Image.open(study.folder / str(shown)) as one, Image.open(original) as other:
            assert one.tobytes() == other.tobytes()
    assert by_name["2047"].instruction == "turn block 1 of 2047 upside down"
    # The same results go on with the same study.
    (again,) = begin_studies(folder, scores, sources, MAGICBRUSH, tmp_path / "studies")
    assert again.key == study.key


def test_emu_edit_is_judged_on_rows_with_sound_captions(tmp_path: Path) -> None:
    sources = read_emu_edit(write_parquet(tmp_path / "test.parquet", emu_rows())).items
    folder = ItemFolder(tmp_path / "out")
    scores = results(folder, sources, ("words", "region"))
    (study,) = begin_studies(folder, scores, sources, EMU_EDIT, tmp_path / "studies")
    assert study.folder.name == "captioned" and study.voting.criteria == CRITERIA
    assert {each.item for each in study.comparisons} == {"00ab", "01ab", "05ab", "06ab"}


def test_draws_the_same_examples_each_time(tmp_path: Path) -> None:
    sources = read_magicbrush(write_magicbrush_folder(tmp_path / "data")).items
    folder = ItemFolder(tmp_path / "out")
    scores = results(folder, sources, ("words", "region"))
    drawn = [
        {
            each.item
            for study in begin_studies(folder, scores, sources, MAGICBRUSH, tmp_path / name, 2)
            for each in study.comparisons
        }
        for name in "ab"
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2


def test_reasoning_instructions_can_be_judged_by_the_best_of_four(tmp_path: Path) -> None:
    sources = read_reason(write_reasoning_folder(tmp_path / "data")).items
    folder = ItemFolder(tmp_path / "out")
    methods = ("words", "explain", "encode", "encode_blind")
    scores = results(folder, sources, methods)
    studies = begin_studies(folder, scores, sources, REASON, tmp_path / "studies", vote="best")
    assert [study.folder.name for study in studies] == ["direct", "reasoning"]
    for study in studies:
        assert study.voting.vote == "best" and study.voting.criteria == ()
        assert len(study.comparisons) == 4
        assert all(set(comparison.methods) == set(methods) for comparison in study.comparisons)


def test_every_part_of_a_plan_exists_and_has_published_results() -> None:
    assert set(PLANS) == {benchmark.name for benchmark in (MAGICBRUSH, EMU_EDIT, REASON)}
    for benchmark in (MAGICBRUSH, EMU_EDIT, REASON):
        plan = PLANS[benchmark.name]
        assert set(plan.parts) == set(plan.published) <= set(benchmark.parts)
    assert [PLANS[name].examples for name in ("MagicBrush", "Emu Edit Test", "Reasoning")] == [500, 500, 100]


@pytest.mark.slow
def test_command_begins_a_study_of_magicbrush(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_magicbrush_folder(tmp_path / "data")
    studies = tmp_path / "studies"
    command = ["bench", "--benchmark", "magicbrush", "--data", str(data), "--out", str(tmp_path / "out")]
    command += ["--methods", "words", "region", "--effects", "30", "--sampling-steps", "1", "--size", "64"]
    command += ["--device", "cpu", "--study", str(studies)]
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(command) == 0
    assert f"{studies / 'single'}:\n6 comparisons to be judged in Judge Preference." in printed.getvalue()
    assert "Published: UltraEdit, Table 7, TrueSkill: UltraEdit 25.5 ± 0.8" in printed.getvalue()
    study = Study.open(studies / "single")
    assert study.methods == ("words", "region") and study.voting.criteria == CRITERIA
    # Another vote under the same name is refused.
    assert main([*command, "--study-vote", "best"]) == 1
    assert "its vote is 'pairs', not 'best'" in capsys.readouterr().err
