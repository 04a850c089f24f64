"""States of a vision-language model (MLLM) for all pairs of a data set, computed once and kept in a folder.

States are computed from the whole, uncropped source image, as Encode Instruction computes them later. So
they do not depend on the training crop, and an image has them once for each of its texts. A list in the
folder says which states belong to which pair. When all states are there, a run does not need the MLLM.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...encoders.mllm import Mllm
from ...errors import LearningError, ModelError, PairError, StorageError
from ...reasoning.state_cache import VERSION, StateStore, cached_states, state_key
from ...storage.files import write_text
from ...storage.json_text import parse_json, read_record
from ..dataset import Block
from ..training_pairs import PairRecord
from .text_selection import PairTexts, TextSelection

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

# File name of the list.
INDEX = "states.json"


@dataclass(frozen=True)
class MllmIdentity:
    """The MLLM, precision and task that states were computed with. Stored in the list."""

    name: str
    fingerprint: str
    width: int
    """D, channels of the states."""
    dtype: str
    bits: int | None
    task: str
    """Text in front of the words."""

    @classmethod
    def of(cls, mllm: Mllm, task: str) -> MllmIdentity:
        """Returns the identity of an MLLM with a task."""
        dtype = str(mllm.dtype).removeprefix("torch.")
        return cls(mllm.name, mllm.fingerprint, mllm.width, dtype, mllm.bits, task)

    def __str__(self) -> str:
        return f"'{self.name}' in {f'{self.bits} bits' if self.bits else self.dtype} (asked '{self.task}')"


@dataclass(frozen=True)
class LazyMllm:
    """An MLLM that is opened only if states are missing, and how to ask it."""

    name: str
    task: str
    """Text in front of the words, see core/encoders/mllm_chat.py."""
    load: Callable[[], Mllm]
    """Opens the MLLM lazily. It may fail if the list already has all states of ``name``."""
    batch: int
    """Chats that the MLLM reads together."""


@dataclass(frozen=True)
class NeededStates:
    """The pairs and texts whose states a run needs."""

    texts: TextSelection
    blocks: Sequence[Block]
    watched: Sequence[PairTexts]
    """Further pairs, shown in sample images."""

    @cached_property
    def digest(self) -> str:
        """Identifies the states that the data needs, without the watched pairs."""
        return self.texts.digest(self.blocks)


@dataclass(frozen=True)
class _StatesFile:
    """Content of the list's file."""

    version: str
    reader: Mapping[str, Any]
    keys: Mapping[str, Any]
    data: tuple[str, ...]


@dataclass(frozen=True)
class PairStates:
    """The list of states in a folder."""

    folder: Path
    mllm: MllmIdentity
    keys: Mapping[str, str]
    """``pair_digest`` -> ``state_key`` (see core/reasoning/state_cache.py)."""
    data: tuple[str, ...]
    """``TextSelection.digest`` of the data whose states are complete."""

    def of(self, record: PairRecord, words: str) -> Tensor:
        """Reads the states [L, D] of a pair's source image with words, in the MLLM's precision. Thread-safe.

        Raises:
            LearningError: the states are missing or damaged.
        """
        key = self.keys.get(pair_digest(record, words))
        # A new store for each call: threads share nothing, and nothing stays in memory.
        states = None if key is None else StateStore(self.folder, most_memory=0).get(key)
        if states is None:
            raise LearningError(
                f"Pair '{record.name}': its states are no longer in '{self.folder}', or its image has "
                f"changed. Delete {self.folder / INDEX} and add --resume: missing states are computed again."
            )
        return states

    def knows(self, record: PairRecord, words: str) -> bool:
        """Returns whether the list has the states of a pair with words.

        Raises:
            PairError: the source image cannot be read.
        """
        return pair_digest(record, words) in self.keys

    def has_all(self, needed: NeededStates) -> bool:
        """Returns whether all needed states are in the folder."""
        if needed.digest not in self.data:
            return False
        watched = ((record, words) for record, texts in needed.watched for words in texts)
        if not all(pair_digest(record, words) in self.keys for record, words in watched):
            return False
        store = StateStore(self.folder)
        return all(store.has(key) for key in self.keys.values())

    def merged(self, keys: Mapping[str, str], digest: str) -> PairStates:
        """Returns the list with further keys and a further data digest."""
        data = tuple(dict.fromkeys((*self.data, digest)))
        return PairStates(self.folder, self.mllm, {**self.keys, **keys}, data)

    def write(self) -> None:
        """Writes the list atomically."""
        content = {
            "version": VERSION,
            "reader": dataclasses.asdict(self.mllm),
            "data": self.data,
            "keys": dict(self.keys),
        }
        write_text(json.dumps(content), self.folder / INDEX)

    @classmethod
    def read(cls, folder: Path) -> PairStates | None:
        """Reads a folder's list. Returns None if it is missing, damaged or of another version."""
        try:
            file = read_record(_StatesFile, parse_json((folder / INDEX).read_bytes()))
            mllm = read_record(MllmIdentity, file.reader)
        except (OSError, ValueError):
            return None
        if file.version != VERSION:
            return None
        # Keys become file names. Hex digits cannot leave the folder.
        if not all(isinstance(key, str) and re.fullmatch("[0-9a-f]+", key) for key in file.keys.values()):
            return None
        return cls(folder, mllm, file.keys, file.data)


def pair_digest(record: PairRecord, words: str) -> str:
    """Returns hex digits of a pair's encoded source image and words. Needs no model."""
    return hashlib.sha256(words.encode() + b"\0" + record.before.read_bytes()).hexdigest()[:40]


def load_or_compute_states(
    folder: Path, source: LazyMllm, needed: NeededStates, accelerator: Accelerator
) -> PairStates:
    """Returns all states that a run needs. All processes together compute missing ones, then free the MLLM.

    Args:
        folder: folder of the states; all processes must see it.
        source: the MLLM.
        needed: the pairs and texts.
        accelerator: accelerator of the run.

    Raises:
        LearningError: the folder holds another MLLM's states, or cannot be written to.
        ModelError: the MLLM cannot be loaded, or cannot read a pair.
        PairError: none of the pairs can be used.
    """
    kept = PairStates.read(folder)
    complete = kept is not None and kept.has_all(needed)
    try:
        mllm = source.load()
    except ModelError:
        if kept is not None and complete and kept.mllm.name == source.name:
            return kept
        raise
    identity = MllmIdentity.of(mllm, source.task)
    if kept is None:
        kept = PairStates(folder, identity, {}, ())
    if kept.mllm != identity:
        raise LearningError(
            f"The states in '{folder}' are those of {kept.mllm}, not of {identity}; a connector reads one "
            "MLLM. Give --mllm and --mllm-precision as before, or another folder with --states."
        )
    if complete:
        return kept
    accelerator.wait_for_everyone()  # No process writes before all have looked.
    states = kept.merged(_compute(mllm, source, folder, needed, accelerator), needed.digest)
    mllm.free()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if not states.has_all(needed):
        raise LearningError(
            f"States of the MLLM could not be kept in '{folder}'. Check that the disk has room and that the "
            "folder is writable."
        )
    if accelerator.is_main_process:
        try:
            states.write()
        except StorageError as error:
            logger.warning("instructbrush: %s The MLLM is needed again when the run resumes.", error)
    return states


def _compute(
    mllm: Mllm, source: LazyMllm, folder: Path, needed: NeededStates, accelerator: Accelerator
) -> dict[str, str]:
    """Computes and stores missing states, a share in each process. Returns the keys of all processes.

    Raises:
        PairError: none of the pairs can be used.
    """
    from accelerate.utils import gather_object

    count = sum(block.count for block in needed.blocks) + len(needed.watched)
    pairs = tqdm(
        chain(needed.texts.pairs(needed.blocks), needed.watched),
        "reading",
        count,
        unit="pair",
        disable=not accelerator.is_main_process,
    )
    batches = _StateBatches(mllm, StateStore(folder, sys.maxsize, most_memory=0), source)
    share = (
        pair
        for number, pair in enumerate(pairs)
        if number % accelerator.num_processes == accelerator.process_index
    )
    first_fault = batches.add_all(share)
    keys = {digest: key for part in gather_object([batches.keys]) for digest, key in part.items()}
    if not keys:
        raise PairError(f"Data: none of the pairs can be used. {first_fault}")
    return keys


class _StateBatches:
    """Collects chats and computes their states in batches."""

    def __init__(self, mllm: Mllm, store: StateStore, source: LazyMllm) -> None:
        self._mllm = mllm
        self._store = store
        self._source = source
        self._waiting: list[tuple[str, Tensor, str]] = []
        """(pair's name, image, words)."""
        self.keys: dict[str, str] = {}

    def add_all(self, pairs: Iterable[PairTexts]) -> str:
        """Computes the states of all pairs. Returns why the first unusable pair was skipped, or ""."""
        first_fault = ""
        for record, texts in pairs:
            # Decode and check the whole pair now, so that a fault is found before training starts.
            try:
                image = dataclasses.replace(record, words=texts[0] if texts else "").read().before
            except PairError as error:
                logger.warning("instructbrush: skipped: %s", error)
                first_fault = first_fault or str(error)
                continue
            for words in texts:
                self._add(record, image, words)
        self._flush()
        return first_fault

    def _add(self, record: PairRecord, image: Tensor, words: str) -> None:
        digest = pair_digest(record, words)
        if digest in self.keys:
            return
        self.keys[digest] = state_key(self._mllm, image, words, self._source.task)
        self._waiting.append((record.name, image, words))
        if len(self._waiting) == self._source.batch:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        names = [name for name, _, _ in self._waiting]
        chats = [(image, words) for _, image, words in self._waiting]
        self._waiting.clear()
        try:
            cached_states(self._mllm, chats, self._store, self._source.task, self._source.batch)
        except ModelError as error:
            raise ModelError(f"{error} Pairs in this batch: {', '.join(dict.fromkeys(names))}.") from error
