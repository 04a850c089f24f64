"""Results that nodes keep between runs, so that a new choice among them computes nothing again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar
from weakref import ref

Result = TypeVar("Result")


class KeptResults(Generic[Result]):
    """The last results of a computation, found again by the same objects and values.

    ComfyUI gives a node the same objects again when nothing before it changed. Only weak references to them
    are kept, and a result goes with the first of its objects.

    Args:
        most: number of results to keep.
        small_enough: whether to keep a result; None keeps all.
    """

    def __init__(self, most: int, small_enough: Callable[[Result], bool] | None = None) -> None:
        self._most = most
        self._small_enough = small_enough
        self._kept: OrderedDict[tuple[Hashable, ...], tuple[tuple[ref[Any], ...], Result]] = OrderedDict()

    def get(
        self, objects: tuple[object, ...], values: tuple[Hashable, ...], compute: Callable[[], Result]
    ) -> Result:
        """Returns the kept result of these objects and values, or computes it."""
        key = (*map(id, objects), *values)
        if key not in self._kept:
            result = compute()
            if self._small_enough and not self._small_enough(result):
                return result
            references = tuple(ref(each, lambda _: self._kept.pop(key, None)) for each in objects)
            self._kept[key] = (references, result)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()
