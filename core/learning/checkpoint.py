"""A learning run on disk: stopped here, continued exactly there."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LearningError, StorageError
from ..storage.files import write_elsewhere, write_tensors
from ..storage.json_text import parse_json

CHECKPOINT_SECONDS = 10.0
"""Seconds of learning to the first checkpoint."""
_SHARE = 0.02
"""Of a run's time that goes into checkpoints, at most."""
_IDENTITY_KEY = "instructbrush.identity"
_OLDER_KEY = "instructbrush.run"
"""Of checkpoints that say by a digest alone which run they belong to."""
_SHORT = 40
"""Characters of a value that a message shows; digests are longer."""


class Resumable(Protocol):
    """A run that can be saved between two steps: learning an instruction, or fine-tuning a model."""

    def identity(self) -> Mapping[str, Any]:
        """What a checkpoint must agree with: plain values, by the names that users know them by."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue exactly, with the number of steps as ``steps_done``."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state`.

        Raises:
            ValueError: it is no state of this run. The run is as it was.
        """
        ...


def save_checkpoint(trainer: Resumable, path: str | Path) -> Path:
    """Write the run's state, atomically, over an older one.

    Raises:
        StorageError: it cannot be written.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in trainer.state().items()}
    write_tensors(state, path, {_IDENTITY_KEY: json.dumps(trainer.identity())})
    return path


def keep_checkpoint(trainer: Resumable, path: Path) -> str:
    """Write the state of a run that ends here; elsewhere where it cannot be written to ``path``. Returns what a user should know then, else ""."""
    try:
        save_checkpoint(trainer, path)
    except (StorageError, OSError) as error:
        kept = write_elsewhere(path.name, lambda place: save_checkpoint(trainer, place))
        return f"{error} {f'The checkpoint was kept as {kept}: move it there to go on.' if kept else 'The checkpoint could be kept nowhere else.'}"
    return ""


def load_checkpoint(
    trainer: Resumable, path: str | Path, otherwise: str = "Remove it to begin anew."
) -> None:
    """Continue a run in a trainer that was made alike: :meth:`Resumable.identity` says in what.

    Args:
        trainer: stays as it is where the checkpoint cannot be used.
        path: of the checkpoint.
        otherwise: what a user can do where it cannot be used, for the message.

    Raises:
        LearningError: the file is missing or damaged, or belongs to another run.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            difference = _difference(file.metadata() or {}, trainer.identity())
            state = {} if difference else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if difference:
            raise LearningError(f"Checkpoint '{path.name}' {difference}. {otherwise}")
        trainer.load_state(state)
    except (SafetensorError, OSError) as error:
        raise LearningError(f"Checkpoint '{path}' cannot be read: {error}. {otherwise}") from error
    except ValueError as error:
        raise LearningError(f"Checkpoint '{path.name}' is damaged: {error}. {otherwise}") from error


def find_checkpoint(trainer: Resumable, folder: Path, pattern: str, most_steps: int) -> Path | None:
    """The newest checkpoint in a folder that a run can go on from, whatever its name.

    Args:
        trainer: the run.
        folder: where to look.
        pattern: of the names that checkpoints have there.
        most_steps: one that is further counts as none.
    """
    found: list[tuple[int, Path]] = []
    identity = trainer.identity()
    for path in folder.glob(pattern):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                if (
                    not _difference(file.metadata() or {}, identity)
                    and int(file.get_tensor("steps_done")) <= most_steps
                ):
                    found.append((path.stat().st_mtime_ns, path))
        except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError):
            continue
    return max(found)[1] if found else None


def _difference(metadata: Mapping[str, str], now: Mapping[str, Any]) -> str:
    """In what a checkpoint differs from a run, to follow its name; empty where it belongs to the run."""
    if _IDENTITY_KEY not in metadata:
        return (
            "was written by an older version, and cannot be gone on with"
            if _OLDER_KEY in metadata
            else "is no checkpoint of a learning run"
        )
    was, wanted = parse_json(metadata[_IDENTITY_KEY]), parse_json(json.dumps(now))
    if not isinstance(was, dict):
        raise ValueError("it does not say which run it belongs to")
    names = [name for name in (*wanted, *was) if was.get(name) != wanted.get(name)]
    told = [_changed(name, was.get(name), wanted.get(name)) for name in dict.fromkeys(names)]
    return (
        f"belongs to another run: {', '.join(told)} {'differs' if len(told) == 1 else 'differ'}"
        if told
        else ""
    )


def _changed(name: str, was: Any, now: Any) -> str:
    shown = [json.dumps(value, ensure_ascii=False) for value in (was, now)]
    return (
        name if any(len(value) > _SHORT for value in shown) else f"{name} ({shown[0]} there, {shown[1]} here)"
    )


class Keeper:
    """Checkpoints on the way: the first one soon, then as often as their cost allows. Where none can be written, the run goes on.

    Args:
        save: writes one.
        tell: takes a sentence: checkpoints cannot be written, or can be written again.
        every: seconds to the first one, and between two at least.
    """

    def __init__(
        self, save: Callable[[], object], tell: Callable[[str], None], every: float = CHECKPOINT_SECONDS
    ) -> None:
        self._save, self._tell, self._every = save, tell, every
        self._next = time.monotonic() + every
        self._failure = ""

    def offer(self) -> None:
        """Write a checkpoint if it is time for one; to be called between two steps."""
        began = time.monotonic()
        if began < self._next:
            return
        try:
            self._save()
            failure = ""
        except (StorageError, OSError) as error:
            failure = str(error)
        if failure and failure != self._failure:
            self._tell(f"{failure} Learning goes on, and what it learns is in memory alone for now.")
        elif self._failure and not failure:
            self._tell("The checkpoint can be written again.")
        now = time.monotonic()
        self._failure, self._next = failure, now + max(self._every, (now - began) / _SHARE)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What AdamW keeps of each parameter, as ``optimiser.{entry}.{parameter}``."""
    return {
        f"optimiser.{entry}.{name}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Give an optimizer back what :func:`optimizer_state` took; other tensors of ``state`` are left alone."""
    for name, parameter in parameters.items():
        entries = {entry: state[key].clone() for entry, key in _entries(name).items() if key in state}
        # AdamW keeps its step counter on the CPU, unless its steps can be recorded.
        optimizer.state[parameter] = {
            entry: value.to(
                "cpu" if entry == "step" and not optimizer.defaults["capturable"] else parameter.device
            )
            for entry, value in entries.items()
        }


def check_tensors(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor] | None = None,
) -> None:
    """See that a state has exactly the tensors that it should have.

    Args:
        state: to be checked.
        expected: all but the optimizer's; their values do not matter.
        parameters: what an optimizer moves, where there is one. Of one that had no gradient yet it keeps nothing.

    Raises:
        ValueError: one is missing, unknown, of another shape or type, not finite, or none that AdamW makes.
    """
    expected = dict(expected)
    for name, parameter in (parameters or {}).items():
        keys = _entries(name)
        if any(key in state for key in keys.values()):
            expected |= {
                key: torch.zeros(()) if entry == "step" else parameter for entry, key in keys.items()
            }
    foreign = min(state.keys() ^ expected.keys(), default=None)
    if foreign is not None:
        raise ValueError(f"tensor '{foreign}' is {'missing' if foreign in expected else 'unknown'}")
    for name, like in expected.items():
        found = state[name]
        if found.shape != like.shape or found.dtype != like.dtype:
            raise ValueError(f"tensor '{name}' is {_kind(found)}, not {_kind(like)}")
        if not torch.isfinite(found).all():
            raise ValueError(f"tensor '{name}' is not finite")
        if name.startswith(("optimiser.step.", "optimiser.exp_avg_sq.")) and bool((found < 0).any()):
            raise ValueError(f"tensor '{name}' is negative")


def _entries(parameter: str) -> dict[str, str]:
    """AdamW's entries of a parameter -> their names in a state."""
    return {entry: f"optimiser.{entry}.{parameter}" for entry in ("step", "exp_avg", "exp_avg_sq")}


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
