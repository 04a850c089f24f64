"""The endless order in which pairs are trained on: decided by seed and place alone, so any number of processes can share it and go on anywhere in it."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from .data import Block, Row, Triplet, digest_of, first_rows

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

    Args:
        blocks: what there is.
        side: pixels of the square that pictures are cropped to.
        seed: of the order, the crops and the flips.
        flip: chance that left and right change places.
        free_share: chance that a pair with a mask is shown with a white one, as a free-form pair.
    """

    def __init__(self, blocks: Sequence[Block], side: int, seed: int = 0, flip: float = 0.5, free_share: float = 0.35) -> None:
        self._blocks, self._side, self._seed, self._flip, self._free_share = tuple(blocks), side, seed, flip, free_share
        self._counts = np.array([block.count for block in self._blocks])
        self._epoch: tuple[int, list[np.ndarray], list[int]] = (-1, [], [])
        self._window: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.empty((0, 2), np.int64))
        self._held: dict[int, list[Row]] = {}
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
            DataError: its file is damaged.
        """
        before = self._window[0]
        block, number = self.place(index)
        if self._window[0] != before:
            self._held.clear()
        if block not in self._held:
            self._held[block] = self._blocks[block].rows()
        return self._held[block][number]

    def sample(self, index: int, row: Row) -> Sample:
        """Decode a pair and frame it as its place has it.

        Raises:
            PairError: the pair cannot be used; the message names it.
        """
        rng = np.random.default_rng((self._seed, index, 2))
        read = row.read().framed(self._side, rng, self._flip)
        free = rng.random() < self._free_share
        return Sample(index, read.before, read.after, read.mask.new_ones(read.mask.shape) if free else read.mask, read.words)

    def first(self, number: int) -> list[Triplet]:
        """The pairs that the data begins with, framed in the middle: always the same ones, to look at."""
        return [row.read().framed(self._side) for row in first_rows(self._blocks, number)]

    def batches(self, start: int, size: int, process: int = 0, processes: int = 1, threads: int = 4) -> Iterator[list[Sample]]:
        """Batches of one process, made by threads while earlier ones are used: of each ``size * processes`` samples in a row every n-th.

        Args:
            start: place of the order where the first batch of all processes together begins.
            size: samples of a batch.
            process: number of this process.
            processes: how many share the order.
            threads: that decode pictures.

        Raises:
            PairError, DataError: a pair cannot be read; raised when its turn comes.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(threads) as decoders:

            def load(batch: int) -> list[Sample]:
                begin = start + batch * size * processes
                indices = range(begin + process, begin + size * processes, processes)
                return list(decoders.map(self.sample, indices, [self.row(index) for index in indices]))

            waiting: deque[Future[Any]] = deque(reader.submit(load, batch) for batch in range(_AHEAD))
            try:
                for batch in count(_AHEAD):
                    waiting.append(reader.submit(load, batch))
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
