"""The first rows of a source."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import Refused
from .build import Source
from .stage import Row


@dataclass(frozen=True)
class FirstRows:
    """At most ``most`` rows of a source, the first ones."""

    source: Source
    most: int

    @property
    def columns(self) -> Mapping[str, str]:
        """See ``Source``."""
        return self.source.columns

    @property
    def fingerprint(self) -> str:
        """See ``Source``."""
        return f"{self.source.fingerprint} {self.count}"

    @property
    def count(self) -> int:
        """See ``Source``."""
        return min(self.source.count, self.most)

    def rows(self, start: int, count: int) -> Iterator[Row | Refused]:
        """See ``Source``."""
        yield from self.source.rows(start, min(count, self.count - start))
