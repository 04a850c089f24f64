"""A vision-language model in a run on items: what it answers to an image and words, and its states of them, are computed once, whatever the seeds."""

import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ...encoders.mllm import Mllm
from ...errors import StorageError
from ...reasoning.explain import STRICT_TASK, TASK, Explanation, explain
from ...reasoning.state_cache import StateStore, kept_states, state_key
from ...storage.files import write_text
from ...storage.json_text import parse_json, read_record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """The model of ``--mllm``, and what it was asked before."""

    mllm: Mllm
    """Its weights are read when something is asked for the first time."""
    cache: Path | None = None
    """Folder in which answers and states are kept for the run's other processes and for later runs; None keeps them in memory alone."""
    _answers: dict[str, Explanation] = field(default_factory=dict)

    @cached_property
    def _states(self) -> StateStore:
        return StateStore(self.cache)

    def explained(self, image: Tensor, words: str) -> Explanation:
        """Which edit of an image [H, W, 3] the words ask for; see :func:`~...reasoning.explain.explain`. A log's warning says where the words themselves
        are taken because no answer could be used.

        Raises:
            ModelError: the image does not fit, or the words are too many for the model.
        """
        key = state_key(self.mllm, image, words, f"{TASK}\n{STRICT_TASK}")
        found = self._answers.get(key) or self._kept(key)
        if found is None:
            found = explain(self.mllm, image, words)
            if found.fallback:
                logger.warning(found.warning)
            if self.cache is not None:
                try:
                    write_text(json.dumps(asdict(found)), self.cache / f"{key}.json")
                except StorageError as error:
                    logger.warning("%s The model will be asked again.", error)
        self._answers[key] = found
        return found

    def states(self, image: Tensor, words: str, task: str) -> tuple[Tensor, Tensor]:
        """States of an image [H, W, 3] and words, fp32 [1, L, D], and bool [1, L], true where they count.

        Raises:
            ModelError: as :meth:`explained`.
        """
        return kept_states(self.mllm, [image], [words], self._states, task)

    def _kept(self, key: str) -> Explanation | None:
        """An answer in the folder; a damaged file counts as none."""
        if self.cache is None:
            return None
        try:
            return read_record(Explanation, parse_json((self.cache / f"{key}.json").read_bytes()))
        except (OSError, ValueError):
            return None
