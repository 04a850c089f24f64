"""What a learning run leaves when it is stopped: a checkpoint and an instruction of what was learned so far, in ``output/instructions/unfinished``."""

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
from ..folders import paths

_PLACE = f"output/{paths.INSTRUCTIONS}/unfinished"


class Unfinished:
    """The files of one run.

    Args:
        trainer: the run.
        image: the instruction's thumbnail.
    """

    def __init__(self, trainer: Trainer, image: Image.Image) -> None:
        self._trainer, self._image = trainer, image
        folder, name = paths.unfinished(), trainer.digest()[:12]
        self._checkpoint, self._instruction = folder / f"{name}.checkpoint", folder / f"{name}{paths.SUFFIX}"
        self._damaged = folder / f"{name}.damaged"

    def take_up(self) -> str:
        """Go on from the checkpoint, where there is one. One that is damaged is set aside. Returns what a user should know."""
        if not os.path.exists(self._checkpoint):
            return ""
        try:
            load_checkpoint(self._trainer, self._checkpoint, "Learning begins anew.")
        except LearningError as error:
            with suppress(OSError):
                self._checkpoint.replace(self._damaged)
            logging.warning("InstructBrush: %s", error)
            return str(error)
        done, wanted = self._trainer.steps_done, self._trainer.settings.steps
        logging.info("InstructBrush: going on from step %d of a run that was stopped.", done)
        return (
            f"{done} steps were done before, and count although {wanted} are asked for"
            if done > wanted
            else ""
        )

    def save_checkpoint(self) -> None:
        """Write the checkpoint.

        Raises:
            WorthlessError: the loss is not finite.
            StorageError: it cannot be written.
        """
        self._trainer.check_finite()
        save_checkpoint(self._trainer, self._checkpoint)

    def keep(self, why: str) -> str:
        """Write both files, elsewhere where they cannot be written here.

        Args:
            why: the run ends.

        Returns:
            What became of them, for the user; empty where there was nothing worth keeping.
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
                f"It was kept in {kept}; move both files to {_PLACE} to go on"
                if kept
                else "It could be kept nowhere else"
            )
            return f"{why} at step {steps}. {error} {where}"
        return f"{why} at step {steps}, kept as {_PLACE}/{self._instruction.name}; run it again with the same settings to go on"

    def _write(self, folder: Path) -> None:
        save_checkpoint(self._trainer, folder / self._checkpoint.name)
        instruction = self._trainer.instruction(self._instruction.stem)
        save_instruction(instruction, folder / self._instruction.name, overwrite=True, thumbnail=self._image)

    def remove(self) -> None:
        """Remove what the run left earlier: it came to its end, or must not be gone on with."""
        for file in (self._checkpoint, self._instruction, self._damaged):
            with suppress(OSError):
                file.unlink(missing_ok=True)
