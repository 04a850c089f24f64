"""Instruction files of single steps, in ``output/instructions/steps``, to compare them."""

import re
from collections.abc import Callable

from PIL import Image

from ....core.errors import StorageError, WorthlessError
from ....core.instruction.file import save_instruction
from ....core.learning.trainer import Trainer
from ..folders import metadata, paths

_LONGEST = 40


class SavedSteps:
    """Writes the instruction as it is after a step.

    Args:
        trainer: the run.
        image: the thumbnail.
        tell: receives a sentence if a file cannot be written; learning continues.
    """

    def __init__(self, trainer: Trainer, image: Image.Image, tell: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._image = image
        self._tell = tell
        # The digest keeps runs with the same words but other pairs or settings apart.
        self._name = f"{_file_name(trainer.request.init_text.text)}_{trainer.request.digest()[:6]}"

    def save(self) -> None:
        """Writes ``<words>_<run>_<step>.safetensors``, over a file of the same run and step."""
        name = f"{self._name}_{self._trainer.steps_done:05d}"
        try:
            instruction = self._trainer.instruction(name)
            path = paths.saved_steps() / f"{name}{paths.SUFFIX}"
            save_instruction(
                instruction, path, overwrite=True, thumbnail=self._image, extra=metadata.running_graph()
            )
        except WorthlessError:
            return  # the check of the losses says so, if learning does not go on
        except (StorageError, OSError) as error:
            self._tell(f"{error} Learning continues.")


def _file_name(words: str) -> str:
    """The words as a name, such as ``make_it_snowy``."""
    return re.sub(r"[^\w-]+", "_", words.lower())[:_LONGEST].strip("_") or "instruction"
