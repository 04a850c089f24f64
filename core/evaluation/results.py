"""Results on disk: a JSON file and images for every method, effect and seed, so that a run that was stopped goes on where it was."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..errors import EvaluationError
from ..storage.files import is_unfinished, write_text
from ..storage.images import save_image, to_image
from ..storage.json_text import parse_json, read_record
from .by_example.effects import Effect
from .by_instruction.items import Item, Score, prepared

FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """What one method reached on one effect with one seed. Figures of single images are in the order of the test images."""

    effect: str
    scope: str
    method: str
    seed: int
    psnr: tuple[float, ...]
    """dB."""
    ssim: tuple[float, ...]
    lpips: tuple[float, ...] | None
    """None where no backbone was given."""
    direction: float
    """InstructBrush's Direction of the whole effect."""
    image_similarity: tuple[float, ...]
    """InstructPix2Pix's cos(E(in), E(out))."""
    init_text: str = ""
    final_loss: float | None = None
    seconds: float = 0.0
    """Wall time of learning and editing."""

    @property
    def key(self) -> tuple[str, str, int]:
        """(method, effect, seed)."""
        return self.method, self.effect, self.seed


class ResultFolder:
    """The folder of one run. Every file appears by a rename, the JSON after its images: what is there is whole."""

    record: ClassVar[type] = Outcome
    """What is kept of each method: a dataclass of plain values with a ``key`` (method, effect, seed)."""
    home: ClassVar[str] = "effects"
    """The folder within."""
    later: ClassVar[tuple[str, ...]] = ()
    """Entries of a run's description that only some methods depend on: None while none of them was run, and so they may come later."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def begin(self, description: Mapping[str, Any]) -> None:
        """Say what is run here, or check that it is the same run as before.

        Args:
            description: everything that figures depend on, as plain values.

        Raises:
            EvaluationError: the folder holds another run.
            StorageError: it cannot be written to.
        """
        file = self.path / "run.json"
        wanted = json.loads(json.dumps({"format": FORMAT, **description}))
        if file.is_file():
            try:
                found = parse_json(file.read_bytes())
            except (OSError, ValueError):
                found = None
            if not isinstance(found, dict):
                raise EvaluationError(
                    f"'{file}' is damaged, so it is unknown what its results are of. Give another --out folder, or delete this one."
                )
            for name in self.later:
                if wanted.get(name) is None or found.get(name) is None:
                    wanted[name] = found[name] = wanted.get(name) or found.get(name)
            other = next((name for name in (*wanted, *found) if wanted.get(name) != found.get(name)), None)
            if other is not None:
                raise EvaluationError(
                    f"'{self.path}' holds results of another run: {other} was {found.get(other)!r}, now it is {wanted.get(other)!r}. "
                    "Give another --out folder, or delete this one."
                )
        elif self.path.is_dir() and any(not is_unfinished(path) for path in self.path.iterdir()):
            raise EvaluationError(
                f"'{self.path}' holds other files and no benchmark's results. Give another --out folder."
            )
        write_text(json.dumps(wanted, indent=1), file)

    def finished(self) -> dict[tuple[str, str, int], Any]:
        """Every outcome that is there. A file that cannot be read counts as missing."""
        found = {}
        for file in sorted(self.path.glob(f"{self.home}/*/*.json")):
            try:
                outcome = read_record(self.record, parse_json(file.read_bytes(), finite=False), finite=False)
            except (OSError, ValueError):
                continue
            if _is_whole(outcome):
                found[outcome.key] = outcome
        return found

    def write(self, outcome: Any, images: Sequence[Tensor]) -> None:
        """Keep an outcome and its images [H, W, 3] in 0..1."""
        method, effect, seed = outcome.key
        for index, image in enumerate(images):
            save_image(to_image(image), self.image(effect, method, seed, index))
        write_text(
            json.dumps(asdict(outcome), indent=1), self.path / self.home / effect / f"{method}-{seed}.json"
        )

    def write_effect(self, effect: Effect) -> None:
        """Keep the effect's own images for the report: training pairs, test inputs and truth."""
        folder = self.path / self.home / effect.name
        for kind, pairs in (("pair", effect.train), ("test", effect.test)):
            for index, pair in enumerate(pairs):
                for side, image in enumerate((pair.before, pair.after)):
                    path = folder / f"{kind}-{index}_{side}.png"
                    if not path.exists():
                        save_image(to_image(image), path)

    def image(self, effect: str, method: str, seed: int, index: int) -> Path:
        """Where a method's image is kept."""
        return self.path / self.home / effect / f"{method}-{seed}-{index}.png"


class ItemFolder(ResultFolder):
    """The folder of a run on a benchmark of items."""

    record = Score
    home = "items"
    later = ("instruction", "mllm", "connector", "tuned_model")

    def write_item(self, item: Item, side: int | None) -> None:
        """Keep the item's own images for the report, at the size they are edited in: each turn's source, and its truth where there is one."""
        for index, turn in enumerate(item.turns):
            for kind, image in (("source", turn.source), ("truth", turn.truth)):
                path = self.own(item.name, kind, index)
                if image is not None and not path.exists():
                    save_image(to_image(prepared(image, side)), path)

    def own(self, item: str, kind: str, turn: int) -> Path:
        """Where an item's own ``source`` or ``truth`` is kept."""
        return self.path / self.home / item / f"{kind}-{turn}.png"


def _is_whole(outcome: Any) -> bool:
    """Whether there is a figure of every image, and as many of each kind."""
    counts = {len(value) for value in asdict(outcome).values() if isinstance(value, tuple)}
    return len(counts) == 1 and 0 not in counts


def complete(finished: Mapping[tuple[str, str, int], Any], keys: Iterable[tuple[str, str, int]]) -> list[Any]:
    """The outcomes of some keys, in their order.

    Raises:
        EvaluationError: one is missing.
    """
    wanted = list(keys)
    for method, effect, seed in wanted:
        if (method, effect, seed) not in finished:
            raise EvaluationError(
                f"The result of '{method}' on '{effect}' with seed {seed} is missing. Start the run again to complete it."
            )
    return [finished[key] for key in wanted]
