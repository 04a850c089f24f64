"""A learning run on disk: stopped here, continued exactly there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LearningError
from ..files import write_tensors

_DIGEST_KEY = "instructbrush.run"


class Resumable(Protocol):
    """A run that can be saved between two steps: learning an instruction, or fine-tuning a model."""

    def digest(self) -> str:
        """What a checkpoint must agree with."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue exactly."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        ...


def save_checkpoint(trainer: Resumable, path: str | Path) -> Path:
    """Write the run's state, atomically, over an older one."""
    path = Path(path)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in trainer.state().items()}
    write_tensors(state, path, {_DIGEST_KEY: trainer.digest()})
    return path


def load_checkpoint(trainer: Resumable, path: str | Path) -> None:
    """Continue a run in a trainer that was made from the same model, pairs, phrase and settings.

    Raises:
        LearningError: the file is missing or damaged, or belongs to another run.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            digest = (file.metadata() or {}).get(_DIGEST_KEY)
            if digest is None:
                raise LearningError(f"'{path.name}' is no checkpoint of a learning run. Choose one that learning wrote.")
            if digest != trainer.digest():
                raise LearningError(
                    f"Checkpoint '{path.name}' belongs to another run: model, pairs, words and settings must all be the same to continue. "
                    "Set them back, or start afresh."
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise LearningError(f"Checkpoint '{path}' cannot be read: {error}. Start afresh without it.") from error
    trainer.load_state(state)


def optimiser_state(optimiser: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an optimiser keeps of each parameter, as ``optimiser.{entry}.{parameter}``."""
    return {
        f"optimiser.{entry}.{name}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for entry, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Give an optimiser back what :func:`optimiser_state` took; other tensors of ``state`` are left alone."""
    entries: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for key, value in state.items():
        if key.startswith("optimiser."):
            _, entry, name = key.split(".", 2)
            # AdamW keeps its step counter on the CPU, unless its steps can be recorded.
            here = entry == "step" and not optimiser.defaults["capturable"]
            entries[name][entry] = value.clone().to("cpu" if here else parameters[name].device)
    for name, parameter in parameters.items():
        optimiser.state[parameter] = entries[name]
