"""Connections to the SQLite file, each with its pragmas read back, and write transactions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from playhouse.apsw_ext import APSWDatabase

from models.storage import DatabaseUnusable, OutcomeUnknown, StorageError, causes, rows
from models.storage.sqlite.failures import is_storage_failure, storage_errors, storage_reason

FILE_NAME = "leads.db"
APPLICATION_ID = 0x4C454144  # "LEAD", in the file's header: tells our files from any other SQLite file
BUSY_TIMEOUT_SECONDS = 5.0
# Of a new file. A lead touches a dozen pages, most of them for a few bytes, and each is written as a whole.
PAGE_BYTES = 2_048

# Peewee and SQLite accept a misspelt pragma in silence, so each is read back: (as set, as read).
PRAGMAS: dict[str, tuple[str, object]] = {
    "journal_mode": ("wal", "wal"),
    "synchronous": ("full", 2),
    "fullfsync": ("on", 1),  # macOS: its fsync alone leaves data in the drive's cache
    "checkpoint_fullfsync": ("on", 1),
    "foreign_keys": ("on", 1),
    "secure_delete": ("on", 1),  # what `customer erase` removes is overwritten, not just unlinked
    "temp_store": ("memory", 2),
    "wal_autocheckpoint": ("0", 0),  # only the writer checkpoints, between two of its transactions
}


class SqliteDatabase(APSWDatabase):  # type: ignore[misc]  # playhouse has no types
    """SQLite through apsw, with one connection a thread."""

    is_storage_failure = staticmethod(is_storage_failure)  # for rows, which know no database
    is_shared = False

    def native(self, statement: str) -> str:
        """Return the statement as it is."""
        return statement

    def run(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement on this thread's connection, and return all of its rows. Raises apsw's errors."""
        rows: list[tuple[Any, ...]] = self.connection().execute(statement, values).fetchall()
        return rows

    def _connect(self) -> apsw.Connection:
        connection: apsw.Connection = super()._connect()
        try:
            # Nor does a connection checkpoint because it is the last to close: see `close_database`.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # an older file keeps its own
            for name, (value, expected) in PRAGMAS.items():
                connection.execute(f"PRAGMA {name} = {value}")
                actual = next(iter(connection.execute(f"PRAGMA {name}")))[0]
                if actual != expected:
                    raise DatabaseUnusable(f"PRAGMA {name} is {actual!r}, not {expected!r}")
        except BaseException:
            connection.close()
            raise
        return connection


database = SqliteDatabase(None, timeout=BUSY_TIMEOUT_SECONDS)


def use_file(path: Path) -> None:
    """Have every connection that is opened from now on, and every row, be of this file."""
    database.init(str(path))
    rows.database.initialize(database)


@contextmanager
def reading() -> Iterator[None]:
    """Open this thread's connection for queries that can't write, unless it is open. Raises StorageError.

    In WAL mode they neither wait for the writer nor delay it.
    """
    with storage_errors():
        if database.is_closed():
            database.connect()
            database.execute_sql("PRAGMA query_only = on")
        yield


def close_database(*, checkpoint: bool = False) -> None:
    """Close this thread's connection, if it has one.

    checkpoint: if this is the last connection of all, checkpoint the WAL and remove it. Only for a caller
    that knows that no earlier checkpoint failed: SQLite takes pages for checkpointed that the disk may have
    lost, and only the next start checkpoints all of them.
    """
    if database.database is not None and not database.is_closed():
        if checkpoint:
            database.connection().config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        database.close()


def pragma(name: str) -> Any:
    """Return the first value of a PRAGMA on this thread's connection."""
    return database.execute_sql(f"PRAGMA {name}").fetchone()[0]


def wal_file(path: Path) -> Path:
    """Return where the write-ahead log of this database is."""
    return path.with_name(path.name + "-wal")


def with_companions(path: Path) -> tuple[Path, ...]:
    """Return the database file, and the files that SQLite may keep beside it."""
    return tuple(path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal"))


def size_with_wal(path: Path) -> int:
    """Return how many bytes the database takes with its WAL; 0 if there is none."""
    return sum(file.stat().st_size for file in (path, wal_file(path)) if file.exists())


@contextmanager
def transaction() -> Iterator[None]:
    """One write transaction on this thread's connection, all or nothing, durable when the block is left.

    Raises StorageError if the disk or a lock failed it, OutcomeUnknown if it failed the commit; any other
    error is the block's own. The write lock is taken at once: a deferred transaction fails as 'locked' in
    spite of the busy timeout.
    """
    committing = False
    try:
        with database.atomic("IMMEDIATE"):
            yield
            committing = True
    except Exception as error:
        if not is_storage_failure(error):
            raise
        raise (_failed_commit(error) if committing else StorageError(storage_reason(error))) from error


class WriteTransaction:
    """A write transaction in steps, for the writer: `begin` and `commit` may block, and may run in another
    thread than the one that opened the connection. One at a time.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def begin(self, *, wait: bool) -> bool:
        """Take the write lock. Return False if another connection holds it and `wait` is False.

        Raises StorageError.
        """
        try:
            self._connection.set_busy_timeout(int(1000 * BUSY_TIMEOUT_SECONDS) if wait else 0)
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError as error:
            if wait:
                raise StorageError(storage_reason(error)) from error
            return False
        except apsw.Error as error:
            raise StorageError(storage_reason(error)) from error
        return True

    def commit(self) -> None:
        """Make it durable. Raises StorageError or OutcomeUnknown; the transaction is over then as well."""
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            self.roll_back()
            raise _failed_commit(error) from error

    def roll_back(self) -> None:
        """Undo it, unless SQLite has done so already. Raises OutcomeUnknown if it is still open."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise OutcomeUnknown(storage_reason(error)) from error


def _failed_commit(error: Exception) -> StorageError:
    # A full disk refuses a write, so nothing is stored. After a failed write or fsync nothing is known.
    known = any(isinstance(cause, apsw.FullError) for cause in causes(error))
    return (StorageError if known else OutcomeUnknown)(storage_reason(error))
