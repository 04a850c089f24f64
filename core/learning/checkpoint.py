"""Checkpoints of learning and fine-tuning runs, from which a run continues exactly."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LearningError, StorageError
from ..storage.files import read_tensor, write_elsewhere, write_tensors
from ..storage.json_text import parse_json

CHECKPOINT_SECONDS = 10.0
"""Least seconds before the first checkpoint, and between two."""
# Largest share of a run's time that is spent on checkpoints.
_SHARE = 0.02
IDENTITY_KEY = "instructbrush.identity"
# Key of older checkpoints, which hold only a digest of their run's identity.
_OLDER_KEY = "instructbrush.run"
# Longest value that a message shows, in characters. Digests are longer.
_SHORT = 40


class Resumable(Protocol):
    """A run that can be saved between two steps: learning an instruction, or fine-tuning a model."""

    def identity(self) -> Mapping[str, Any]:
        """What a checkpoint must agree with: JSON values by names that users know."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that is needed to continue exactly, with the number of steps as ``steps_done``."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues from ``state``.

        Raises:
            ValueError: the state does not fit this run. Nothing is changed then.
        """
        ...


def save_checkpoint(trainer: Resumable, path: str | Path) -> Path:
    """Writes the run's state atomically, over an older checkpoint.

    Raises:
        StorageError: the file cannot be written.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in trainer.state().items()}
    write_tensors(state, path, {IDENTITY_KEY: json.dumps(trainer.identity())})
    return path


def keep_checkpoint(trainer: Resumable, path: Path) -> str:
    """Writes the state of a run that ends early, to another folder if ``path`` cannot be written.

    Returns:
        A message for the user if the checkpoint is not at ``path``, else "".
    """
    try:
        save_checkpoint(trainer, path)
    except (StorageError, OSError) as error:
        kept = write_elsewhere(path.name, lambda place: save_checkpoint(trainer, place))
        if kept:
            return f"{error} The checkpoint is kept as {kept}: move it there to resume."
        return f"{error} The checkpoint could not be saved elsewhere either."
    return ""


def load_checkpoint(
    trainer: Resumable, path: str | Path, otherwise: str = "Remove it to start again."
) -> None:
    """Continues a run from its checkpoint.

    Args:
        trainer: a run of the same identity. It is unchanged if the checkpoint cannot be used.
        path: the checkpoint.
        otherwise: what a user can do if the checkpoint cannot be used, for the message.

    Raises:
        LearningError: the file is missing or damaged, or belongs to another run.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            difference = _difference(file.metadata() or {}, trainer.identity())
            if difference:
                raise LearningError(f"Checkpoint '{path.name}' {difference}. {otherwise}")
            # The file is not a mapping.
            state = {name: read_tensor(file, name) for name in file.keys()}  # noqa: SIM118
        trainer.load_state(state)
    except (SafetensorError, OSError) as error:
        raise LearningError(f"Checkpoint '{path}' cannot be read: {error}. {otherwise}") from error
    except ValueError as error:
        raise LearningError(f"Checkpoint '{path.name}' is damaged: {error}. {otherwise}") from error


def find_checkpoint(trainer: Resumable, folder: Path, pattern: str, most_steps: int) -> Path | None:
    """Finds the newest checkpoint in a folder that a run can resume from.

    Args:
        trainer: the run.
        folder: where to look.
        pattern: glob pattern of the checkpoints' names.
        most_steps: checkpoints with more steps are ignored.
    """
    found: list[tuple[int, Path]] = []
    identity = trainer.identity()
    for path in folder.glob(pattern):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                same_run = not _difference(file.metadata() or {}, identity)
                if same_run and int(file.get_tensor("steps_done")) <= most_steps:
                    found.append((path.stat().st_mtime_ns, path))
        except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError):
            continue
    return max(found)[1] if found else None


def _difference(metadata: Mapping[str, str], now: Mapping[str, Any]) -> str:
    """Says how a checkpoint differs from a run, as words that follow its name; empty if it does not.

    Raises:
        ValueError: the checkpoint's identity cannot be read.
    """
    if _OLDER_KEY in metadata and IDENTITY_KEY not in metadata:
        return "was written by an older version, which this one cannot resume"
    if IDENTITY_KEY not in metadata:
        return "is not a checkpoint of a learning run"
    was = parse_json(metadata[IDENTITY_KEY])
    if not isinstance(was, dict):
        raise ValueError("it does not say which run it belongs to")
    wanted = parse_json(json.dumps(now))
    names = [name for name in dict.fromkeys((*wanted, *was)) if was.get(name) != wanted.get(name)]
    if not names:
        return ""
    changes = ", ".join(_changed(name, was.get(name), wanted.get(name)) for name in names)
    return f"belongs to another run: {changes} {'differs' if len(names) == 1 else 'differ'}"


def _changed(name: str, was: Any, now: Any) -> str:
    there = json.dumps(was, ensure_ascii=False)
    here = json.dumps(now, ensure_ascii=False)
    if max(len(there), len(here)) > _SHORT:
        return name
    return f"{name} ({there} there, {here} here)"


class CheckpointSchedule:
    """Writes checkpoints during a run: the first one soon, then as often as their cost allows. A checkpoint
    that cannot be written does not stop the run.

    Args:
        save: writes a checkpoint.
        tell: receives a sentence when checkpoints cannot be written, or can be written again.
        every: least seconds before the first checkpoint, and between two.
    """

    def __init__(
        self, save: Callable[[], object], tell: Callable[[str], None], every: float = CHECKPOINT_SECONDS
    ) -> None:
        self._save = save
        self._tell = tell
        self._every = every
        self._next = time.monotonic() + every
        self._failure = ""

    def save_if_due(self) -> None:
        """Writes a checkpoint if it is time for one. Call it between two steps."""
        began = time.monotonic()
        if began < self._next:
            return
        failure = ""
        try:
            self._save()
        except (StorageError, OSError) as error:
            failure = str(error)
        if failure and failure != self._failure:
            self._tell(f"{failure} Learning continues; what it learns is only in memory for now.")
        elif self._failure and not failure:
            self._tell("The checkpoint can be written again.")
        now = time.monotonic()
        self._failure = failure
        self._next = now + max(self._every, (now - began) / _SHARE)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's state of each parameter, as ``optimiser.{entry}.{parameter}``."""
    return {
        f"optimiser.{entry}.{name}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Restores what ``optimizer_state`` returned; ignores other tensors of ``state``."""
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
    """Checks that a state has exactly the expected tensors.

    Args:
        state: the state.
        expected: tensors of the right shape and type, without the optimizer's; their values do not matter.
        parameters: the optimizer's parameters. A parameter that had no gradient yet has no optimizer state.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or type, not finite or not AdamW's.
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
