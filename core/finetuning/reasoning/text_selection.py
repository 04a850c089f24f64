"""Chooses the texts that a pair is trained with: its direct instruction, indirect ones, or both."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from numpy.random import Generator

from ...errors import DataError, PairError
from ..dataset import Block, digest_of
from ..training_pairs import PairRecord

logger = logging.getLogger(__name__)


class PairTexts(NamedTuple):
    """A pair and all texts that the MLLM reads with its source image."""

    record: PairRecord
    texts: tuple[str, ...]


@dataclass(frozen=True)
class TextSelection:
    """Which texts of pairs are used."""

    indirect: float
    """Probability of an indirect instruction if a pair has both kinds. At 0 and 1 the other kind is used only
    if it is the only one."""

    def kinds(self, record: PairRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the direct and the indirect instructions that may be drawn; both may be empty."""
        direct = (record.words.strip(),) if record.words.strip() else ()
        indirect = record.reasoning if self.indirect > 0 or not direct else ()
        return (direct if self.indirect < 1 or not indirect else (), indirect)

    def of(self, record: PairRecord) -> tuple[str, ...]:
        """Returns all texts of a pair that may be drawn."""
        direct, indirect = self.kinds(record)
        return direct + indirect

    def draw(self, record: PairRecord, rng: Generator) -> str:
        """Draws a text of a pair. Returns "" if it has none."""
        direct, indirect = self.kinds(record)
        texts = indirect if indirect and (not direct or rng.random() < self.indirect) else direct
        return texts[int(rng.integers(len(texts)))] if texts else ""

    def pairs(self, blocks: Sequence[Block]) -> Iterator[PairTexts]:
        """Yields every pair with its texts. Damaged files are skipped with a warning."""
        for block in blocks:
            try:
                records = block.records()
            except (DataError, PairError) as error:
                logger.warning("instructbrush: skipped: %s", error)
                continue
            for record in records:
                yield PairTexts(record, self.of(record))

    def digest(self, blocks: Sequence[Block]) -> str:
        """Returns hex digits that identify the states that the data needs."""
        identity = (digest_of(blocks), self.indirect > 0, self.indirect < 1)
        return hashlib.sha256(repr(identity).encode()).hexdigest()
