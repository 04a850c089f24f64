"""Results on disk: JSON files and images of every outcome, so that a stopped run can resume."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..errors import EvaluationError
from ..storage.files import check_writable, is_ignored, write_text
from ..storage.image_files import save_image
from ..storage.image_tensors import to_image
from ..storage.json_text import parse_json, read_record

FORMAT = 1

Key = tuple[str, str, int]
"""(method, effect or item, seed) of an outcome."""


class ResultFolder:
    """The folder of one run. Files are written atomically, and the JSON file of an outcome after its images.

    Subclasses set the class variables.

    Args:
        path: the folder.
        redo: whether outcomes that another recipe made are made anew; otherwise they are an error.
        file: a JSON Lines file that also holds the outcomes, without their images, so that a run continues
            on another machine. Its first line is the run's description. ``None`` for no such file.
    """

    record: ClassVar[type]
    """Class of the outcomes: a dataclass of plain values with a ``key`` (method, effect or item, seed)."""
    subfolder: ClassVar[str]
    """Folder of the outcomes within the run's folder."""
    optional_entries: ClassVar[tuple[str, ...]] = ()
    """Entries of a run's description that only some methods need; None until such a method is run."""
    redo_advice: ClassVar[str] = "make the results of this method anew with --redo"
    """How else to mend results that another recipe made."""

    def __init__(self, path: str | Path, redo: bool = False, file: str | Path | None = None) -> None:
        self.path = Path(path)
        self.redo = redo
        self.file = Path(file) if file else None
        self._description: dict[str, Any] = {}
        self._made_elsewhere: dict[Key, Any] = {}

    def begin(self, description: Mapping[str, Any]) -> None:
        """Writes ``run.json``, or checks that the folder belongs to the same run. Reads ``file``.

        Args:
            description: everything that determines the figures, as plain values.

        Raises:
            EvaluationError: the folder or the file holds another run, or the file is damaged.
            StorageError: the folder or the file cannot be written.
        """
        file = self.path / "run.json"
        new = json.loads(json.dumps({"format": FORMAT, **description}))
        if self.file is not None:
            check_writable(self.file)
            if self.file.is_file():
                old, self._made_elsewhere = _read_results(self.file, self.record)
                self._check_same(new, old, self.file, "Give another --results file.")
        if file.is_file():
            advice = "Give another --out folder, or delete this one."
            self._check_same(new, _read_description(file), self.path, advice)
        elif self.path.is_dir() and any(not is_ignored(path) for path in self.path.iterdir()):
            raise EvaluationError(
                f"'{self.path}' holds other files, not results of a benchmark. Give another --out folder."
            )
        write_text(json.dumps(new, indent=1), file)
        self._description = new

    def _check_same(self, new: dict[str, Any], old: dict[str, Any], place: Path, advice: str) -> None:
        """Checks that two descriptions are of one run. Optional entries are taken over from each other."""
        for name in self.optional_entries:
            if new.get(name) is None or old.get(name) is None:
                new[name] = old[name] = new.get(name) or old.get(name)
        changed = next((name for name in (*new, *old) if new.get(name) != old.get(name)), None)
        if changed is not None:
            raise EvaluationError(
                f"'{place}' holds results of another run: {changed} was {old.get(changed)!r}, "
                f"now it is {new.get(changed)!r}. {advice}"
            )

    def finished(self) -> dict[Key, Any]:
        """Returns every stored outcome. A file in the folder that cannot be read counts as missing."""
        outcomes = dict(self._made_elsewhere)
        for file in sorted(self.path.glob(f"{self.subfolder}/*/*.json")):
            try:
                outcome = read_record(self.record, parse_json(file.read_bytes(), finite=False), finite=False)
            except (OSError, ValueError):
                continue
            if _is_complete(outcome):
                outcomes[outcome.key] = outcome
        return outcomes

    def made_by(
        self, recipes: Mapping[str, Mapping[str, Any]], methods: Sequence[str] = ()
    ) -> dict[Key, Any]:
        """Returns the stored outcomes that these recipes made.

        Args:
            recipes: method -> recipe, see ``BenchmarkSettings.recipes``. Outcomes without a recipe fit where
                their method has none. All outcomes fit if there are none.
            methods: the methods of this run, whose recipes are stored to explain a change. Other methods'
                outcomes are left out if they do not fit.

        Raises:
            EvaluationError: an outcome of a method of this run does not fit, and ``redo`` is false.
        """
        finished = self.finished()
        if not recipes:
            return finished
        digests = {method: recipe_digest(recipe) for method, recipe in recipes.items()}
        known = self._recipes()
        for key, outcome in finished.items():
            if key[0] in methods and outcome.recipe != digests.get(key[0], "") and not self.redo:
                changed = _first_change(known.get(outcome.recipe, {}), recipes.get(key[0], {}))
                raise EvaluationError(
                    f"'{self.path}' holds results of another run: {key[0]}: {changed}. Give another --out "
                    f"folder, or {self.redo_advice}."
                )
        known |= {digests[method]: recipes[method] for method in methods if method in recipes}
        if methods:
            write_text(json.dumps(known, indent=1), self.path / "recipes.json")
        return {
            key: outcome for key, outcome in finished.items() if digests.get(key[0], "") == outcome.recipe
        }

    def _recipes(self) -> dict[str, Any]:
        """The stored recipes by their digest. They only explain a change, so a damaged file has none."""
        try:
            known = parse_json((self.path / "recipes.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def write(self, outcome: Any, images: Sequence[Tensor]) -> None:
        """Stores an outcome and its images [H, W, 3] in 0..1.

        An infinite figure is kept as ``Infinity``, which is no JSON, so that it is the same when it is read.
        """
        method, source, seed = outcome.key
        for index, image in enumerate(images):
            save_image(to_image(image), self.image(source, method, seed, index))
        write_text(
            json.dumps(asdict(outcome), indent=1),
            self.path / self.subfolder / source / f"{method}-{seed}.json",
        )

    def write_file(self) -> None:
        """Writes all outcomes to ``file``, one a line, if there is one. Does nothing before ``begin``.

        Raises:
            StorageError: it cannot be written.
        """
        if self.file is not None and self._description:
            found = self.finished()
            lines = [self._description, *(asdict(found[key]) for key in sorted(found))]
            write_text("".join(f"{json.dumps(line)}\n" for line in lines), self.file)

    def image(self, source: str, method: str, seed: int, index: int) -> Path:
        """Path of an image that a method made of an effect or item. Results from ``file`` have none."""
        return self.path / self.subfolder / source / f"{method}-{seed}-{index}.png"


def report_json(content: Any) -> str:
    """Returns the JSON text of a report.

    JSON has no numbers that are not finite, such as the PSNR of equal images. They become null.
    """
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """Returns the identity of a recipe, see ``BenchmarkSettings.recipes``."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _first_change(old: Any, new: Any, name: str = "") -> str:
    """The first entry that differs between two recipes, as ``attention.tokens was 4, now it is 16``."""
    if isinstance(old, dict) and isinstance(new, Mapping) and (old or name):
        for entry in dict.fromkeys((*new, *old)):
            if json.dumps(old.get(entry)) != json.dumps(new.get(entry)):
                return _first_change(old.get(entry), new.get(entry), f"{name}.{entry}" if name else entry)
    return f"{name} was {old!r}, now it is {new!r}" if name else "it was made with other settings"


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description = parse_json(file.read_bytes())
    except (OSError, ValueError):
        description = None
    if not isinstance(description, dict):
        raise EvaluationError(
            f"'{file}' is damaged, so it is not known which run made these results. "
            "Give another --out folder, or delete this one."
        )
    return description


def _read_results(file: Path, kind: type) -> tuple[dict[str, Any], dict[Key, Any]]:
    """The description and the outcomes of a file that ``ResultFolder.write_file`` wrote."""
    number = 1
    try:
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        description = parse_json(first)
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise ValueError("it does not describe a run")
        outcomes = {}
        for line in lines:
            number += 1
            outcome = read_record(kind, parse_json(line, finite=False), finite=False)
            if not _is_complete(outcome):
                raise ValueError("figures are missing")
            outcomes[outcome.key] = outcome
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"'{file}' cannot be read as a file of results (line {number}: {error}). Give another --results "
            "file, or get this one again."
        ) from error
    return description, outcomes


def _is_complete(outcome: Any) -> bool:
    """Whether all lists of figures have the same length, which is not zero."""
    counts = {len(value) for value in asdict(outcome).values() if isinstance(value, tuple)}
    return len(counts) == 1 and 0 not in counts


def complete(finished: Mapping[Key, Any], keys: Iterable[Key]) -> list[Any]:
    """Returns the outcomes of the keys, in their order.

    Raises:
        EvaluationError: an outcome is missing.
    """
    outcomes = []
    for method, source, seed in keys:
        if (method, source, seed) not in finished:
            raise EvaluationError(
                f"The result of '{method}' on '{source}' with seed {seed} is missing. "
                "Start the run again to complete it."
            )
        outcomes.append(finished[method, source, seed])
    return outcomes
