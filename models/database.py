"""Owns the database file: connections with their pragmas asserted, and transactions."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import orjson
from peewee import DatabaseError, Field, Model, TextField
from playhouse.apsw_ext import APSWDatabase

FILE_NAME = "leads.db"
RESTORING = FILE_NAME + ".restoring"  # while it is there, a restore was begun and not finished
APPLICATION_ID = 0x4C454144  # "LEAD", in the file's header: tells our files from any other SQLite file
BUSY_TIMEOUT_SECONDS = 5.0
EMPTY_JOURNAL_TRIES = 100
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
    "wal_autocheckpoint": ("0", 0),  # the journal is the writer's to move, between two of its transactions
}


class DatabaseRefused(Exception):
    """The database can't be used as it is. The message says why and what to do; nothing was changed."""


def size_with_journal(path: Path) -> int:
    """How many bytes the database takes; 0 if there is none."""
    files = (path, path.with_name(FILE_NAME + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def refuse_half_restored(data_dir: Path) -> None:
    """Raises DatabaseRefused if a restore into this folder was begun and not finished."""
    if (data_dir / RESTORING).exists():
        raise DatabaseRefused(
            f"a restore into {data_dir} was begun and not finished; run 'backup restore' again"
        )


class StorageError(Exception):
    """The disk or the lock failed a transaction, which left nothing behind. Worth trying again later."""


class OutcomeUnknown(StorageError):
    """The disk failed a commit itself: what it was to write may be there after the next start, or may not."""


class LeadsDatabase(APSWDatabase):  # type: ignore[misc]  # playhouse has no types
    """SQLite through apsw, with a connection a thread, each one's pragmas asserted."""

    def _connect(self) -> apsw.Connection:
        connection: apsw.Connection = super()._connect()
        try:
            # Nor is the journal moved by whoever happens to close the database last: see `close_database`.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # an older file keeps its own
            for name, (value, expected) in PRAGMAS.items():
                connection.execute(f"PRAGMA {name} = {value}")
                actual = next(iter(connection.execute(f"PRAGMA {name}")))[0]
                if actual != expected:
                    raise DatabaseRefused(f"PRAGMA {name} is {actual!r}, not {expected!r}")
        except BaseException:
            connection.close()
            raise
        return connection


database = LeadsDatabase(None, timeout=BUSY_TIMEOUT_SECONDS)


class Row(Model):
    """What every table's class is made from."""

    class Meta:
        database = database
        legacy_table_names = False  # building_token, not buildingtoken


class UtcDateTimeField(Field):
    """An aware instant, stored as UTC text of one fixed width, so that text order is time order."""

    field_type = "TEXT"

    def db_value(self, value: datetime | None) -> str | None:
        return as_text_or_none(value)

    def python_value(self, value: str | None) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class JsonField(TextField):
    """A JSON value in a text column."""

    def db_value(self, value: Any) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def python_value(self, value: str | None) -> Any:
        return None if value is None else orjson.loads(value)


@functools.lru_cache(256)  # an instant of now is written several times in a row
def as_text(instant: datetime) -> str:
    """An aware instant as this database and every JSON listing writes it: 2026-11-23T10:00:00.000000Z."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_text_or_none(instant: datetime | None) -> str | None:
    """The same of an instant that may be missing."""
    return None if instant is None else as_text(instant)


@contextmanager
def transaction() -> Iterator[None]:
    """One write transaction, all or nothing, on disk (fsynced) when the block is left.

    Raises StorageError if the disk or the lock failed it, OutcomeUnknown if it failed the commit; any other
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
    """The same in its three steps, for the writer: the first and the last may wait, and can be taken in
    another thread than the one whose connection it is. One at a time.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def begin(self, *, wait: bool) -> bool:
        """Take the write lock; False if somebody else has it, and it was not to be waited for.

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
        """Have it on the disk. Raises StorageError, or OutcomeUnknown; it is over then as well."""
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            self.roll_back()
            raise _failed_commit(error) from error

    def roll_back(self) -> None:
        """Leave nothing of it, if SQLite hasn't done so already. Raises OutcomeUnknown: it is still there."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise OutcomeUnknown(storage_reason(error)) from error


def _failed_commit(error: Exception) -> StorageError:
    # A full disk refuses a write, and that is known; of a write or an fsync that failed nothing is.
    known = any(isinstance(cause, apsw.FullError) for cause in causes(error))
    return (StorageError if known else OutcomeUnknown)(storage_reason(error))


STORAGE_FAILURES = (
    apsw.FullError,
    apsw.IOError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.NoMemError,
    apsw.ProtocolError,
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from: a disk error surfaces as 'cannot rollback'."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_storage_failure(error: BaseException) -> bool:
    """True if the disk, the file or its lock failed, rather than a row."""
    return any(isinstance(cause, STORAGE_FAILURES) for cause in causes(error))


def storage_reason(error: BaseException) -> str:
    """What SQLite said of it, for the log: 'database or disk is full'."""
    return next((str(c) for c in causes(error) if isinstance(c, STORAGE_FAILURES)), str(error))


def connect_for_reading() -> None:
    """Give this thread a connection that can't write."""
    database.connect()
    database.execute_sql("PRAGMA query_only = on")


def close_database(*, moves_journal: bool = False) -> None:
    """Close this thread's connection, if it has one. moves_journal: if it is the last one of all, what is in
    the journal is moved into the database, which is the one file then. For who knows that no move of it has
    failed: of what counts as moved, the disk may have lost some then, and only the next start moves all.
    """
    if database.database is not None and not database.is_closed():
        if moves_journal:
            database.connection().config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        database.close()


def pragma(name: str) -> Any:
    """The first value a PRAGMA answers on this thread's connection."""
    return database.execute_sql(f"PRAGMA {name}").fetchone()[0]


def empty_journal() -> bool:
    """Move the write-ahead log into the database and cut it to nothing; False if a reader is in the way."""
    busy, _, _ = database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
    return not busy


def scrub() -> None:
    """Rewrite the file without any trace of what was deleted from it, and empty the journal.

    secure_delete alone is not enough: splitting an index's page leaves copies of keys in the page's unused
    part, where no later delete finds them (measured: of 600 erased customers one e-mail address stayed).
    Raises StorageError if the disk or another's lock failed it.
    """
    try:
        database.execute_sql("PRAGMA temp_store = file")  # or the whole file is rewritten in memory
        database.execute_sql("VACUUM")
        database.execute_sql("PRAGMA temp_store = memory")
        # Without waiting: a checkpoint waits for readers with the write lock held, and leads wait for that.
        database.connection().set_busy_timeout(0)
        for _ in range(EMPTY_JOURNAL_TRIES):
            if empty_journal():
                return
            time.sleep(0.1)
    except (DatabaseError, apsw.Error) as error:
        raise StorageError(storage_reason(error)) from error
    finally:
        database.connection().set_busy_timeout(int(1000 * BUSY_TIMEOUT_SECONDS))
    raise StorageError("the journal is in use, and still holds what was deleted; try again")
