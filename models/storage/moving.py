"""Moving: every row of one database is copied into an empty one, and read back before it counts."""

import graphlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import orjson

from models.storage import DatabaseUnusable

BATCH_ROWS = 2_000  # as many are in memory at once
PROGRESS_SECONDS = 2.0
MOST_NAMED = 5  # rows that a refusal names

# A row as both databases can hold it: a boolean is 0 or 1.
Row = tuple[int | str | bytes | None, ...]
Progress = Callable[[str], None]  # is called with each step of a long task, in words


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the database itself describes it. types: of its columns, by name, in the database's words.

    key: the columns of its primary key. refers_to: the tables that its foreign keys name.
    """

    types: Mapping[str, str]
    key: Sequence[str]
    refers_to: frozenset[str]


Tables = Mapping[str, Table]


class RowsRefused(DatabaseUnusable):
    """The target can't hold a row of the source as it is."""


class Place(Protocol):
    """A database at either end of a move."""

    def tables(self) -> Tables:
        """Return the tables by name, without those that are the database's own."""

    def read(self, name: str, columns: Sequence[str], key: Sequence[str]) -> Iterator[list[Row]]:
        """Yield the rows of a table in batches, in the order of their key.

        Raises StorageError, and RowsRefused for a row that can't be read.
        """

    def last_ids(self) -> dict[str, int]:
        """Return the highest id that was given out, deleted rows included, of each table that counts."""

    def change(self, function: Callable[[], None]) -> None:
        """Run a function on the rows of this database.

        Of a source the change is committed at once. Raises DatabaseUnusable if a server has begun to use it.
        """


class Source(Place, Protocol):
    """The database that is moved: no server uses it, and no other program can write to it meanwhile."""

    def refused_rows(self, tables: Tables) -> Iterator[str]:
        """Yield each row that tables like these can't hold, and why, in words."""


class Target(Place, Protocol):
    """The new database. It stays empty for others until `commit`."""

    def write(self, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Add these rows to a table. Raises StorageError and RowsRefused."""

    def continue_ids(self, last: Mapping[str, int]) -> None:
        """Let the next id of each table follow the last one."""

    def seal(self) -> None:
        """Do all of the commit that may fail and can be undone. Raises StorageError or DatabaseUnusable."""

    def commit(self) -> None:
        """Make it the database. Raises StorageError, or OutcomeUnknown."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a table holds: the number of its rows, and a SHA-256 over all of them."""

    rows: int
    digest: str


@dataclass(slots=True)
class _Digest:
    """The digest of a table's rows, in the canonical form that both databases share."""

    rows: int = 0
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        for row in rows:
            self._hash.update(orjson.dumps(row, default=_bytes, option=orjson.OPT_APPEND_NEWLINE))

    def content(self) -> Content:
        return Content(self.rows, self._hash.hexdigest())


def _bytes(value: bytes) -> list[str]:
    return [value.hex()]  # a list, so that no text looks like it


def copy_database(source: Source, target: Target, progress: Progress) -> dict[str, Content]:
    """Copy all rows and the counters of ids, and compare what the target has then. Return it by table.

    Raises DatabaseUnusable if the two differ in a table, a column or a row; StorageError.
    """
    here = target.tables()
    tables = _tables(source.tables(), here)
    try:
        copied = _copy(source, target, tables, progress)
        target.continue_ids(source.last_ids())
        _compare(source, target, tables, copied, progress)
    except RowsRefused as error:
        found = list(islice(source.refused_rows(here), MOST_NAMED + 1))
        if not found:
            raise
        more = " (and more)" if len(found) > MOST_NAMED else ""
        raise RowsRefused(f"rows that can't be moved{more}: {'; '.join(found[:MOST_NAMED])}") from error
    return copied


def _tables(there: Tables, here: Tables) -> Tables:
    """Return the tables of the source, each after those that it refers to. here: the tables of the target."""
    for name, table in there.items():
        if name not in here:
            raise DatabaseUnusable(
                f"the table {name} is none of this program's; move it elsewhere: nothing may be left behind"
            )
        if differing := table.types.keys() ^ here[name].types.keys():
            raise DatabaseUnusable(f"the column {name}.{min(differing)} is in one of the two databases only")
    references = {name: there[name].refers_to & there.keys() for name in sorted(there)}
    return {name: there[name] for name in graphlib.TopologicalSorter(references).static_order()}


def _copy(source: Source, target: Target, tables: Tables, progress: Progress) -> dict[str, Content]:
    copied = {}
    pace = _Pace("copying", progress)
    for name, table in tables.items():
        digest, columns = _Digest(), list(table.types)
        for rows in source.read(name, columns, table.key):
            digest.add(rows)
            target.write(name, columns, rows)
            pace.add(name, len(rows))
        copied[name] = digest.content()
    return copied


def _compare(
    source: Source, target: Target, tables: Tables, copied: Mapping[str, Content], progress: Progress
) -> None:
    pace = _Pace("comparing", progress)
    for name, table in tables.items():
        digest = _Digest()
        for rows in target.read(name, list(table.types), table.key):
            digest.add(rows)
            pace.add(name, len(rows))
        if digest.content() != copied[name]:
            raise RowsRefused(
                f"the copy of {name} is not what the source has: {digest.rows} rows, of {copied[name].rows}"
            )
    if target.last_ids() != source.last_ids():
        raise DatabaseUnusable("the counters of ids are not what the source has")


class _Pace:
    """Progress in rows, told every few seconds."""

    def __init__(self, verb: str, progress: Progress) -> None:
        self._verb, self._progress = verb, progress
        self._rows = 0
        self._began = self._told = time.monotonic()
        progress(f"{verb} all rows")

    def add(self, name: str, rows: int) -> None:
        self._rows += rows
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            rate = self._rows / (now - self._began)
            self._progress(f"{self._verb} {name}: {self._rows:,} rows so far, {rate:,.0f} a second")


def in_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in lists of `BATCH_ROWS`."""
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch


def quoted(names: Iterable[str]) -> str:
    """Return these names of columns as SQL."""
    return ", ".join(f'"{name}"' for name in names)
