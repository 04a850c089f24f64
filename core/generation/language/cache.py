"""Answers on disk, found by the content of the question. The same question is never paid for twice."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import StorageError
from ...storage.files import write_text
from ...storage.json_text import parse_json, read_record
from ..locks import locked
from .models import Answer, LanguageModel, Question, check_image

logger = logging.getLogger(__name__)

FORMAT = 1
# Largest file that is read. Questions and answers are texts; images are stored as hashes.
_MOST_BYTES = 8_000_000
# A process holds the lock for the time of one small write.
_LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Usage:
    """What a model's answers took."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unmeasured: int = 0
    """Answers whose model does not say how many tokens they took."""

    def cost(self, prices: tuple[float, float]) -> float:
        """Returns the cost, in the unit of the prices of a million tokens, in and out."""
        return (self.input_tokens * prices[0] + self.output_tokens * prices[1]) / 1e6


class AnswerCache:
    """A folder with one file for each answer: ``ab/<sha256>.json``. Several processes may share it.

    Damaged files count as missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, model: LanguageModel, question: Question) -> Answer | None:
        """Returns the answer that a model gave to a question, or None."""
        return self._read(self._file(_key(model, question)))

    def put(self, model: LanguageModel, question: Question, answer: Answer) -> Answer:
        """Stores an answer, whole or not at all, and returns the stored one: the first that a process stored.

        Raises:
            StorageError: the file cannot be written.
        """
        path = self._file(_key(model, question))
        entry = {
            "format": FORMAT,
            "model": model.name,
            "fingerprint": model.fingerprint,
            "question": question.facts,
            "answer": {**vars(answer)},
        }
        try:
            with locked(path.parent / ".lock", _LOCK_SECONDS):
                first = self._read(path)
                if first is not None:
                    return first
                write_text(json.dumps(entry, ensure_ascii=False, indent=1) + "\n", path)
        except OSError as error:
            raise StorageError(
                f"An answer cannot be kept in {path.parent}: {error}. Check that the folder is writable and "
                "supports locks. Then run the same command again: nothing is lost."
            ) from error
        # What is read back is what every later run reads.
        return self._read(path) or answer

    def usage(self) -> dict[str, Usage]:
        """Sums what is stored by the model's name. Each answer counts once, however often it was used."""
        sums: dict[str, Usage] = {}
        for entry in self._entries():
            answer, so_far = _answer(entry), sums.get(entry["model"], Usage())
            sums[entry["model"]] = Usage(
                so_far.answers + 1,
                so_far.input_tokens + answer.input_tokens,
                so_far.output_tokens + answer.output_tokens,
                so_far.unmeasured + (answer.input_tokens + answer.output_tokens == 0),
            )
        return dict(sorted(sums.items()))

    def _entries(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("??/*.json")):
            entry = _entry(path)
            if entry is not None:
                yield entry

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    @staticmethod
    def _read(path: Path) -> Answer | None:
        if not path.is_file():
            return None
        entry = _entry(path)
        if entry is None:
            logger.warning("The kept answer %s is damaged; the question is asked again.", path.name)
            return None
        return _answer(entry)


class CachedModel:
    """A model whose answers are kept in a folder, and taken from there."""

    def __init__(self, model: LanguageModel, cache: AnswerCache) -> None:
        self._model = model
        self._cache = cache

    @property
    def name(self) -> str:
        """See ``LanguageModel``."""
        return self._model.name

    @property
    def fingerprint(self) -> str:
        """See ``LanguageModel``."""
        return self._model.fingerprint

    @property
    def sees_images(self) -> bool:
        """See ``LanguageModel``."""
        return self._model.sees_images

    def ask(self, question: Question) -> Answer:
        """See ``LanguageModel``. Asks the model only if there is no answer yet.

        Raises:
            StorageError: the answer cannot be kept.
        """
        check_image(self, question)
        found = self._cache.get(self._model, question)
        return found or self._cache.put(self._model, question, self._model.ask(question))


def _key(model: LanguageModel, question: Question) -> str:
    return _hash(model.name, model.fingerprint, question.facts)


def _hash(name: str, fingerprint: str, facts: Any) -> str:
    content = json.dumps([FORMAT, name, fingerprint, facts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _entry(path: Path) -> dict[str, Any] | None:
    """Reads a file. Returns None if it is damaged, too large, or not the answer that its name says."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        entry = parse_json(path.read_bytes())
        if _hash(entry["model"], entry["fingerprint"], entry["question"]) != path.stem:
            return None
        _answer(entry)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry


def _answer(entry: dict[str, Any]) -> Answer:
    answer = read_record(Answer, entry["answer"])
    if min(answer.input_tokens, answer.output_tokens) < 0:
        raise ValueError("a number of tokens is negative")
    return answer
