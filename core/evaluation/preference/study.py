"""Preference studies: people compare results of methods, blind and shuffled, and TrueSkill rates the methods.

This is the human evaluation of UltraEdit (supplementary material, D.1, Tables 7 and 8): the better of two
images by three criteria; and of ReasonPix2Pix (section 4.3, Table 4): the best of all images. A study is a
folder with the images, under names that do not reveal the method, and ``study.jsonl``: a line that describes
the study, then a line for every judgement and every undo.
"""

import copy
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...errors import EvaluationError
from ...storage.files import append_text, write_text
from ...storage.image_files import save_image
from ...storage.image_tensors import to_image
from .ratings import (
    DRAW_PROBABILITY,
    JudgedImages,
    MethodRating,
    pairs_table,
    rate,
    shares_table,
)
from .study_file import (
    FILE,
    EventLog,
    Judgement,
    StudyItem,
    damage_error,
    describe_items,
    new_header,
    parse_line,
    quoted_names,
    read_header,
)
from .voting import PLAIN_PAIRS, Voting, draw_comparisons, read_voting


@dataclass(frozen=True)
class Comparison:
    """One question to the judge."""

    item: str
    instruction: str
    methods: tuple[str, ...]
    """Methods of the images shown, from left to right."""
    images: tuple[str | None, ...]
    """Files in the study's folder: source (or None), then the images shown."""
    criterion: str = ""
    """What to judge by; empty for the image as a whole."""

    def judged(self, choice: str) -> JudgedImages:
        """Returns what a choice says about the methods, see ``Voting.choices``."""
        place = {"left": 0, "tie": 0, "right": 1}.get(choice)
        if place is None:
            place = int(choice) - 1
        others = tuple(method for method in self.methods if method != self.methods[place])
        return JudgedImages(self.methods[place], others, choice == "tie")


class Study:
    """A study on disk, created by ``begin`` or ``open``."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder
        self.key: str = header["key"]
        """Random hex digits. They keep apart the judgements of two studies with the same name."""
        self.seed: int = header["seed"]
        self.methods: tuple[str, ...] = tuple(header["methods"])
        self.voting = read_voting(header, len(self.methods))
        self.comparisons = tuple(
            self._comparison(header["items"][item], tuple(shown), criterion)
            for item, *shown in header["comparisons"]
            for criterion in self.voting.questions
        )
        """In the order in which they are asked; with criteria, one after the other for the same images."""
        self._items: list[dict[str, Any]] = header["items"]
        self._log = EventLog(self.voting.choices(self.methods))

    @classmethod
    def begin(
        cls, folder: str | Path, items: Sequence[StudyItem], seed: int = 0, voting: Voting = PLAIN_PAIRS
    ) -> "Study":
        """Begins a study, or resumes the one in the folder.

        Every two methods, or all methods, are compared on every item. The seed draws the order of the
        comparisons and the places of the methods; each method is at each place equally often. A resumed study
        keeps its order whatever the seed.

        Args:
            folder: folder of the study; created if missing.
            items: what is compared. Ids and names of methods may be any text.
            seed: any integer.
            voting: what the judges are asked.

        Raises:
            EvaluationError: there are fewer than two methods, the items do not match each other, the voting
                is not possible, or the folder holds a damaged study or one of other images, methods,
                instructions or votes. An existing study is never changed.
        """
        folder = Path(folder)
        methods, entries = describe_items(items)
        voting.check(methods)
        if os.path.isfile(folder / FILE):
            study = cls.open(folder, images=False)
            study._check_same_contents(methods, entries, voting)
            study._write_images(items)
            return study
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise EvaluationError(
                f"Study '{folder.name}' cannot be started: '{folder}' is a file. Give the study another name."
            )
        comparisons = draw_comparisons(len(entries), methods, seed, voting.vote)
        header = new_header(methods, entries, seed, comparisons, voting)
        study = cls(folder, header)
        study._write_images(items)
        # Written last and atomically, so that a study that exists has all its images.
        write_text(json.dumps(header) + "\n", folder / FILE)
        return study

    @classmethod
    def open(cls, folder: str | Path, *, images: bool = True) -> "Study":
        """Reads a study.

        Args:
            folder: folder of the study.
            images: whether to check that the images exist.

        Raises:
            EvaluationError: there is no study, an image is missing, or the file is damaged. The message names
                the damaged line; the file is not changed.
        """
        folder = Path(folder)
        file = folder / FILE
        try:
            *lines, rest = file.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise EvaluationError(
                f"Study '{folder.name}' has not been started: '{file}' does not exist. "
                "Give the images to compare, or another name."
            ) from error
        except OSError as error:
            raise EvaluationError(
                f"Study '{folder.name}': '{file}' cannot be opened ({error.strerror}). Check its permissions."
            ) from error
        study = cls(folder, read_header(file, lines[0] if lines else rest))
        log = study._log
        for number, line in enumerate(lines[1:], start=2):
            event = parse_line(file, number, line)
            fault = log.fault(event, len(study.comparisons))
            if fault or event["id"] in log.ids:
                raise damage_error(file, number, fault or "its id is taken")
            log.add(event)
        if rest:
            raise damage_error(file, len(lines) + 1, "it was cut off while being written")
        if images:
            study._check_images()
        return study

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """Judgements that were not undone, in the order they were made."""
        return tuple(self._log.standing.values())

    @property
    def event_ids(self) -> frozenset[str]:
        """Ids of all stored events."""
        return frozenset(self._log.ids)

    @property
    def pending(self) -> tuple[int, ...]:
        """Numbers of the comparisons that are not judged, in order."""
        judged = {judgement.number for judgement in self.judgements}
        return tuple(number for number in range(len(self.comparisons)) if number not in judged)

    def judge(self, number: int, choice: str) -> Judgement:
        """Stores a judgement.

        Args:
            number: number of the comparison, from 0.
            choice: ``"left"``, ``"tie"`` or ``"right"``; in a best-of-all vote ``"1"`` for the first image
                shown, and so on.

        Raises:
            EvaluationError: there is no such comparison or choice, or the comparison is judged already.
        """
        event = {"id": uuid.uuid4().hex, "number": number, "choice": choice}
        fault = self._log.fault(event, len(self.comparisons))
        if fault:
            raise EvaluationError(f"Study '{self.folder.name}': {fault}.")
        self.add_events([event])
        return self._log.standing[event["id"]]

    def undo(self) -> Judgement | None:
        """Undoes the last judgement and returns it; None if there is none. The file keeps both events."""
        if not self.judgements:
            return None
        last = self.judgements[-1]
        self.add_events([{"id": uuid.uuid4().hex, "undo": last.id}])
        return last

    def add_events(self, events: Iterable[Mapping[str, Any]]) -> list[str]:
        """Stores events that were made elsewhere. Events that are already stored are ignored.

        Args:
            events: ``{"id", "number", "choice"}`` or ``{"id", "undo": id}``, in the order they were made.

        Returns:
            The reasons why events were left out, for example because another judge was faster.
        """
        left_out = []
        new = []
        log = copy.deepcopy(self._log)
        for event in events:
            name = event.get("id")
            if isinstance(name, str) and name in log.ids:
                continue
            fault = log.fault(event, len(self.comparisons))
            if fault:
                left_out.append(fault)
                continue
            if event.get("undo") is not None:
                content = {"undo": event["undo"]}
            else:
                content = {"number": event["number"], "choice": event["choice"]}
            time = datetime.now(timezone.utc).isoformat(timespec="seconds")
            new.append({"id": name, **content, "at": time})
            log.add(new[-1])
        if new:
            append_text("".join(json.dumps(event) + "\n" for event in new), self.folder / FILE)
        self._log = log
        return left_out

    def ratings(
        self, draw_probability: float = DRAW_PROBABILITY, criterion: str | None = None
    ) -> list[MethodRating]:
        """Returns TrueSkill's rating of each method, in the study's order.

        Each judgement is a match, in the order of the judgements; a tie is a draw. The best of several images
        wins a match against each of the others.

        Args:
            draw_probability: see ``DRAW_PROBABILITY``.
            criterion: counts only the judgements by this criterion; None counts all.

        Raises:
            EvaluationError: the trueskill package is not installed.
        """
        judged = (
            self.comparisons[judgement.number].judged(judgement.choice)
            for judgement in self.judgements
            if criterion in (None, self.comparisons[judgement.number].criterion)
        )
        return rate(self.methods, judged, draw_probability)

    def report(self) -> str:
        """Returns progress and ratings as a table, best method first. With criteria, a table for each."""
        best = self.voting.vote == "best"
        table = shares_table if best else pairs_table
        lines = [f"Study '{self.folder.name}': {len(self.judgements)} of {len(self.comparisons)} judged"]
        for criterion in self.voting.criteria:
            lines += [f"By {criterion}:", *table(self.ratings(criterion=criterion))]
        if len(self.voting.criteria) > 1:
            lines.append("By all criteria:")
        if len(self.voting.criteria) != 1:
            lines += table(self.ratings())
        note = f"TrueSkill, draw probability {DRAW_PROBABILITY:g}"
        if best:
            note = "Share: how often the method was picked as the best. TrueSkill: a win over each other one"
        lines.append(note + (", of what is judged so far." if self.pending else "."))
        return "\n".join(lines)

    def _comparison(self, entry: Mapping[str, Any], shown: tuple[str, ...], criterion: str) -> Comparison:
        source = None if entry["source"] is None else self._image(entry["id"], None)
        images = (source, *(self._image(entry["id"], method) for method in shown))
        return Comparison(entry["id"], entry["instruction"], shown, images, criterion)

    def _image(self, item: str, method: str | None) -> str:
        # The hash hides the method, because a method's images have unrelated names on different items.
        return hashlib.sha256(json.dumps([self.key, item, method]).encode()).hexdigest()[:24] + ".png"

    def _check_images(self) -> None:
        for name in dict.fromkeys(
            name for comparison in self.comparisons for name in comparison.images if name
        ):
            if not os.path.isfile(self.folder / name):
                raise EvaluationError(
                    f"Study '{self.folder.name}': image '{name}' is missing in '{self.folder}'. "
                    "Give the images again; the study then writes it again."
                )

    def _write_images(self, items: Iterable[StudyItem]) -> None:
        for item in items:
            source = [(None, item.source)] if item.source is not None else []
            for method, image in [*source, *item.results.items()]:
                path = self.folder / self._image(item.id, method)
                if not os.path.isfile(path):
                    save_image(to_image(image), path)

    def _check_same_contents(
        self, methods: Sequence[str], entries: Sequence[Mapping[str, Any]], voting: Voting
    ) -> None:
        difference = self._difference(methods, entries, voting)
        if difference:
            raise EvaluationError(
                f"Study '{self.folder.name}' was started with other contents: {difference}. Give the study "
                "another name to begin a new one, or give the original contents. If the images are "
                "generated again in each run, save them first and load them from their files."
            )

    def _difference(
        self, methods: Sequence[str], entries: Sequence[Mapping[str, Any]], voting: Voting
    ) -> str | None:
        """The first difference between the study and new contents; None if they are the same."""
        if voting.vote != self.voting.vote:
            return f"its vote is '{self.voting.vote}', not '{voting.vote}'"
        if voting.criteria != self.voting.criteria:
            old, new = (quoted_names(each) or "none" for each in (self.voting.criteria, voting.criteria))
            return f"its criteria are {old}, not {new}"
        if set(methods) != set(self.methods):
            return f"its methods are {quoted_names(self.methods)}, not {quoted_names(methods)}"
        if len(entries) != len(self._items):
            return f"it has {len(self._items)} items, not {len(entries)}"
        names = {"id": "the id", "instruction": "the instruction", "source": "the source image"}
        for old, new in zip(self._items, entries, strict=True):
            for field, name in names.items():
                if old[field] != new[field]:
                    return f"{name} of item '{old['id']}' has changed"
            for method in self.methods:
                if old["results"].get(method) != new["results"].get(method):
                    return f"the image of '{method}' of item '{old['id']}' has changed"
        return None
