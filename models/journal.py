"""Owns the way of the journal into the database, out of the way of those who wait for a commit."""

import apsw

from models.database import OutcomeUnknown, StorageError, storage_reason

# From so many pages on it is moved. At SQLite's usual 1,000 a large database is for a tenth of the time busy
# with that.
JOURNAL_PAGES = 8_000


class Journal:
    """What the writer's connection appends each commit's pages to, until they are moved into the database and
    it starts anew.

    In place of SQLite's own way, to have any connection do that after a commit that somebody waits for.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._pages = 0
        self._most_pages = JOURNAL_PAGES
        connection.set_wal_hook(self._note_length)

    def _note_length(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    @property
    def is_long(self) -> bool:
        """Whether it is time to move it."""
        return self._pages >= self._most_pages

    def move(self) -> None:
        """Move it, as far as nobody still reads from it. Raises StorageError; no harm is done then.

        Pages count as moved when they are written, and are synced once all are. Should that fail, nobody
        would move them again, and the journal that still has them would start anew. So it is moved between
        two transactions, and by nobody else. If a reader, or a command that wrote, let only a part of it
        through before, it raises OutcomeUnknown instead: the next start moves all of it.
        """
        self._most_pages = self._pages + JOURNAL_PAGES // 4  # when to try again, if not all could be moved
        try:
            in_all, moved = self._connection.wal_checkpoint()
        except apsw.Error as error:
            perhaps_lost = isinstance(error, apsw.IOError) and self._counts_as_moved()
            raise (OutcomeUnknown if perhaps_lost else StorageError)(storage_reason(error)) from error
        if moved == in_all:
            self._pages, self._most_pages = 0, JOURNAL_PAGES

    def _counts_as_moved(self) -> bool:
        try:
            _, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except apsw.Error:
            return True  # for all we know
        return moved > 0
