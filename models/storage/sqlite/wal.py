"""Checkpoints: the write-ahead log's way into the database file, outside of commits that clients await."""

import apsw

from models.storage import DatabaseUnusable, OutcomeUnknown, StorageError
from models.storage.sqlite.connection import BUSY_TIMEOUT_SECONDS, database
from models.storage.sqlite.failures import storage_reason

# A WAL this long is checkpointed. At SQLite's default of 1,000 pages, a large database spends a tenth of its
# time on checkpoints.
CHECKPOINT_PAGES = 8_000
RECOVER_WAL_SECONDS = 10.0


class Wal:
    """The write-ahead log as the writer's connection sees it.

    It replaces SQLite's automatic checkpoint, which runs on any connection, after a commit that a client
    awaits.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        connection.set_wal_hook(self._note_length)

    def _note_length(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    @property
    def is_long(self) -> bool:
        """True when a checkpoint is due."""
        return self._pages >= self._checkpoint_at

    def checkpoint(self) -> None:
        """Checkpoint as many pages as no reader still needs. Raises StorageError; a retry is safe then.

        SQLite marks pages checkpointed before the final fsync. If that fsync fails, they are never
        checkpointed again, and the WAL that still holds them is overwritten. So only the writer checkpoints,
        between two transactions. If a reader or a command let an earlier checkpoint do only a part, a failure
        raises OutcomeUnknown instead: the next start checkpoints all pages.
        """
        self._checkpoint_at = self._pages + CHECKPOINT_PAGES // 4  # the next try, if this one does a part
        try:
            pages, checkpointed = self._connection.wal_checkpoint()
        except apsw.Error as error:
            may_be_lost = isinstance(error, apsw.IOError) and self._has_checkpointed_pages()
            raise (OutcomeUnknown if may_be_lost else StorageError)(storage_reason(error)) from error
        if checkpointed == pages:
            self._pages, self._checkpoint_at = 0, CHECKPOINT_PAGES

    def _has_checkpointed_pages(self) -> bool:
        try:
            _, checkpointed = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except apsw.Error:
            return True  # not known, so assume the worse
        return checkpointed > 0


def truncate_wal() -> bool:
    """Checkpoint the whole WAL and truncate it to zero bytes. Return False if a reader is in the way."""
    busy, _, _ = database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
    return not busy


def recover_wal() -> None:
    """At a server's start: checkpoint what a crash left in the WAL, fsynced, and truncate it.

    A commit whose fsync failed may stand in the operating system's cache and not on the disk; a power cut
    would then lose every commit behind it too. Raises DatabaseUnusable if a reader stays all the while.
    """
    for _ in range(int(RECOVER_WAL_SECONDS / BUSY_TIMEOUT_SECONDS)):
        if truncate_wal():
            return
    raise DatabaseUnusable(
        "another program is reading the database and keeps its journal; end it, start again"
    )
