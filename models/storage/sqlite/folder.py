"""Opening a data folder: an unusable database is refused, an old one is backed up and upgraded."""

import logging
from pathlib import Path

import apsw
from peewee import DatabaseError

from models.clock import Clock
from models.files import sync_folder
from models.settings import BACKUPS
from models.storage import DatabaseUnusable
from models.storage.sqlite.backup import create_backup
from models.storage.sqlite.backup_files import new_path
from models.storage.sqlite.connection import (
    FILE_NAME,
    SqliteDatabase,
    close_database,
    database,
    use_file,
    wal_file,
)
from models.storage.sqlite.failures import is_corruption, storage_reason
from models.storage.sqlite.inspect import (
    QUICK_CHECK,
    RESTORING,
    Inspection,
    Problem,
    ask_before_opening,
    half_restored,
    inspect,
    newer,
)
from models.storage.sqlite.locks import server_lock
from models.storage.sqlite.migrations.migrate import migrate
from models.storage.sqlite.migrations.steps import NEWEST

log = logging.getLogger("leads.server")

WAL_RESET_FIXED_IN = (3, 51, 3)  # before it, a checkpoint beside a writer could lose committed rows
# quick_check reads every page; beyond this it would delay the start.
CHECK_WHOLE_FILE_UP_TO_BYTES = 64 * 2**20


def has_database(data_dir: Path) -> bool:
    """Return True if the folder has a database, or what is left of one."""
    path = data_dir / FILE_NAME
    return any(file.exists() for file in (path, wal_file(path), data_dir / RESTORING))


def open_database(data_dir: Path, *, locked: bool = False) -> None:
    """Open the database of this data folder, making folder and file if there are none.

    An old one is upgraded, with a verified backup before it. locked: the caller holds the folder's lock.
    Raises DatabaseUnusable for a file that is corrupt, foreign, or of a newer version; it is left as it was.
    """
    if SqliteDatabase.server_version < WAL_RESET_FIXED_IN:
        raise DatabaseUnusable(
            f"SQLite {apsw.sqlitelibversion()} can lose committed rows; "
            f"install an apsw built on {'.'.join(map(str, WAL_RESET_FIXED_IN))} or later"
        )
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnusable(f"the data folder {data_dir} can't be made: {error.strerror}") from error
    close_database()
    use_file(path)
    try:
        schema = _schema_of_usable(path)
        if schema == NEWEST:
            database.connect()
        elif schema == 0:
            database.connect()
            migrate()
            sync_folder(data_dir)  # or the next power cut may take the file's name away
        elif locked:
            _upgrade(data_dir)
        else:
            # Not under the feet of a server that knows only the old schema.
            with server_lock(data_dir):
                _upgrade(data_dir)
    except (DatabaseError, apsw.Error) as error:
        close_database()
        reason = str(error) if is_corruption(error) else storage_reason(error)
        problem = Problem.CORRUPT if is_corruption(error) else Problem.UNREADABLE
        raise _unusable(Inspection(path, problem, reason)) from error
    except BaseException:
        close_database()
        raise


def _upgrade(data_dir: Path) -> None:
    path = new_path(data_dir, data_dir / BACKUPS, f"before-schema-{NEWEST}", Clock().now())
    try:
        create_backup(data_dir, path)
    except OSError as error:
        raise DatabaseUnusable(
            f"the database has to be upgraded, and could not be backed up before ({error.strerror}); "
            "nothing was changed"
        ) from error
    database.connect()
    migrate()
    log.info("the database was upgraded", extra={"schema": NEWEST, "backup": str(path)})


def _schema_of_usable(path: Path) -> int:
    """Return the schema's version, 0 for none. Raises DatabaseUnusable."""
    small = path.exists() and path.stat().st_size <= CHECK_WHOLE_FILE_UP_TO_BYTES
    inspection = inspect(path, [QUICK_CHECK] if small else [], ask_before_opening)
    if inspection.problem is not None:
        raise _unusable(inspection)
    return inspection.schema or 0


def _unusable(inspection: Inspection) -> DatabaseUnusable:
    path, detail = inspection.path, inspection.detail
    match inspection.problem:
        case Problem.HALF_RESTORED:
            return half_restored(path.parent)
        case Problem.NOT_A_FOLDER:
            return DatabaseUnusable(f"{path.parent} is no folder; give another LEADS_DATA_DIR")
        case Problem.ORPHAN_WAL:
            return DatabaseUnusable(f"{path} is missing but its -wal file is there; put both back together")
        case Problem.NO_ACCESS:
            return DatabaseUnusable(f"{path} can't be read and written; check its owner and mode")
        case Problem.FOREIGN:
            return DatabaseUnusable(f"{path} is some other program's database; give another LEADS_DATA_DIR")
        case Problem.NEWER:
            return newer(path, inspection.schema or 0)
        case Problem.CORRUPT:
            return DatabaseUnusable(
                f"{path} is corrupt ({detail}); it was left as it is: keep it, and restore a backup"
            )
        case _:
            return DatabaseUnusable(f"{path} can't be opened: {detail}")
