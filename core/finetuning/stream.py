"""The endless order of training samples.

Sample ``index`` depends only on the seed and the index. Any number of processes can share the order, and a
run can resume anywhere in it.
"""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from ..errors import DataError, PairError
from ..regions.masks import DARKEST_GRAY
from .dataset import Block, digest_of, first_usable_records
from .training_pairs import PairRecord, TrainingPair

logger = logging.getLogger(__name__)

# Least number of pairs that are shuffled together. A window is held in memory with encoded images.
WINDOW = 1024
# Batches that are prepared ahead of the one in use.
_AHEAD = 3


@dataclass(frozen=True)
class Sample:
    """A cropped pair at one index of the order."""

    index: int
    """Seeds everything that is random about the sample."""
    before: Tensor
    """[side, side, 3] fp32 in 0..1."""
    after: Tensor
    """[side, side, 3] fp32 in 0..1."""
    mask: Tensor
    """[side, side] in 0..1, all ones for a free-form pair."""
    words: str


SampleT = TypeVar("SampleT")


@dataclass(frozen=True)
class _Epoch:
    """The windows of an epoch."""

    number: int
    windows: list[np.ndarray]
    """Block numbers of each window."""
    starts: list[int]
    """Position in the epoch where each window starts, and the epoch's length."""


@dataclass(frozen=True)
class _Window:
    """The shuffled pairs of a window."""

    key: tuple[int, int]
    """(epoch, window)."""
    order: np.ndarray
    """(block, pair within the block) int64 [pairs, 2]."""


class PairStream(Generic[SampleT]):
    """Pairs in an endless order: epoch after epoch, each a new shuffle of everything.

    Blocks are shuffled and grouped into windows of at least ``WINDOW`` pairs. Within a window, the pairs of
    each block are shuffled, then taken from the blocks in turn. So files are read block by block, and when
    several processes take every n-th sample, each reads only its share of the blocks.

    A pair that cannot be used is replaced by the next one that can. Subclasses say what a sample is.

    Args:
        blocks: the data.
        seed: seeds the order, and what subclasses draw.
    """

    def __init__(self, blocks: Sequence[Block], seed: int = 0) -> None:
        self._blocks = tuple(blocks)
        self._seed = seed
        self._counts = np.array([block.count for block in self._blocks])
        self._epoch = _Epoch(-1, [], [])
        self._window = _Window((-1, -1), np.empty((0, 2), np.int64))
        self._records: dict[int, list[PairRecord]] = {}
        self._damaged: dict[int, DataError | PairError] = {}
        self._first_fault = ""
        self.skipped: dict[str, int] = {}
        """Name of an unusable pair or damaged block -> number of pairs lost."""
        self.digest = digest_of(self._blocks)
        """Identifies the pairs."""

    def __len__(self) -> int:
        """Pairs in an epoch."""
        return int(self._counts.sum())

    def locate(self, index: int) -> tuple[int, int]:
        """Returns (block, pair within the block) of an index."""
        epoch, position = divmod(index, len(self))
        if self._epoch.number != epoch:
            windows = self._split_windows(epoch)
            sizes = [int(self._counts[window].sum()) for window in windows]
            self._epoch = _Epoch(epoch, windows, [0, *np.cumsum(sizes).tolist()])
        number = bisect_right(self._epoch.starts, position) - 1
        if self._window.key != (epoch, number):
            order = self._shuffle_window(self._epoch.windows[number], (self._seed, epoch, number, 1))
            self._window = _Window((epoch, number), order)
        block, pair = self._window.order[position - self._epoch.starts[number]]
        return int(block), int(pair)

    def _split_windows(self, epoch: int) -> list[np.ndarray]:
        """Shuffles the blocks of an epoch and splits them into windows."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._blocks))
        ends, pairs = [], 0
        for number, block in enumerate(order[:-1], 1):
            pairs += self._counts[block]
            if pairs >= WINDOW:
                ends.append(number)
                pairs = 0
        return np.split(order, ends)

    def _shuffle_window(self, blocks: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Returns (block, pair within the block) of every pair of a window, int64 [pairs, 2]."""
        rng = np.random.default_rng(seed)
        shuffled = [rng.permutation(self._counts[block]) for block in blocks]
        block_of_pair = np.repeat(np.arange(len(blocks)), [len(pairs) for pairs in shuffled])
        turn_of_pair = np.concatenate([np.arange(len(pairs)) for pairs in shuffled])
        order = np.lexsort((block_of_pair, turn_of_pair))
        return np.stack([blocks[block_of_pair], np.concatenate(shuffled)], axis=1)[order]

    def record(self, index: int) -> PairRecord:
        """Returns the pair at an index, not decoded. Fast if indices rise.

        Raises:
            PairError, DataError: its block cannot be read.
        """
        window_before = self._window.key
        block, number = self.locate(index)
        if self._window.key != window_before:
            self._records.clear()
        if block in self._damaged:
            # Each raise adds to a traceback, which holds frames with their images.
            raise self._damaged[block].with_traceback(None)
        if block not in self._records:
            try:
                self._records[block] = self._blocks[block].records()
            except (DataError, PairError) as error:
                self._damaged[block] = error
                self._skip(self._blocks[block].name, self._blocks[block].count, error)
                raise
        return self._records[block][number]

    def sample(self, index: int, record: PairRecord) -> SampleT:
        """Makes the sample of a pair at an index of the order.

        Raises:
            PairError: the pair cannot be used.
        """
        raise NotImplementedError

    def _record_or_none(self, index: int) -> PairRecord | None:
        try:
            return self.record(index)
        except (DataError, PairError):
            return None

    def _sample_or_none(self, index: int, record: PairRecord | None) -> SampleT | None:
        if record is None:
            return None
        try:
            return self.sample(index, record)
        except (DataError, PairError) as error:
            self._skip(record.name, 1, error)
            return None

    def _next_sample(self, index: int) -> SampleT:
        """Returns a sample at ``index`` from the next usable pair."""
        for other in range(index + 1, index + len(self)):
            sample = self._sample_or_none(index, self._record_or_none(other))
            if sample is not None:
                return sample
        raise PairError(f"Data: none of the {len(self)} pairs can be used. {self._first_fault}")

    def _skip(self, name: str, pairs: int, error: DataError | PairError) -> None:
        if name not in self.skipped:
            self._first_fault = self._first_fault or str(error)
            self.skipped[name] = pairs
            logger.warning("instructbrush: skipped: %s", error)

    def batches(
        self, start: int, size: int, process: int = 0, processes: int = 1, threads: int = 4
    ) -> Iterator[list[SampleT]]:
        """Yields the batches of one process. Threads prepare them ahead of use.

        Each step takes ``size * processes`` consecutive samples; this process gets every ``processes``-th.

        Args:
            start: index of the first sample of all processes.
            size: samples in a batch.
            process: number of this process.
            processes: number of processes that share the order.
            threads: threads that decode images.

        Raises:
            PairError: none of the pairs can be used.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(threads) as decoders:

            def load(batch: int) -> list[SampleT]:
                begin = start + batch * size * processes
                indices = range(begin + process, begin + size * processes, processes)
                records = [self._record_or_none(index) for index in indices]
                found = decoders.map(self._sample_or_none, indices, records)
                return [
                    sample or self._next_sample(index) for index, sample in zip(indices, found, strict=True)
                ]

            waiting: deque[Future[Any]] = deque(reader.submit(load, batch) for batch in range(_AHEAD))
            try:
                for batch in count(_AHEAD):
                    waiting.append(reader.submit(load, batch))
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


class EditStream(PairStream[Sample]):
    """Cropped pairs in the order of ``PairStream``.

    Args:
        blocks: the data.
        side: pixels of the square crop.
        seed: seeds the order, the crops and the flips.
        flip: probability of a horizontal flip.
        white_share: probability that a pair with a mask gets an all-white mask, like a free-form pair.
    """

    def __init__(
        self, blocks: Sequence[Block], side: int, seed: int = 0, flip: float = 0.5, white_share: float = 0.35
    ) -> None:
        super().__init__(blocks, seed)
        self._side = side
        self._flip = flip
        self._white_share = white_share

    def sample(self, index: int, record: PairRecord) -> Sample:
        """Decodes a pair and crops it as its index demands.

        Raises:
            PairError: the pair cannot be used.
        """
        rng = np.random.default_rng((self._seed, index, 2))
        pair = record.read().cropped(self._side, rng, self._flip)
        if pair.mask.max() < DARKEST_GRAY:
            raise PairError(
                f"Pair '{record.name}': its mask is so small that nothing of it is left at {self._side} "
                "pixels. Paint a larger region, or remove the pair."
            )
        white = rng.random() < self._white_share
        mask = pair.mask.new_ones(pair.mask.shape) if white else pair.mask
        return Sample(index, pair.before, pair.after, mask, pair.words)

    def first_pairs(self, number: int) -> list[TrainingPair]:
        """Returns the data's first usable pairs, cropped in the middle. They are always the same."""
        return [record.read().cropped(self._side) for record in first_usable_records(self._blocks, number)]
