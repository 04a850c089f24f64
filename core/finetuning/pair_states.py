"""States of a vision-language model for all pairs of a data set, made once and kept in a folder: the model is loaded only while some are missing.

They are taken on the whole source image as it is stored, which is what Encode Instruction shows the model later, and not on what a training sample's crop
leaves of it: so they do not depend on crops, and an image has them once for each of its texts. A list beside them says which are whose, so that a run whose
states are all there goes on without the model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.random import Generator
from torch import Tensor
from tqdm import tqdm

from ..encoders.mllm import Mllm
from ..errors import DataError, LearningError, ModelError, PairError, StorageError
from ..reasoning.state_cache import VERSION, StateStore, kept_states, state_key
from ..storage.files import write_text
from ..storage.json_text import parse_json, read_record
from .dataset import Block, Row, digest_of

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

INDEX = "states.json"
"""The list, in the folder of the states."""

Chat = tuple[Row, tuple[str, ...]]
"""A pair, and all texts that the model reads with its image."""


@dataclass(frozen=True)
class Reader:
    """What states were made with."""

    name: str
    fingerprint: str
    """Of the MLLM."""
    width: int
    """D."""
    dtype: str
    bits: int | None
    task: str

    @classmethod
    def of(cls, mllm: Mllm, task: str) -> Reader:
        """An MLLM with a task."""
        return cls(
            mllm.name, mllm.fingerprint, mllm.width, str(mllm.dtype).removeprefix("torch."), mllm.bits, task
        )

    def __str__(self) -> str:
        return f"'{self.name}' in {f'{self.bits} bits' if self.bits else self.dtype} (asked '{self.task}')"


@dataclass(frozen=True)
class _List:
    """The list as its file has it."""

    version: str
    reader: Mapping[str, Any]
    keys: Mapping[str, Any]
    data: tuple[str, ...]


@dataclass(frozen=True)
class PairStates:
    """The states of pairs, on disk.

    Attributes:
        folder: where they are.
        reader: what they were made with.
        keys: :func:`chat_digest` -> :func:`~..reasoning.state_cache.state_key`.
        data: :attr:`Texts.digest` of the data that all of it is here for.
    """

    folder: Path
    reader: Reader
    keys: Mapping[str, str]
    data: tuple[str, ...]

    def of(self, row: Row, words: str) -> Tensor:
        """The states [L, D] of a pair's source image with words, in the precision they were computed in. Safe to call from several threads.

        Raises:
            LearningError: there are none, or they are damaged.
        """
        key = self.keys.get(chat_digest(row, words))
        # A store of its own for each call: threads share nothing, and nothing stays in memory.
        states = None if key is None else StateStore(self.folder, most_memory=0).get(key)
        if states is None:
            raise LearningError(
                f"Pair '{row.name}': its states are not in '{self.folder}' any more, or its image has changed. Delete {self.folder / INDEX} and go on with "
                "--resume: what is missing is made again."
            )
        return states

    def has_all_of(self, data: str, watched: Sequence[Chat]) -> bool:
        """Whether all states of some data are here, and of further pairs."""
        store = StateStore(self.folder)
        listed = data in self.data and all(
            chat_digest(row, words) in self.keys for row, texts in watched for words in texts
        )
        return listed and all(store.has(key) for key in self.keys.values())

    def write(self) -> None:
        """Write the list, by one rename at the end."""
        content = {
            "version": VERSION,
            "reader": dataclasses.asdict(self.reader),
            "data": self.data,
            "keys": dict(self.keys),
        }
        write_text(json.dumps(content), self.folder / INDEX)

    @classmethod
    def read(cls, folder: Path) -> PairStates | None:
        """The list that a folder has; None where there is none that this version can use, so that it is made again."""
        try:
            told = read_record(_List, parse_json((folder / INDEX).read_bytes()))
            reader = read_record(Reader, told.reader)
        except (OSError, ValueError):
            return None
        # Keys name files: hex digits lead nowhere else.
        sound = told.version == VERSION and all(
            isinstance(key, str) and re.fullmatch("[0-9a-f]+", key) for key in told.keys.values()
        )
        return cls(folder, reader, told.keys, told.data) if sound else None


@dataclass(frozen=True)
class Texts:
    """Which texts of pairs are used: the direct instruction, the indirect ones, or all.

    Attributes:
        indirect: chance of an indirect instruction where there are both. At 0 and 1 the other kind is used only where it is the only one.
    """

    indirect: float

    def kinds(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The direct instruction of a pair, if it may be drawn, and its indirect ones that may. Both are empty where the pair has no words."""
        direct = (row.words.strip(),) if row.words.strip() else ()
        indirect = row.reasoning if self.indirect > 0 or not direct else ()
        return (direct if self.indirect < 1 or not indirect else (), indirect)

    def of(self, row: Row) -> tuple[str, ...]:
        """All texts of a pair that may be drawn."""
        direct, indirect = self.kinds(row)
        return direct + indirect

    def draw(self, row: Row, rng: Generator) -> str:
        """One text of a pair, "" where it has none."""
        direct, indirect = self.kinds(row)
        some = indirect if indirect and (not direct or rng.random() < self.indirect) else direct
        return some[int(rng.integers(len(some)))] if some else ""

    def chats(self, blocks: Sequence[Block]) -> Iterator[Chat]:
        """Every pair with its texts; those of a damaged file are left out, with a warning."""
        for block in blocks:
            try:
                rows = block.rows()
            except (DataError, PairError) as error:
                logger.warning("instructbrush: skipped: %s", error)
                continue
            yield from ((row, self.of(row)) for row in rows)

    def digest(self, blocks: Sequence[Block]) -> str:
        """Hex digits that say which states are needed for some data."""
        return hashlib.sha256(
            repr((digest_of(blocks), self.indirect > 0, self.indirect < 1)).encode()
        ).hexdigest()


def chat_digest(row: Row, words: str) -> str:
    """Hex digits of a pair's source image, as it is stored, and words; of nothing that a model must be loaded for."""
    return hashlib.sha256(words.encode() + b"\0" + row.before.stored()).hexdigest()[:40]


def states_of_pairs(
    folder: Path,
    load: Callable[[], Mllm],
    name: str,
    task: str,
    texts: Texts,
    blocks: Sequence[Block],
    watched: Sequence[Chat],
    at_once: int,
    accelerator: Accelerator,
) -> PairStates:
    """All states that a run needs. What is missing is computed, by all processes together, and kept; then the MLLM is let go of.

    Args:
        folder: of the states; all processes must see it.
        load: opens the MLLM lazily. It may fail where all states are there and are ``name``'s.
        name: of the MLLM.
        task: that comes before the words, see :mod:`..encoders.mllm`.
        texts: which texts are used.
        blocks: the data.
        watched: further pairs, to look at.
        at_once: chats that the MLLM reads together.
        accelerator: of the run.

    Raises:
        LearningError: the folder has another MLLM's states, or cannot be written to.
        ModelError: the MLLM cannot be loaded, or cannot read a pair.
        PairError: none of the pairs can be used.
    """
    data = texts.digest(blocks)
    kept = PairStates.read(folder)
    complete = kept is not None and kept.has_all_of(data, watched)
    try:
        mllm = load()
    except ModelError:
        if kept is not None and complete and kept.reader.name == name:
            return kept
        raise
    reader = Reader.of(mllm, task)
    if kept is not None and kept.reader != reader:
        raise LearningError(
            f"The states in '{folder}' are those of {kept.reader}, not of {reader}; a connector reads one MLLM. Give --mllm and --mllm-precision as they were, "
            "or another folder with --states."
        )
    if kept is not None and complete:
        return kept
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    count = sum(block.count for block in blocks) + len(watched)
    chats = tqdm(
        chain(texts.chats(blocks), watched),
        "reading",
        count,
        unit="pair",
        disable=not accelerator.is_main_process,
    )
    keys = _compute(mllm, StateStore(folder, sys.maxsize, most_memory=0), task, chats, at_once, accelerator)
    mllm.free()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    made = PairStates(
        folder,
        reader,
        {**(kept.keys if kept else {}), **keys},
        tuple(dict.fromkeys((*(kept.data if kept else ()), data))),
    )
    if not made.has_all_of(data, watched):
        raise LearningError(
            f"States of the MLLM could not be kept in '{folder}'. See that there is room, and that it can be written to."
        )
    if accelerator.is_main_process:
        try:
            made.write()
        except StorageError as error:
            logger.warning("instructbrush: %s The MLLM will be needed again when the run goes on.", error)
    return made


def _compute(
    mllm: Mllm, store: StateStore, task: str, chats: Iterable[Chat], at_once: int, accelerator: Accelerator
) -> dict[str, str]:
    """Compute what a store has not: of every process its share. Returns the keys of all.

    Raises:
        PairError: there are none, as no pair can be used.
    """
    from accelerate.utils import gather_object

    keys: dict[str, str] = {}
    waiting: list[tuple[str, Tensor, str]] = []
    first_fault = ""

    def compute() -> None:
        names, images, words = zip(*waiting, strict=True)
        waiting.clear()
        try:
            kept_states(mllm, images, words, store, task, at_once)
        except ModelError as error:
            raise ModelError(f"{error} This happened at: {', '.join(dict.fromkeys(names))}.") from error

    for number, (row, texts) in enumerate(chats):
        if number % accelerator.num_processes != accelerator.process_index:
            continue
        # Decodes and checks the whole pair: what is wrong with it shows now and not at a step days later.
        try:
            image = dataclasses.replace(row, words=texts[0] if texts else "").read().before
        except PairError as error:
            logger.warning("instructbrush: skipped: %s", error)
            first_fault = first_fault or str(error)
            continue
        for words in texts:
            digest = chat_digest(row, words)
            if digest not in keys:
                keys[digest] = state_key(mllm, image, words, task)
                waiting.append((row.name, image, words))
            if len(waiting) == at_once:
                compute()
    if waiting:
        compute()
    found = {digest: key for part in gather_object([keys]) for digest, key in part.items()}
    if not found:
        raise PairError(f"Data: none of the pairs can be used. {first_fault}")
    return found
