"""A data folder at either end of a move: its SQLite file, or a new one that gets its name at the end."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from peewee import DatabaseError

from models.files import make_private, sync_file, sync_folder
from models.storage import DatabaseUnusable, OutcomeUnknown, StorageError, rows
from models.storage.moving import Row, RowsRefused, Table, Tables, in_batches, quoted
from models.storage.sqlite.backup import read_back
from models.storage.sqlite.connection import (
    FILE_NAME,
    close_database,
    database,
    transaction,
    use_file,
    with_companions,
)
from models.storage.sqlite.failures import storage_errors, storage_reason
from models.storage.sqlite.folder import has_database, open_database
from models.storage.sqlite.locks import restore_lock, server_lock
from models.storage.sqlite.migrations.migrate import migrate
from models.storage.sqlite.wal import truncate_wal

MOVING = FILE_NAME + ".moving"  # the new file, until it is whole
CACHE_KILOBYTES = 64_000

_TABLES = """
SELECT name, sql LIKE '%AUTOINCREMENT%' FROM sqlite_schema
WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
"""


class _SqlitePlace:
    """The database that this thread has open."""

    @property
    def _connection(self) -> apsw.Connection:
        connection: apsw.Connection = database.connection()
        return connection

    def _all(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return found

    def tables(self) -> Tables:
        """As `Place.tables`."""
        with storage_errors():
            return {name: self._table(name) for name, _ in self._all(_TABLES)}

    def _table(self, name: str) -> Table:
        columns = self._all("SELECT name, type, pk FROM pragma_table_info(?)", name)
        foreign = self._all('SELECT "table" FROM pragma_foreign_key_list(?)', name)
        return Table(
            {column: kind for column, kind, _ in columns},
            [column for _, column in sorted((pk, column) for column, _, pk in columns if pk)],
            frozenset(table for (table,) in foreign),
        )

    def read(self, name: str, columns: Sequence[str], key: Sequence[str]) -> Iterator[list[Row]]:
        """As `Place.read`."""
        query = f'SELECT {quoted(columns)} FROM "{name}" ORDER BY {quoted(key)}'
        try:
            with storage_errors():
                yield from in_batches(self._connection.execute(query))
        except UnicodeDecodeError as error:
            raise RowsRefused(f"a text in {name} is not UTF-8") from error

    def last_ids(self) -> dict[str, int]:
        """As `Place.last_ids`."""
        with storage_errors():
            given: dict[str, int] = dict(self._all("SELECT name, seq FROM sqlite_sequence"))
            counting = [name for name, counts in self._all(_TABLES) if counts]
            return {name: max(given.get(name, 0), self._highest_id(name)) for name in counting}

    def _highest_id(self, name: str) -> int:
        [(highest,)] = self._all(f'SELECT ifnull(max(rowid), 0) FROM "{name}"')
        return int(highest)


class SqliteSource(_SqlitePlace):
    """`Source` on the database of a data folder."""

    def refused_rows(self, tables: Tables) -> Iterator[str]:
        """As `Source.refused_rows`: SQLite checks neither the type of a value nor the encoding of a text."""
        for name, table in tables.items():
            columns = list(table.types)
            values = ", ".join(f'typeof("{column}"), CAST("{column}" AS BLOB)' for column in columns)
            key = ", ".join(f'quote("{column}")' for column in table.key)
            query = f'SELECT {values}, {key} FROM "{name}" ORDER BY {quoted(table.key)}'
            with storage_errors():
                for row in self._connection.execute(query):
                    for place, column in enumerate(columns):
                        kind, value = row[2 * place : 2 * place + 2]
                        if fault := _fault(table.types[column], kind, value):
                            yield f"{name} {', '.join(row[2 * len(columns) :])}: {column} {fault}"

    def change(self, function: Callable[[], None]) -> None:
        """As `Place.change`."""
        rows.database.initialize(database)
        with transaction():
            function()


def _fault(wanted: str, kind: str, value: bytes | None) -> str | None:
    """Return why PostgreSQL can't hold this value; None if it can.

    wanted: the type of PostgreSQL's column. kind: SQLite's type of the value.
    """
    if value is None:
        return None
    if kind != {"text": "text", "bytea": "blob"}.get(wanted, "integer"):
        return f"is of type {kind}"
    if wanted == "text":
        return _text_fault(value)
    if wanted == "boolean" and value not in (b"0", b"1"):
        return f"is {value.decode()}, neither 0 nor 1"
    if wanted == "integer" and not -(2**31) <= int(value) < 2**31:
        return f"is {value.decode()}, which is too large"
    return None


def _text_fault(value: bytes) -> str | None:
    if b"\0" in value:
        return "has a NUL character"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    return None


class SqliteTarget(_SqlitePlace):
    """`Target` on a new file. While it is filled it has no journal: after a crash it is made anew."""

    def __init__(self, path: Path) -> None:
        """path: the file's name once it is whole."""
        self._path, self._partial = path, path.with_name(MOVING)

    def create(self) -> None:
        """Make the tables, without rows. Raises DatabaseError, apsw.Error and OSError."""
        make_private(self._partial)
        use_file(self._partial)
        database.connect()
        with _undone():
            migrate()
        for name, value in (("journal_mode", "off"), ("synchronous", "off"), ("foreign_keys", "off")):
            self._connection.pragma(name, value)
        self._connection.pragma("cache_size", -CACHE_KILOBYTES)
        self._connection.execute("BEGIN EXCLUSIVE")
        for name in self.tables():
            self._connection.execute(f'DELETE FROM "{name}"')

    def write(self, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """As `Target.write`."""
        places = ", ".join("?" * len(columns))
        statement = f'INSERT INTO "{name}" ({quoted(columns)}) VALUES ({places})'
        try:
            with storage_errors():
                self._connection.executemany(statement, rows)
        except apsw.ConstraintError as error:
            raise RowsRefused(f"SQLite refuses rows of {name}: {error}") from error

    def continue_ids(self, last: Mapping[str, int]) -> None:
        """As `Target.continue_ids`."""
        with storage_errors():
            self._connection.execute("DELETE FROM sqlite_sequence")
            given = sorted((name, last_id) for name, last_id in last.items() if last_id)
            self._connection.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", given)

    def change(self, function: Callable[[], None]) -> None:
        """As `Place.change`."""
        with storage_errors():
            self._connection.execute("COMMIT")
            close_database()
            database.connect()  # with the journal and the checks of every connection
        rows.database.initialize(database)
        with _undone(), transaction():
            function()

    def seal(self) -> None:
        """As `Target.seal`."""
        with storage_errors():
            if not truncate_wal():
                raise StorageError("its journal is in use")
        close_database(checkpoint=True)
        read_back(self._partial)
        sync_file(self._partial)

    def commit(self) -> None:
        """As `Target.commit`."""
        os.rename(self._partial, self._path)
        sync_folder(self._path.parent)


@contextmanager
def sqlite_source(data_dir: Path) -> Iterator[SqliteSource]:
    """Open the database of this folder, and lock the folder. An older schema is upgraded first.

    Raises DatabaseUnusable if a server or a command uses it, or it can't be opened.
    """
    with server_lock(data_dir, otherwise=""), restore_lock(data_dir):
        open_database(data_dir, locked=True)
        try:
            yield SqliteSource()
        finally:
            close_database(checkpoint=True)


@contextmanager
def sqlite_target(data_dir: Path) -> Iterator[SqliteTarget]:
    """Make a new database in this folder, and lock the folder. What is not committed is removed.

    Raises DatabaseUnusable if the folder has a database, or can't be written.
    """
    if data_dir.exists() and not data_dir.is_dir():
        raise DatabaseUnusable(f"{data_dir} is no folder")
    with server_lock(data_dir, otherwise=""), restore_lock(data_dir):
        if has_database(data_dir):
            raise DatabaseUnusable(f"there is a {FILE_NAME} in {data_dir}; name a new folder")
        partial = data_dir / MOVING
        _remove(partial)  # a crash may have left one
        try:
            target = SqliteTarget(data_dir / FILE_NAME)
            target.create()
            yield target
        except (DatabaseError, apsw.Error) as error:
            raise StorageError(f"{data_dir}: {storage_reason(error)}") from error
        finally:
            close_database()
            _remove(partial)


@contextmanager
def _undone() -> Iterator[None]:
    """Raise StorageError in place of OutcomeUnknown: whatever is in the new file, it is removed."""
    try:
        yield
    except OutcomeUnknown as error:
        raise StorageError(str(error)) from error


def _remove(file: Path) -> None:
    for part in with_companions(file):
        part.unlink(missing_ok=True)
