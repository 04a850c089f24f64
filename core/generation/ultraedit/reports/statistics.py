"""UltraEdit's Table 5: how many instructions of each type a data set has, and how many are different."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ....evaluation.reports.text_table import aligned_table
from ..edit_types import EDIT_TYPES, edit_type
from ..examples import same_words
from ..regions import FREE_FORM, REGION
from .edit_tables import TableEdit

KINDS = (FREE_FORM, REGION)

# The supplement's Table 5: instances and unique instructions of each type, in the order of ``EDIT_TYPES``.
PUBLISHED: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    FREE_FORM: (
        (111563, 204294, 500108, 150851, 597165, 909065, 683529, 490219, 353289),
        (27436, 24020, 92891, 26587, 117063, 114647, 133222, 102280, 86180),
    ),
    REGION: (
        (2912, 3515, 15774, 2796, 21807, 11918, 25749, 16628, 7080),
        (1056, 727, 5032, 762, 6835, 3201, 8064, 5256, 2620),
    ),
}


@dataclass(frozen=True)
class TypeCounts:
    """Counts of one kind of data, in the order of ``EDIT_TYPES``."""

    instances: tuple[int, ...]
    unique: tuple[int, ...]
    """Different instructions; case and punctuation do not count."""

    @property
    def total(self) -> int:
        """All instances."""
        return sum(self.instances)


def count_types(edits: Iterable[TableEdit]) -> dict[str, TypeCounts]:
    """Counts free-form and region edits by type. A kind without edits is left out."""
    instances: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    seen: dict[str, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
    for edit in edits:
        kind = edit_type(edit.instruction)
        instances[edit.data_type][kind] += 1
        seen[edit.data_type].add((kind, same_words(edit.instruction)))
    unique = {kind: Counter(each for each, _ in seen[kind]) for kind in KINDS}
    return {
        kind: TypeCounts(
            tuple(instances[kind][each] for each in EDIT_TYPES),
            tuple(unique[kind][each] for each in EDIT_TYPES),
        )
        for kind in KINDS
        if instances[kind]
    }


def table_5(counts: Mapping[str, TypeCounts]) -> list[tuple[str, ...]]:
    """Returns the rows of Table 5 below ``("data", "statistic", *EDIT_TYPES, "total")``.

    They are instances, their share in percent, different instructions and their share, and the published
    shares.
    """
    rows: list[tuple[str, ...]] = []
    for kind, each in counts.items():
        published, published_unique = PUBLISHED[kind]
        rows += [
            (kind, "instances", *_numbers(each.instances)),
            (kind, "share (%)", *_shares(each.instances)),
            (kind, "unique", *_numbers(each.unique)),
            (kind, "share (%)", *_shares(each.unique)),
            ("UltraEdit", "share (%)", *_shares(published)),
            ("UltraEdit", "unique (%)", *_shares(published_unique)),
        ]
    return rows


def table_5_text(counts: Mapping[str, TypeCounts]) -> str:
    """Returns Table 5 as text, with types as rows and statistics as columns."""
    rows = table_5(counts)
    columns = [("type", *EDIT_TYPES, "total"), *((f"{row[0]} {row[1]}", *row[2:]) for row in rows)]
    lines = list(zip(*columns, strict=True))
    return aligned_table(lines[0], lines[1:])


def _numbers(values: Iterable[int]) -> tuple[str, ...]:
    values = tuple(values)
    return (*map(str, values), str(sum(values)))


def _shares(values: Iterable[int]) -> tuple[str, ...]:
    values = tuple(values)
    total = sum(values)
    return (*(f"{100 * value / total:.2f}" for value in values), "100.00")
