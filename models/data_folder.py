"""Owns the opening of a data folder: what can't be used is refused, what is old is backed up and upgraded."""

import os
from contextlib import closing
from pathlib import Path

import apsw
from peewee import DatabaseError

from models.backup import create_backup, new_path
from models.clock import Clock
from models.database import (
    BUSY_TIMEOUT_SECONDS,
    FILE_NAME,
    DatabaseRefused,
    LeadsDatabase,
    causes,
    close_database,
    database,
    empty_journal,
    refuse_half_restored,
    storage_reason,
)
from models.files import sync_folder
from models.folder_lock import server_lock
from models.migrations import NEWEST, migrate, refuse_newer, schema_of
from models.settings import BACKUPS

WAL_RESET_FIXED_IN = (3, 51, 3)  # before it, a checkpoint beside a writer could lose committed rows
# quick_check reads every page; beyond this it would delay the start.
CHECK_WHOLE_FILE_UP_TO_BYTES = 64 * 2**20
JOURNAL_PATIENCE_SECONDS = 10.0


def open_database(data_dir: Path, *, locked: bool = False) -> None:
    """Open the database of this data folder, making folder and file if there are none; upgrade an old one,
    with a verified backup before it. locked: the caller holds the folder's lock.

    Raises DatabaseRefused for a file that is corrupt, foreign, or of a newer version; it is left as it was.
    """
    if LeadsDatabase.server_version < WAL_RESET_FIXED_IN:
        raise DatabaseRefused(
            f"SQLite {apsw.sqlitelibversion()} can lose committed rows; "
            f"install an apsw built on {'.'.join(map(str, WAL_RESET_FIXED_IN))} or later"
        )
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseRefused(f"the data folder {data_dir} can't be made: {error.strerror}") from error
    close_database()
    database.init(str(path))
    try:
        version = _check(path)
        if version == NEWEST:
            database.connect()
        elif version == 0:
            database.connect()
            migrate()
            sync_folder(data_dir)  # or the next power cut may take the file's name away
        elif locked:
            _upgrade(data_dir, version)
        else:
            # Not under the feet of a server that knows only the old schema.
            with server_lock(data_dir):
                _upgrade(data_dir, version)
    except (DatabaseError, apsw.Error) as error:
        close_database()
        raise DatabaseRefused(_refusal(path, error)) from error
    except BaseException:
        close_database()
        raise


def _upgrade(data_dir: Path, version: int) -> None:
    path = new_path(data_dir, data_dir / BACKUPS, f"before-schema-{NEWEST}", Clock().now())
    try:
        create_backup(data_dir, path)
    except OSError as error:
        raise DatabaseRefused(
            f"the database has to be upgraded, and could not be backed up before ({error.strerror}); "
            "nothing was changed"
        ) from error
    database.connect()
    migrate()


def settle_journal() -> None:
    """Move what a crash left in the journal into the database, fsynced, and cut the journal to nothing.

    For a server's start. A commit whose fsync failed may stand in the journal as the system remembers it,
    but not as the disk does; what was appended behind it would be lost with it in a power cut. Raises
    DatabaseRefused if somebody reads the database all the while.
    """
    for _ in range(int(JOURNAL_PATIENCE_SECONDS / BUSY_TIMEOUT_SECONDS)):
        if empty_journal():
            return
    raise DatabaseRefused(
        "another program is reading the database and keeps its journal; end it, start again"
    )


def _check(path: Path) -> int:
    """The schema's version, 0 for none; refuses what can't be used."""
    # Through a connection that can't write: what is refused stays as it was, to the byte. Unless the very
    # first command was cut off: then SQLite has to undo what it had begun, or it can't read the file.
    refuse_half_restored(path.parent)
    if not path.exists():
        if path.with_name(FILE_NAME + "-wal").exists():
            raise DatabaseRefused(f"{path} is missing but its -wal file is there; put both back together")
        return 0
    if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
        raise DatabaseRefused(f"{path} can't be read and written; check its owner and mode")
    cut_off = path.with_name(FILE_NAME + "-journal").exists()
    flags = apsw.SQLITE_OPEN_READWRITE if cut_off else apsw.SQLITE_OPEN_READONLY
    with closing(apsw.Connection(str(path), flags=flags)) as connection:
        connection.set_busy_timeout(int(1000 * BUSY_TIMEOUT_SECONDS))
        version = schema_of(connection)
        if version is None:
            raise DatabaseRefused(f"{path} is some other program's database; give another LEADS_DATA_DIR")
        refuse_newer(path, version)
        if path.stat().st_size <= CHECK_WHOLE_FILE_UP_TO_BYTES:
            verdict = connection.execute("PRAGMA quick_check(1)").get
            if verdict != "ok":
                raise DatabaseRefused(f"{path} is corrupt ({verdict}); keep it, and restore a backup")
    return version


def _refusal(path: Path, error: Exception) -> str:
    if any(isinstance(cause, apsw.NotADBError | apsw.CorruptError) for cause in causes(error)):
        return f"{path} is corrupt ({error}); it was left as it is: keep it, and restore a backup"
    return f"{path} can't be opened: {storage_reason(error)}"
