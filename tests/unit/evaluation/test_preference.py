"""Preference studies: blind order, judgements on disk, resuming, and ratings against TrueSkill."""

import errno
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import trueskill
from PIL import Image

from instructbrush.core.errors import EvaluationError, StorageError
from instructbrush.core.evaluation.preference.ratings import DRAW_PROBABILITY
from instructbrush.core.evaluation.preference.study import Study
from instructbrush.core.evaluation.preference.study_file import FILE, EventLog, StudyItem


def items(
    count: int = 4, methods: tuple[str, ...] = ("words", "learned"), shift: float = 0.0
) -> list[StudyItem]:
    """Returns plain images, each of another shade."""
    shades = iter((torch.arange(count * (len(methods) + 1)) / 100 + shift).tolist())
    return [
        StudyItem(
            str(index),
            {m: torch.full((8, 10, 3), next(shades)) for m in methods},
            f"do {index}",
            torch.full((8, 10, 3), next(shades)),
        )
        for index in range(count)
    ]


def choose(study: Study, winner: str | None, number: int | None = None) -> None:
    """Judges the next comparison for a method, on either side; None is a tie."""
    number = study.pending[0] if number is None else number
    comparison = study.comparisons[number]
    study.judge(number, "tie" if winner is None else "left" if comparison.methods[0] == winner else "right")


def test_ratings_match_trueskill(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(5), seed=3)
    outcomes = ["learned", None, "words", "learned", "learned"]
    words, learned = trueskill.Rating(), trueskill.Rating()
    for winner in outcomes:
        choose(study, winner)
        if winner == "words":
            words, learned = trueskill.rate_1vs1(words, learned)
        else:
            learned, words = trueskill.rate_1vs1(learned, words, drawn=winner is None)
        rated = {rating.method: rating for rating in study.ratings()}
        assert (rated["words"].mu, rated["words"].sigma) == pytest.approx((words.mu, words.sigma), abs=1e-12)
        assert (rated["learned"].mu, rated["learned"].sigma) == pytest.approx(
            (learned.mu, learned.sigma), abs=1e-12
        )
    assert (rated["words"].won, rated["words"].tied, rated["words"].lost) == (1, 1, 3)
    assert (rated["learned"].won, rated["learned"].tied, rated["learned"].lost) == (3, 1, 1)
    assert study.ratings() == Study.open(tmp_path / "s").ratings()
    report = study.report().splitlines()
    assert (
        report[0] == "Study 's': 5 of 5 judged"
        and report[2].split()[0] == "learned"
        and report[-1] == "TrueSkill, draw probability 0.1."
    )


def test_one_match_gives_published_figures(tmp_path: Path) -> None:
    """The first match of two new players: 29.40 ± 7.17 against 20.60 ± 7.17; after a tie 25 ± 6.46."""
    won = Study.begin(tmp_path / "won", items(1))
    tied = Study.begin(tmp_path / "tied", items(1))
    assert [(rating.mu, rating.sigma) for rating in won.ratings()] == [pytest.approx((25, 25 / 3))] * 2
    choose(won, "learned")
    choose(tied, None)
    assert [
        (r.method, pytest.approx(r.mu, abs=1e-3), pytest.approx(r.sigma, abs=1e-3)) for r in won.ratings()
    ] == [
        ("words", 20.604, 7.171),
        ("learned", 29.396, 7.171),
    ]
    assert [(r.mu, r.sigma) for r in tied.ratings()] == [pytest.approx((25, 6.458), abs=1e-3)] * 2
    # A tie says less if ties are expected.
    assert tied.ratings(0.5)[0].sigma > tied.ratings(DRAW_PROBABILITY)[0].sigma


def test_compares_three_methods_in_pairs(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(6, ("a", "b", "c")), seed=1)
    assert len(study.comparisons) == 18
    asked = Counter((c.item, *sorted(c.methods)) for c in study.comparisons)
    assert set(asked.values()) == {1} and len(asked) == 18
    # Each method is on the left in half of its comparisons with another.
    assert set(Counter(c.methods for c in study.comparisons).values()) == {3}
    ranks = "cba"
    while study.pending:
        comparison = study.comparisons[study.pending[0]]
        choose(study, min(comparison.methods, key=ranks.index))
    rated = sorted(study.ratings(), key=lambda rating: -rating.mu)
    assert [rating.method for rating in rated] == list(ranks) and [rating.won for rating in rated] == [
        12,
        6,
        0,
    ]


def test_draws_order_from_the_seed(tmp_path: Path) -> None:
    def order(name: str, seed: int) -> list[tuple[str, str]]:
        return [(c.item, c.methods[0]) for c in Study.begin(tmp_path / name, items(12), seed).comparisons]

    assert order("a", 5) == order("b", 5)
    assert order("c", 6) != order("a", 5) and order("a", 99) == order("a", 5)
    assert [item for item, _ in order("a", 5)] != [str(index) for index in range(12)]
    assert 4 <= sum(left == "words" for _, left in order("a", 5)[:12]) <= 8


def test_image_names_do_not_reveal_the_method(tmp_path: Path) -> None:
    given = items(3)
    study = Study.begin(tmp_path / "s", given)
    by_id = {item.id: item for item in given}
    for comparison in study.comparisons:
        item = by_id[comparison.item]
        for name, frame in zip(
            comparison.images,
            (item.source, item.results[comparison.methods[0]], item.results[comparison.methods[1]]),
            strict=True,
        ):
            with Image.open(tmp_path / "s" / name) as image:
                assert (
                    image.size == (10, 8)
                    and image.getpixel((0, 0)) == (round(float(frame[0, 0, 0]) * 255),) * 3
                    and not image.info
                )
            assert len(name) == 28 and name.endswith(".png")
    assert len(list((tmp_path / "s").glob("*.png"))) == 9
    # The same items in another study have other file names.
    other = Study.begin(tmp_path / "t", given)
    assert not {path.name for path in (tmp_path / "t").glob("*.png")} & {
        path.name for path in (tmp_path / "s").glob("*.png")
    }
    assert other.key != study.key


def test_study_resumes_with_its_judgements(tmp_path: Path) -> None:
    first = Study.begin(tmp_path / "s", items(), seed=1)
    choose(first, "words")
    choose(first, None)
    for again in (Study.open(tmp_path / "s"), Study.begin(tmp_path / "s", items(), seed=7)):
        assert (
            again.judgements == first.judgements
            and again.pending == (2, 3)
            and again.comparisons == first.comparisons
            and again.seed == 1
        )
    with pytest.raises(EvaluationError, match="Study 's': comparison 0 is judged already."):
        first.judge(0, "tie")
    with pytest.raises(EvaluationError, match="comparison 4 is not one of 4"):
        first.judge(4, "tie")
    with pytest.raises(EvaluationError, match="choice 'best' is not one of left, tie, right"):
        first.judge(3, "best")
    assert len((tmp_path / "s" / FILE).read_text().splitlines()) == 3


def test_judgement_that_cannot_be_written_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.begin(tmp_path / "s", items())
    choose(study, "learned")

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(StorageError, match="no space is left there"):
        full.setattr(os, "fsync", refuse)
        choose(study, "words")
    assert len(study.judgements) == 1
    choose(study, "words")
    assert Study.open(tmp_path / "s").judgements == study.judgements
    assert len(study.judgements) == 2


def test_undoes_the_last_judgement(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(2))
    assert study.undo() is None
    choose(study, "words")
    choose(study, "learned")
    last = study.judgements[-1]
    assert study.undo() == last and study.pending == (1,)
    assert Study.open(tmp_path / "s").judgements == study.judgements
    choose(study, "words")
    again = Study.open(tmp_path / "s")
    assert [rating.won for rating in again.ratings()] == [2, 0] and not again.pending
    again.undo(), again.undo()
    assert again.undo() is None and Study.open(tmp_path / "s").pending == (0, 1)
    # The file keeps all events: three judgements and three undos.
    assert len((tmp_path / "s" / FILE).read_text().splitlines()) == 1 + 6


def test_events_count_once_and_late_events_are_left_out(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(3))
    events = [
        {"id": "a", "number": 1, "choice": "left"},
        {"id": "b", "number": 0, "choice": "tie"},
        {"id": "c", "undo": "a"},
        {"id": "d", "number": 1, "choice": "right"},
    ]
    assert (
        study.add_events(events[:2]) == []
        and study.add_events(events) == []
        and study.add_events(events) == []
    )
    assert [(j.id, j.number, j.choice) for j in Study.open(tmp_path / "s").judgements] == [
        ("b", 0, "tie"),
        ("d", 1, "right"),
    ]
    assert study.event_ids == {"a", "b", "c", "d"} and study.pending == (2,)
    bad = [
        {"id": "e", "number": 0, "choice": "left"},
        {"id": "f", "undo": "a"},
        {"id": ["g"], "number": 2, "choice": "tie"},
        {"number": 2, "choice": "tie"},
    ]
    bad += [
        {"id": "h", "number": True, "choice": "tie"},
        {"id": "i", "number": 2, "choice": ["tie"]},
        {"id": "j", "number": -1, "choice": "tie"},
    ]
    left_out = study.add_events(bad)
    assert (
        len(left_out) == len(bad)
        and left_out[0] == "comparison 0 is judged already"
        and left_out[1] == "it undoes 'a', which is not a judgement that counts"
    )
    assert Study.open(tmp_path / "s").pending == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: [*lines, '{"id": "x", "number"'],
            "line 4 of '.*': it was cut off while being written",
        ),
        (lambda lines: [lines[0], "what", *lines[1:], ""], "line 2 of '.*': it cannot be read"),
        (lambda lines: [*lines, "[]", ""], "line 4 of '.*': it holds no entry"),
        (lambda lines: [*lines, lines[1], ""], "line 4 of '.*': comparison 0 is judged already"),
        (
            lambda lines: [*lines, '{"id": "x", "number": 9, "choice": "tie"}', ""],
            "line 4 of '.*': comparison 9 is not one of 4",
        ),
        (
            lambda lines: [*lines, '{"id": "x", "undo": "y"}', ""],
            "line 4 of '.*': it undoes 'y', which is not a judgement that counts",
        ),
        (lambda lines: ["", *lines[1:], ""], "line 1 of '.*': it cannot be read"),
        (lambda lines: ['{"format": 3}', ""], "line 1 of '.*': its format is 3; this version reads 1 and 2"),
        (
            lambda lines: [json.dumps(json.loads(lines[0]) | {"comparisons": [[9, "words", "learned"]]}), ""],
            "line 1 of '.*': it does not say what is compared",
        ),
        (lambda lines: ['{"format": 1, "key": "k"}', ""], "line 1 of '.*': it does not say what is compared"),
        (lambda lines: [""], "line 1 of '.*': it cannot be read"),
        (
            lambda lines: [json.dumps(json.loads(lines[0]) | {"key": "x/../comfy.settings"}), ""],
            "line 1 of '.*': .*its key is not 32 hexadecimal digits",
        ),
    ],
)
def test_damaged_file_is_reported_and_not_changed(tmp_path: Path, change, message) -> None:
    study = Study.begin(tmp_path / "s", items())
    choose(study, "words")
    choose(study, "words")
    file = tmp_path / "s" / FILE
    file.write_text("\n".join(change(file.read_text().splitlines())))
    before = file.read_bytes()
    for attempt in (lambda: Study.open(tmp_path / "s"), lambda: Study.begin(tmp_path / "s", items())):
        with pytest.raises(
            EvaluationError, match=f"Study 's' is damaged: {message}.* The file was left as it is"
        ):
            attempt()
    assert file.read_bytes() == before


def changed(which: str) -> list[StudyItem]:
    given = items()
    if which == "image":
        given[2].results["learned"][0, 0, 0] += 0.01
    elif which == "source":
        given[1] = StudyItem(given[1].id, given[1].results, given[1].instruction, None)
    elif which == "instruction":
        given[3] = StudyItem(given[3].id, given[3].results, "do something else", given[3].source)
    elif which == "methods":
        given = items(methods=("words", "other"))
    return given[:-1] if which == "count" else given


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("image", "the image of 'learned' of item '2' has changed"),
        ("source", "the source image of item '1' has changed"),
        ("instruction", "the instruction of item '3' has changed"),
        ("methods", "its methods are 'words', 'learned', not 'words', 'other'"),
        ("count", "it has 4 items, not 3"),
    ],
)
def test_rejects_other_images(tmp_path: Path, which: str, message: str) -> None:
    Study.begin(tmp_path / "s", items())
    before = (tmp_path / "s" / FILE).read_bytes()
    with pytest.raises(
        EvaluationError,
        match=f"Study 's' was started with other contents: {message}. Give the study another name",
    ):
        Study.begin(tmp_path / "s", changed(which))
    assert (tmp_path / "s" / FILE).read_bytes() == before
    Study.begin(tmp_path / "another", changed(which))


def test_accepts_another_order_of_methods_and_differences_below_8_bits(
    tmp_path: Path,
) -> None:
    study = Study.begin(tmp_path / "s", items())
    swapped = [
        StudyItem(i.id, dict(reversed(list(i.results.items()))), i.instruction, i.source + 1e-6)
        for i in items()
    ]
    assert Study.begin(tmp_path / "s", swapped).comparisons == study.comparisons


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one item"),
        (items(2, ("alone",)), "two methods or more"),
        (items(2, ("a", " ")), "' ' is not a valid name for a method"),
        (items(2, ("a", "b\nc")), "is not a valid name for a method"),
        ([*items(1), *items(1)], "two items have the same id"),
        (
            [items(1)[0], StudyItem("x", items(1, ("a", "b"))[0].results)],
            "item 'x' has results of 'a', 'b', the first one of 'words', 'learned'",
        ),
        (
            [StudyItem("x", {"a": torch.zeros(8, 8, 3), "b": torch.zeros(8, 9, 3)})],
            "differ in size .8 x 8 of 'a', 9 x 8 of 'b'., which would reveal the method",
        ),
        (
            [StudyItem("x", {"a": torch.zeros(8, 8, 3), "b": torch.full((8, 8, 3), torch.nan)})],
            "the image 'b' of item 'x' holds values that are not finite",
        ),
    ],
)
def test_rejects_invalid_items(tmp_path: Path, given: list[StudyItem], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Study.begin(tmp_path / "s", given)
    assert not (tmp_path / "s").exists()


def test_reports_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        EvaluationError,
        match="Study 'none' has not been started: '.*study.jsonl' does not exist. Give the images to compare",
    ):
        Study.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match="Study 'file' cannot be started: '.*' is a file"):
        Study.begin(tmp_path / "file", items())
    study = Study.begin(tmp_path / "s", items())
    lost = tmp_path / "s" / study.comparisons[0].images[1]
    lost.unlink()
    with pytest.raises(
        EvaluationError, match=f"Study 's': image '{lost.name}' is missing in '.*'. Give the images again"
    ):
        Study.open(tmp_path / "s")
    Study.begin(tmp_path / "s", items())
    assert lost.is_file()
    monkeypatch.setitem(sys.modules, "trueskill", None)
    with pytest.raises(
        EvaluationError,
        match="need the trueskill package, which is not installed. Run: pip install trueskill.",
    ):
        study.ratings()


def test_rates_a_loss_after_many_wins(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(200))
    for number in study.pending[:-1]:
        choose(study, "learned", number)
    choose(study, "words")
    words, learned = study.ratings()
    assert learned.mu > words.mu and words.won == 1 and learned.won == 199


def test_checks_20000_events_in_a_second() -> None:
    log, began = EventLog(), time.process_time()
    for number in range(20_000):
        event = {"id": f"{number}", "number": number, "choice": "tie"}
        assert log.fault(event, 20_000) is None
        log.add(event)
    assert time.process_time() - began < 1
