"""A learning run on disk: stopped here, continued exactly there."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import LearningError
from ..instruction.file import write_tensors
from .trainer import Trainer

_DIGEST_KEY = "instructbrush.run"


def save_checkpoint(trainer: Trainer, path: str | Path) -> Path:
    """Write the run's state, atomically, over an older one."""
    path = Path(path)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in trainer.state().items()}
    write_tensors(state, path, {_DIGEST_KEY: trainer.digest()})
    return path


def load_checkpoint(trainer: Trainer, path: str | Path) -> None:
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
                    f"Checkpoint '{path.name}' belongs to another run: model, pairs, init text and settings must all be the same to continue. "
                    "Set them back, or start afresh."
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise LearningError(f"Checkpoint '{path}' cannot be read: {error}. Start afresh without it.") from error
    trainer.load_state(state)
