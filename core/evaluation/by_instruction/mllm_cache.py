"""A vision-language model whose answers and states are cached, because all seeds of a run need the same."""

import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ...encoders.mllm import Mllm
from ...errors import StorageError
from ...reasoning.explain import STRICT_TASK, TASK, Explanation, explain
from ...reasoning.state_cache import StateStore, cached_states, state_key
from ...storage.files import write_text
from ...storage.json_text import parse_json, read_record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedMllm:
    """A vision-language model with its cache."""

    mllm: Mllm
    """Reads its weights when it is first used."""
    cache: Path | None = None
    """Folder for answers and states, shared with other processes and later runs; None caches in memory."""
    _answers: dict[str, Explanation] = field(default_factory=dict)

    @cached_property
    def _states(self) -> StateStore:
        return StateStore(self.cache)

    def explain_edit(self, image: Tensor, words: str) -> Explanation:
        """Returns the edit of an image [H, W, 3] that the words ask for, see core/reasoning/explain.py.

        Logs a warning if no answer was usable and the words themselves are used.

        Raises:
            ModelError: the image does not fit the model, or the text is too long for it.
        """
        key = state_key(self.mllm, image, words, f"{TASK}\n{STRICT_TASK}")
        explanation = self._answers.get(key) or self._read_answer(key)
        if explanation is None:
            explanation = explain(self.mllm, image, words)
            if explanation.fallback:
                logger.warning(explanation.warning)
            if self.cache is not None:
                try:
                    write_text(json.dumps(asdict(explanation)), self.cache / f"{key}.json")
                except StorageError as error:
                    logger.warning("%s The model is asked again.", error)
        self._answers[key] = explanation
        return explanation

    def states(self, image: Tensor, words: str, task: str) -> tuple[Tensor, Tensor]:
        """Returns the states of an image [H, W, 3] and words, fp32 [1, L, D], and their mask, bool [1, L].

        Raises:
            ModelError: the image does not fit the model, or the text is too long for it.
        """
        return cached_states(self.mllm, [(image, words)], self._states, task)

    def _read_answer(self, key: str) -> Explanation | None:
        """Returns an answer from the folder; None if the file is missing or damaged."""
        if self.cache is None:
            return None
        try:
            return read_record(Explanation, parse_json((self.cache / f"{key}.json").read_bytes()))
        except (OSError, ValueError):
            return None
