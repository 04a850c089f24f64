"""The endless order in which pairs are trained on: decided by seed and place alone, so any number of processes can share it and go on anywhere in it."""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError, PairError
from .dataset import Block, Row, Triplet, digest_of, first_rows

logger = logging.getLogger(__name__)

WINDOW = 1024
"""Rows that are shuffled among each other, at least; a window is held in memory as it is stored."""
_AHEAD = 3
"""Batches that are made while one is trained on."""


@dataclass(frozen=True)
class Sample:
    """What the training sees at one place of the order."""

    index: int
    """The place; what is random about the sample's training follows from it."""
    before: Tensor
    """[side, side, 3] fp32 in 0..1."""
    after: Tensor
    mask: Tensor
    """[side, side] in 0..1, white where the pair is free-form."""
    words: str


class EditStream:
    """Pairs in an endless order: epoch after epoch, each a new shuffle of everything.

    The blocks are shuffled, gathered into windows of about :data:`WINDOW` rows, and the rows of a window shuffled within their blocks and taken from each
    block in turn. So a file is read block by block, and where several processes take every n-th sample, each reads its share of the blocks.

    In the place of a pair that cannot be used stands the next one that can.

    Args:
        blocks: what there is.
        side: pixels of the square that images are cropped to.
        seed: of the order, the crops and the flips.
        flip: chance that left and right change places.
        free_share: chance that a pair with a mask is shown with a white one, as a free-form pair.
    """

    def __init__(
        self, blocks: Sequence[Block], side: int, seed: int = 0, flip: float = 0.5, free_share: float = 0.35
    ) -> None:
        self._blocks, self._side, self._seed, self._flip, self._free_share = (
            tuple(blocks),
            side,
            seed,
            flip,
            free_share,
        )
        self._counts = np.array([block.count for block in self._blocks])
        self._epoch: tuple[int, list[np.ndarray], list[int]] = (-1, [], [])
        self._window: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.empty((0, 2), np.int64))
        self._held: dict[int, list[Row]] = {}
        self._damaged: dict[int, DataError | PairError] = {}
        self._first_fault = ""
        self.skipped: dict[str, int] = {}
        """What could not be used: a pair, or the block of a damaged file with the number of its pairs."""
        self.digest = digest_of(self._blocks)
        """Which pairs they are."""

    def __len__(self) -> int:
        """Pairs of an epoch."""
        return int(self._counts.sum())

    def place(self, index: int) -> tuple[int, int]:
        """(block, row within it) of the sample at a place of the order."""
        epoch, position = divmod(index, len(self))
        if self._epoch[0] != epoch:
            windows = self._windows(epoch)
            sizes = [int(self._counts[window].sum()) for window in windows]
            self._epoch = (epoch, windows, [0, *np.cumsum(sizes).tolist()])
        _, windows, starts = self._epoch
        number = bisect_right(starts, position) - 1
        if self._window[0] != (epoch, number):
            self._window = ((epoch, number), self._shuffled(windows[number], (self._seed, epoch, number, 1)))
        block, row = self._window[1][position - starts[number]]
        return int(block), int(row)

    def _windows(self, epoch: int) -> list[np.ndarray]:
        """The blocks of an epoch, window by window."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._blocks))
        ends, rows = [], 0
        for place, block in enumerate(order[:-1], 1):
            rows += self._counts[block]
            if rows >= WINDOW:
                ends.append(place)
                rows = 0
        return np.split(order, ends)

    def _shuffled(self, blocks: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """(block, row) of every row of a window [rows, 2]."""
        rng = np.random.default_rng(key)
        rows = [rng.permutation(self._counts[block]) for block in blocks]
        which = np.repeat(np.arange(len(blocks)), [len(each) for each in rows])
        turn = np.concatenate([np.arange(len(each)) for each in rows])
        return np.stack([blocks[which], np.concatenate(rows)], axis=1)[np.lexsort((which, turn))]

    def row(self, index: int) -> Row:
        """The pair at a place of the order, not decoded. Fast where places are asked for in rising order.

        Raises:
            PairError, DataError: its block cannot be read.
        """
        before = self._window[0]
        block, number = self.place(index)
        if self._window[0] != before:
            self._held.clear()
        if block in self._damaged:
            raise self._damaged[block]
        if block not in self._held:
            try:
                self._held[block] = self._blocks[block].rows()
            except (DataError, PairError) as error:
                self._damaged[block] = error
                self._skip(self._blocks[block].name, self._blocks[block].count, error)
                raise
        return self._held[block][number]

    def sample(self, index: int, row: Row) -> Sample:
        """Decode a pair and frame it as its place has it.

        Raises:
            PairError: the pair cannot be used; the message names it.
        """
        rng = np.random.default_rng((self._seed, index, 2))
        read = row.read().framed(self._side, rng, self._flip)
        free = rng.random() < self._free_share
        return Sample(
            index,
            read.before,
            read.after,
            read.mask.new_ones(read.mask.shape) if free else read.mask,
            read.words,
        )

    def _row(self, index: int) -> Row | None:
        try:
            return self.row(index)
        except (DataError, PairError):
            return None

    def _sample(self, index: int, row: Row | None) -> Sample | None:
        """A sample at a place; None where the pair cannot be used."""
        if row is None:
            return None
        try:
            return self.sample(index, row)
        except (DataError, PairError) as error:
            self._skip(row.name, 1, error)
            return None

    def _next_sample(self, index: int) -> Sample:
        for place in range(index + 1, index + len(self)):
            sample = self._sample(index, self._row(place))
            if sample is not None:
                return sample
        raise PairError(f"Data: none of the {len(self)} pairs can be used. {self._first_fault}")

    def _skip(self, name: str, pairs: int, error: DataError | PairError) -> None:
        if name not in self.skipped:
            self._first_fault = self._first_fault or str(error)
            self.skipped[name] = pairs
            logger.warning("instructbrush: skipped: %s", error)

    def first(self, number: int) -> list[Triplet]:
        """The pairs that the data begins with, framed in the middle: always the same ones, to look at."""
        return [row.read().framed(self._side) for row in first_rows(self._blocks, number)]

    def batches(
        self, start: int, size: int, process: int = 0, processes: int = 1, threads: int = 4
    ) -> Iterator[list[Sample]]:
        """Batches of one process, made by threads while earlier ones are used: of each ``size * processes`` samples in a row every n-th.

        Args:
            start: place of the order where the first batch of all processes together begins.
            size: samples of a batch.
            process: number of this process.
            processes: how many share the order.
            threads: that decode images.

        Raises:
            PairError: none of the pairs can be used.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(threads) as decoders:

            def load(batch: int) -> list[Sample]:
                begin = start + batch * size * processes
                indices = range(begin + process, begin + size * processes, processes)
                found = decoders.map(self._sample, indices, [self._row(index) for index in indices])
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
