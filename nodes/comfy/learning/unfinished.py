"""Files of a stopped learning run, in ``output/instructions/unfinished``: a checkpoint and an instruction."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ....core.errors import LearningError, StorageError, WorthlessError
from ....core.instruction.file import save_instruction
from ....core.learning.checkpoint import load_checkpoint, save_checkpoint
from ....core.learning.trainer import Trainer
from ....core.storage.files import write_elsewhere
from ..folders import metadata, paths

_PLACE = f"output/{paths.INSTRUCTIONS}/unfinished"


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
        self._checkpoint = folder / f"{name}.checkpoint"
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
            f"the stopped run already has {done} steps, more than the {wanted} asked for; all of them are "
            "kept"
        )

    def save_checkpoint(self) -> None:
        """Writes the checkpoint.

        Raises:
            WorthlessError: the loss is not finite.
            StorageError: the file cannot be written.
        """
        self._trainer.check_finite()
        save_checkpoint(self._trainer, self._checkpoint)

    def keep(self, why: str) -> str:
        """Writes both files, to another folder if they cannot be written here.

        Args:
            why: why the run ends.

        Returns:
            A message for the user; "" if there is nothing worth keeping.
        """
        steps = self._trainer.steps_done
        if not steps:
            return ""
        try:
            self._trainer.instruction()
            self._write(self._checkpoint.parent)
        except WorthlessError:
            self.remove()
            return ""
        except (StorageError, OSError) as error:
            kept = write_elsewhere("unfinished", self._write)
            where = (
                f"It is kept in {kept}; move both files to {_PLACE} to resume"
                if kept
                else "It could not be saved elsewhere either"
            )
            return f"{why} at step {steps}. {error} {where}"
        return (
            f"{why} at step {steps}, kept as {_PLACE}/{self._instruction.name}; run it again with the same "
            "settings to resume"
        )

    def _write(self, folder: Path) -> None:
        save_checkpoint(self._trainer, folder / self._checkpoint.name)
        instruction = self._trainer.instruction(self._instruction.stem)
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
            with suppress(OSError):
                file.unlink(missing_ok=True)
