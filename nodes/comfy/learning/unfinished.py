"""Files of a stopped learning run, in ``output/instructions/unfinished``: a checkpoint and an instruction."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ....core.errors import LearningError, StorageError, WorthlessError
from ....core.instruction.file import save_instruction
from ....core.instruction.instruction import Instruction
from ....core.learning.checkpoint import load_checkpoint, save_checkpoint
from ....core.learning.trainer import Trainer
from ....core.storage.files import remove, write_elsewhere
from ..folders import metadata, paths

_PLACE = f"output/{paths.INSTRUCTIONS}/unfinished"


@dataclass(frozen=True)
class Kept:
    """Where the files of a stopped run are, in words."""

    text: str = ""
    """For the user; "" if there is nothing worth keeping."""
    problem: str = ""
    """The same if they are not where the next run looks for them, else ""."""


class Unfinished:
    """The files of one run.

    Args:
        trainer: the run.
        image: the instruction's thumbnail.
    """

    def __init__(self, trainer: Trainer, image: Image.Image) -> None:
        self._trainer = trainer
        self._image = image
        folder = paths.unfinished()
        name = trainer.request.digest()[:12]
        self._checkpoint = folder / f"{name}{paths.CHECKPOINT}"
        self._instruction = folder / f"{name}{paths.SUFFIX}"
        self._damaged = folder / f"{name}.damaged"

    def resume(self) -> str:
        """Resumes from the checkpoint, if there is one. Sets a damaged one aside.

        Returns:
            What the user should know, or "".
        """
        if not os.path.exists(self._checkpoint):
            return ""
        try:
            load_checkpoint(self._trainer, self._checkpoint, "Learning starts from the beginning.")
        except LearningError as error:
            with suppress(OSError):
                self._checkpoint.replace(self._damaged)
            logging.warning("InstructBrush: %s", error)
            return str(error)
        done = self._trainer.steps_done
        wanted = self._trainer.settings.steps
        logging.info("InstructBrush: resuming a stopped run at step %d.", done)
        if done <= wanted:
            return ""
        return (
            f"The stopped run already has {done} steps, more than the {wanted} asked for. All of them are "
            "kept."
        )

    def save_checkpoint(self) -> None:
        """Writes the checkpoint.

        Raises:
            WorthlessError: the loss is not finite.
            StorageError: the file cannot be written.
        """
        self._trainer.check_finite()
        save_checkpoint(self._trainer, self._checkpoint)

    def keep(self) -> Kept:
        """Writes both files, to another folder if they cannot be written here."""
        if not self._trainer.steps_done:
            return Kept()
        try:
            write = partial(self._write, self._trainer.instruction(self._instruction.stem))
            write(self._checkpoint.parent)
        except WorthlessError:
            self.remove()
            return Kept()
        except (StorageError, OSError) as error:
            folder = write_elsewhere("unfinished", write)
            where = (
                f"It is kept in {folder}; move both files to {_PLACE} to resume."
                if folder
                else "It could not be saved elsewhere either."
            )
            return Kept(f"{error} {where}", f"{error} {where}")
        return Kept(f"Kept as {_PLACE}/{self._instruction.name}. Run again with the same settings to resume.")

    def _write(self, instruction: Instruction, folder: Path) -> None:
        save_checkpoint(self._trainer, folder / self._checkpoint.name)
        save_instruction(
            instruction,
            folder / self._instruction.name,
            overwrite=True,
            thumbnail=self._image,
            extra=metadata.running_graph(),
        )

    def remove(self) -> None:
        """Removes the files of earlier attempts: the run is complete, or its checkpoint must not be resumed
        from."""
        for file in (self._checkpoint, self._instruction, self._damaged):
            with suppress(StorageError):
                remove(file)
