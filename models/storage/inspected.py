"""A database of either kind that is only looked at, as the doctor does."""

from collections.abc import Iterator
from typing import Any, Protocol


class InspectedDatabase(Protocol):
    """A database that can't be written to here. Its schema may be older or newer than the program's."""

    @property
    def schema(self) -> int | None:
        """The schema's version: 0 if the database is empty, None if it is another program's."""

    @property
    def has_known_schema(self) -> bool:
        """True if the tables that this program knows are there."""

    def has_schema(self, first: int) -> bool:
        """Return True if the schema is a known one, and at least this one."""

    def value(self, statement: str, *values: object) -> Any:
        """Return the first row of a query: its value, or all of its values if it has several.

        Each ? of the statement stands for a value.
        """

    def rows(self, statement: str, *values: object) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query by the names of their columns."""
