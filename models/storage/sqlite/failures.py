"""Which of SQLite's errors mean that storage failed, rather than a row."""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from models.storage import StorageError, causes

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


def is_storage_failure(error: BaseException) -> bool:
    """Return True if the disk, the file or its lock failed, rather than a row."""
    return any(isinstance(cause, STORAGE_FAILURES) for cause in causes(error))


def is_corruption(error: BaseException) -> bool:
    """Return True if SQLite found that the file is no database, or a damaged one."""
    return any(isinstance(cause, apsw.NotADBError | apsw.CorruptError) for cause in causes(error))


def storage_reason(error: BaseException) -> str:
    """Return what SQLite said of a failure, for the log: 'database or disk is full'."""
    return next((str(c) for c in causes(error) if isinstance(c, STORAGE_FAILURES)), str(error))


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise StorageError in place of a storage failure of the block; any other error stays as it is."""
    try:
        yield
    except Exception as error:
        if is_storage_failure(error):
            raise StorageError(storage_reason(error)) from error
        raise
