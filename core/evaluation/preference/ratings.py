"""What people prefer: results of two or more methods side by side, blind and shuffled, judged first, second or tie, and rated by TrueSkill.

The human evaluation of UltraEdit (supplementary material, D.1, Tables 7 and 8). A study is a folder with the images, under names that tell nothing, and
``study.jsonl``: a line that says what is compared in which order, then a line for every judgement and every undoing, in the order they were made.
"""

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
from ...storage.files import write_text
from ...storage.image_files import save_image
from ...storage.image_tensors import to_image
from .study import (
    FILE,
    FORMAT,
    Judgement,
    Progress,
    StudyItem,
    damaged,
    describe,
    listed,
    parse,
    read_header,
    shuffled,
)

DRAW_PROBABILITY = 0.10
"""How often TrueSkill expects a tie between equals: its own default. A higher one makes ties say less."""


@dataclass(frozen=True)
class Comparison:
    """One question to the judge."""

    item: str
    instruction: str
    left: str
    """The method on the left."""
    right: str
    images: tuple[str | None, str, str]
    """Files in the study's folder: source (None without one), left, right."""


@dataclass(frozen=True)
class MethodRating:
    """How a method fared. TrueSkill begins at mu 25 and sigma 25/3."""

    method: str
    mu: float
    sigma: float
    won: int = 0
    tied: int = 0
    lost: int = 0


class Study:
    """A study on disk. Made by :meth:`begin` or :meth:`open`."""

    def __init__(self, folder: Path, header: Mapping[str, Any], progress: Progress) -> None:
        self.folder = folder
        self.key: str = header["key"]
        """Random hex digits: judgements made for one study are never taken for another's of the same name."""
        self.seed: int = header["seed"]
        self.methods: tuple[str, ...] = tuple(header["methods"])
        self.comparisons = tuple(
            self._comparison(header["items"][item], left, right)
            for item, left, right in header["comparisons"]
        )
        """In the order in which they are asked."""
        self._items: list[dict[str, Any]] = header["items"]
        self._progress = progress

    @classmethod
    def begin(cls, folder: str | Path, items: Sequence[StudyItem], seed: int = 0) -> "Study":
        """Begin a study, or go on with the one that is there.

        Every two methods are compared on every item. The seed draws the order, and the side each method stands on: of the comparisons of two methods,
        each stands left in half. A study that has begun keeps its order whatever the seed.

        Args:
            folder: the study's own; made when missing.
            items: what is compared. Ids and methods' names are any text.
            seed: any integer.

        Raises:
            EvaluationError: fewer than two methods, items that do not fit each other, or a folder that holds a study of other images, methods or
                instructions, or a damaged one. What is there is never changed.
        """
        folder = Path(folder)
        methods, entries = describe(items)
        if os.path.isfile(folder / FILE):
            study = cls.open(folder, images=False)
            study._compare(methods, entries)
        else:
            if os.path.exists(folder) and not os.path.isdir(folder):
                raise EvaluationError(
                    f"Study '{folder.name}' cannot be begun: '{folder}' is a file. Give the study another name."
                )
            key = uuid.uuid4().hex
            header = {
                "format": FORMAT,
                "key": key,
                "seed": seed,
                "methods": methods,
                "items": entries,
                "comparisons": shuffled(len(entries), methods, seed),
            }
            study = cls(folder, header, Progress())
            study._write_images(items)
            # Last, and by a rename: a study that is there has all its images.
            write_text(json.dumps(header) + "\n", folder / FILE)
            return study
        study._write_images(items)
        return study

    @classmethod
    def open(cls, folder: str | Path, *, images: bool = True) -> "Study":
        """Read a study.

        Args:
            folder: the study's own.
            images: check that its images are there too.

        Raises:
            EvaluationError: there is none, an image is missing, or the file is damaged: the message names the line, and the file is left as it is.
        """
        folder = Path(folder)
        file = folder / FILE
        try:
            *lines, rest = file.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise EvaluationError(
                f"Study '{folder.name}' has not begun: '{file}' does not exist. Give the images to compare, or another name."
            ) from error
        except OSError as error:
            raise EvaluationError(
                f"Study '{folder.name}': '{file}' cannot be opened ({error.strerror}). Check that it may be read."
            ) from error
        study = cls(folder, read_header(file, lines[0] if lines else rest), Progress())
        for index, line in enumerate(lines[1:], start=2):
            event = parse(file, index, line)
            fault = study._progress.fault(event, len(study.comparisons))
            if fault or event["id"] in study._progress.known:
                raise damaged(file, index, fault or "its id is taken")
            study._progress.add(event)
        if rest:
            raise damaged(file, len(lines) + 1, "it was cut off while being written")
        for name in (
            {name for comparison in study.comparisons for name in comparison.images if name} if images else ()
        ):
            if not os.path.isfile(folder / name):
                raise EvaluationError(
                    f"Study '{folder.name}': image '{name}' is missing in '{folder}'. Give the images again, and it is written anew."
                )
        return study

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """Those that stand, in the order they were made."""
        return tuple(self._progress.standing.values())

    @property
    def known(self) -> frozenset[str]:
        """Ids of everything that was ever taken in."""
        return frozenset(self._progress.known)

    @property
    def pending(self) -> tuple[int, ...]:
        """Numbers of the comparisons that are still to be judged, in order."""
        judged = {judgement.number for judgement in self.judgements}
        return tuple(number for number in range(len(self.comparisons)) if number not in judged)

    def judge(self, number: int, choice: str) -> Judgement:
        """Store a judgement.

        Args:
            number: of the comparison, from 0.
            choice: ``"left"``, ``"tie"`` or ``"right"``.

        Raises:
            EvaluationError: there is no such comparison or choice, or it is judged already.
        """
        event = {"id": uuid.uuid4().hex, "number": number, "choice": choice}
        fault = self._progress.fault(event, len(self.comparisons))
        if fault:
            raise EvaluationError(f"Study '{self.folder.name}': {fault}.")
        self.take_in([event])
        return self._progress.standing[event["id"]]

    def undo(self) -> Judgement | None:
        """Take the last judgement that stands back, and return it; None when none stands. The log keeps both."""
        if not self.judgements:
            return None
        last = self.judgements[-1]
        self.take_in([{"id": uuid.uuid4().hex, "undo": last.id}])
        return last

    def take_in(self, events: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store judgements and undoings that were made elsewhere, each once however often it comes.

        Args:
            events: ``{"id", "number", "choice"}`` or ``{"id", "undo": id}``, in the order they were made.

        Returns:
            Why events were left out, such as those of a comparison that another judge was quicker with.
        """
        left_out, new = [], []
        for event in events:
            name = event.get("id")
            if isinstance(name, str) and name in self._progress.known:
                continue
            fault = self._progress.fault(event, len(self.comparisons))
            if fault:
                left_out.append(fault)
                continue
            what = (
                {"undo": event["undo"]}
                if event.get("undo") is not None
                else {"number": event["number"], "choice": event["choice"]}
            )
            new.append({"id": name, **what, "at": datetime.now(timezone.utc).isoformat(timespec="seconds")})
            self._progress.add(new[-1])
        if new:
            with open(self.folder / FILE, "ab") as file:
                file.write("".join(json.dumps(event) + "\n" for event in new).encode())
                file.flush()
                os.fsync(file.fileno())
        return left_out

    def ratings(self, draw_probability: float = DRAW_PROBABILITY) -> list[MethodRating]:
        """TrueSkill's ratings of the judgements that stand, one match after the other in their order; ties are its draws.

        Args:
            draw_probability: see ``DRAW_PROBABILITY``. All else is the package's: mu 25, sigma 25/3, beta 25/6, tau 25/300.

        Returns:
            One rating for each method, in the study's order.

        Raises:
            EvaluationError: the trueskill package is not installed.
        """
        trueskill = _import_trueskill()
        environment = trueskill.TrueSkill(draw_probability=draw_probability)
        ratings = {method: environment.create_rating() for method in self.methods}
        counts = {method: {"won": 0, "tied": 0, "lost": 0} for method in self.methods}
        for judgement in self.judgements:
            comparison = self.comparisons[judgement.number]
            better, worse = (
                (comparison.right, comparison.left)
                if judgement.choice == "right"
                else (comparison.left, comparison.right)
            )
            drawn = judgement.choice == "tie"
            ratings[better], ratings[worse] = trueskill.rate_1vs1(
                ratings[better], ratings[worse], drawn=drawn, env=environment
            )
            counts[better]["tied" if drawn else "won"] += 1
            counts[worse]["tied" if drawn else "lost"] += 1
        return [
            MethodRating(method, rating.mu, rating.sigma, **counts[method])
            for method, rating in ratings.items()
        ]

    def report(self) -> str:
        """Progress and ratings as a table, best method first."""
        ratings = sorted(self.ratings(), key=lambda rating: -rating.mu)
        width = max(len("method"), *(len(rating.method) for rating in ratings))
        lines = [f"Study '{self.folder.name}': {len(self.judgements)} of {len(self.comparisons)} judged"]
        lines.append(f"{'method':<{width}}     mu  sigma    won   tied   lost")
        for each in ratings:
            lines.append(
                f"{each.method:<{width}}  {each.mu:5.2f}  {each.sigma:5.2f}  {each.won:5d}  {each.tied:5d}  {each.lost:5d}"
            )
        lines.append(
            f"TrueSkill, draw probability {DRAW_PROBABILITY:g}"
            + (", of what is judged so far." if self.pending else ".")
        )
        return "\n".join(lines)

    def _comparison(self, entry: Mapping[str, Any], left: str, right: str) -> Comparison:
        source = None if entry["source"] is None else self._image(entry["id"], None)
        return Comparison(
            entry["id"],
            entry["instruction"],
            left,
            right,
            (source, self._image(entry["id"], left), self._image(entry["id"], right)),
        )

    def _image(self, item: str, method: str | None) -> str:
        # Made of the key: the same method has another name on every item, and nothing of it shows.
        return hashlib.sha256(json.dumps([self.key, item, method]).encode()).hexdigest()[:24] + ".png"

    def _write_images(self, items: Iterable[StudyItem]) -> None:
        for item in items:
            shown = [(None, item.source)] if item.source is not None else []
            for method, image in [*shown, *item.results.items()]:
                path = self.folder / self._image(item.id, method)
                if not os.path.isfile(path):
                    save_image(to_image(image), path)

    def _compare(self, methods: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> None:
        """Refuse to go on with other images than the study began with."""
        other = None
        if set(methods) != set(self.methods):
            other = f"its methods are {listed(self.methods)}, not {listed(methods)}"
        elif len(entries) != len(self._items):
            other = f"it has {len(self._items)} items, not {len(entries)}"
        for old, new in zip(self._items, entries, strict=False):
            if other is None and old != new:
                parts = {"id": "the id", "instruction": "the instruction", "source": "the source image"}
                changed = [text for part, text in parts.items() if old[part] != new[part]]
                changed += [
                    f"the image of '{method}'"
                    for method in self.methods
                    if old["results"].get(method) != new["results"].get(method)
                ]
                other = f"{changed[0]} of item '{old['id']}' is another now"
        if other:
            raise EvaluationError(
                f"Study '{self.folder.name}' was begun with other contents: {other}. Give the study another name to begin a new one, or give what it was begun "
                "with; images that are generated anew each time are better saved first and loaded from their files."
            )


def _import_trueskill() -> Any:
    try:
        import trueskill
    except ImportError as error:
        raise EvaluationError(
            "Preference: ratings need the trueskill package, which is not installed. Run: pip install trueskill."
        ) from error
    return trueskill
