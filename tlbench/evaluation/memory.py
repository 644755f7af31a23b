"""Memory of one process: what several trials need is made once and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar, final

Value = TypeVar("Value")


@final
class Memory:
    """The `capacity` values used last, by everything they depend on; fewer where their `nbytes` exceed `most_bytes`."""

    def __init__(self, capacity: int, most_bytes: int | None = None) -> None:
        self.most_bytes = most_bytes
        self._capacity = capacity
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        """Whether the value is at hand."""
        return key in self._values

    def __iter__(self) -> Iterator[Hashable]:
        """The keys of all values at hand."""
        return iter(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes of all values that tell theirs."""
        return sum(getattr(value, "nbytes", 0) for value in self._values.values())

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value for `key`, made if it is not at hand."""
        if key not in self._values:
            value = make()
            self.make_room(getattr(value, "nbytes", 0))
            self._values[key] = value
            if len(self._values) > self._capacity:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        found: Value = self._values[key]
        return found

    def find(self, key: Hashable) -> Any:
        """The value for `key`, which is the one used last from now on; None if it is not at hand."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def make_room(self, nbytes: int) -> None:
        """Forget what was used longest ago, as far as is needed for a value of so many bytes."""
        while self.most_bytes is not None and self._values and self.nbytes + nbytes > self.most_bytes:
            self._values.popitem(last=False)
