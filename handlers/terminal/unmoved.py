"""The database of a command that changes it: refused once all leads were moved to another place."""

from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from models.installation import refuse_moved
from models.storage import BlockingStorage

Params = ParamSpec("Params")
Item = TypeVar("Item")
Result = TypeVar("Result")


class UnmovedStorage:
    """`BlockingStorage` that writes only if the leads are still in this database."""

    def __init__(self, storage: BlockingStorage) -> None:
        self._storage = storage
        self.clock = storage.clock
        self.has_written = storage.has_written

    def write(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """As `BlockingStorage.write`. Raises DatabaseUnusable if the leads were moved away."""

        def write_unless_moved() -> Result:
            refuse_moved()
            return function(*args, **kwargs)

        result = self._storage.write(write_unless_moved)
        self.has_written = True
        return result

    def read(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """As `BlockingStorage.read`."""
        return self._storage.read(function, *args, **kwargs)

    def read_each(
        self, function: Callable[Params, Iterator[Item]], *args: Params.args, **kwargs: Params.kwargs
    ) -> Iterator[Item]:
        """As `BlockingStorage.read_each`."""
        return self._storage.read_each(function, *args, **kwargs)

    def scrub(self) -> None:
        """As `BlockingStorage.scrub`."""
        self._storage.scrub()
