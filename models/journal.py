"""Owns the way of the journal into the database, out of the way of those who write."""

import apsw
from peewee import DatabaseError

from models.database import (
    JOURNAL_PAGES,
    StorageError,
    close_database,
    database,
    storage_reason,
)


class Journal:
    """What the writer's connection appends each commit's pages to, until they are moved into the database and
    it starts anew.

    In place of SQLite's own way, to do that in the middle of a commit that somebody waits for. It only starts
    anew when all of it is moved while nothing is written; so most of it is moved beside the writing, and what
    came in meanwhile between two transactions. Whatever fails, its pages are safe where they are.
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

    def move_most(self) -> None:
        """Move what is there now, in a thread and by a connection of its own. Raises StorageError."""
        try:
            database.connect()
            database.connection().wal_checkpoint()
            _sync(database.database)
        except (apsw.Error, DatabaseError) as error:
            raise StorageError(storage_reason(error)) from error
        finally:
            close_database()

    def move_rest(self) -> None:
        """Move what is left, by the writer's connection and between two of its transactions.

        Raises StorageError.
        """
        # When to try again, if not all of it could be moved, as somebody still reads from it.
        self._most_pages = self._pages + JOURNAL_PAGES // 4
        try:
            in_all, moved = self._connection.wal_checkpoint()
        except apsw.Error as error:
            raise StorageError(storage_reason(error)) from error
        if moved == in_all:
            self._most_pages = JOURNAL_PAGES


def _sync(path: str) -> None:
    # SQLite leaves it to the move of the last page, which holds the writer up. Not by a file of our own: as
    # POSIX has it, closing one takes away the locks which SQLite holds on it.
    file = apsw.VFSFile("", path, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])
    try:
        file.xSync(apsw.SQLITE_SYNC_NORMAL)
    finally:
        file.xClose()
