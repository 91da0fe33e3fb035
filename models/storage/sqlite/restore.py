"""Restoring: a backup takes the database's place, and what was there is kept."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import apsw
from peewee import DatabaseError

from models.files import make_private, sync_file, sync_folder
from models.secret import add_keys_of
from models.storage import DatabaseUnusable, StorageError
from models.storage.sqlite.backup import Backup, Progress, copy_database, read_back, verify_backup
from models.storage.sqlite.backup_files import AT, secret_file
from models.storage.sqlite.connection import (
    FILE_NAME,
    close_database,
    database,
    transaction,
    use_file,
    with_companions,
)
from models.storage.sqlite.failures import storage_reason
from models.storage.sqlite.inspect import QUICK_CHECK, RESTORING, ReadOnlyDatabase, ask_to_recover
from models.storage.sqlite.locks import restore_lock, server_lock
from models.storage.sqlite.migrations.migrate import migrate
from models.storage.sqlite.wal import truncate_wal

# How far ids are moved on when it is not known how many were given out after the backup was made.
UNKNOWN_IDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Restored:
    """A finished restore. replaced: the folder that holds the previous database, None if there was none;
    leads_replaced: how many leads that had, None if it is not known; has_secret: whether a secret stood
    beside the backup, and could be used.
    """

    backup: Backup
    replaced: Path | None
    leads_replaced: int | None
    has_secret: bool


def restore_backup(
    data_dir: Path, path: Path, now: datetime, progress: Progress, prepare: Callable[[datetime], None]
) -> Restored:
    """Put a backup in the place of this folder's database. No server may run on it.

    What was there is moved to a folder beside it. Ids go on from the highest that was given out: one that a
    client was given must not be another lead's (C4). Interrupted at any moment, a restore leaves either what
    was there, or a folder that refuses to be used until it is run again. prepare: changes the rows of the
    copy, in one transaction, before it takes its place; it is given `now`.

    Raises DatabaseUnusable if a server runs, or the backup is damaged, of a newer schema or not one of ours;
    OSError if the disk fails; SettingError if the secret can't be read or written.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with server_lock(data_dir, otherwise=""), restore_lock(data_dir):
        if path.exists() and (data_dir / FILE_NAME).exists() and path.samefile(data_dir / FILE_NAME):
            raise DatabaseUnusable(f"{path} is the database itself; name a backup of it")
        progress("reading the backup")
        backup = verify_backup(path)
        prepared = data_dir / (RESTORING + ".partial")
        _remove(prepared)  # a crash may have left one
        try:
            make_private(prepared)
            progress("copying it")
            copy_database(path, prepared, immutable=True)
            old = _look_at_old(data_dir / FILE_NAME)
            _prepare(prepared, old.ids if old else None, lambda: prepare(now))
            has_secret = add_keys_of(secret_file(path), data_dir, now)
        except BaseException as error:
            _remove(prepared)
            if isinstance(error, DatabaseError | apsw.Error | StorageError):
                raise DatabaseUnusable(
                    f"copying {path} to {data_dir} failed: {storage_reason(error)}; "
                    "see that both disks are well, and have room; nothing was changed"
                ) from error
            raise
        replaced = _put_in_place(data_dir, prepared, now)
        return Restored(backup, replaced, old.leads if old else None, has_secret)


def _remove(database_file: Path) -> None:
    for file in with_companions(database_file):
        file.unlink(missing_ok=True)


def _prepare(prepared: Path, given_out: dict[str, int] | None, change: Callable[[], None]) -> None:
    """Upgrade the copy, change its rows, and move its ids on; all of it is in the one file then.

    Raises DatabaseError, apsw.Error, StorageError, or DatabaseUnusable.
    """
    close_database()
    use_file(prepared)
    try:
        database.connect()
        migrate()
        with transaction():
            _move_ids_on(given_out)
            change()
        if not truncate_wal():
            raise StorageError("its journal is in use")
    finally:
        close_database(checkpoint=True)
    read_back(prepared)  # closing may fail to put the last of a WAL into the file, and says nothing
    sync_file(prepared)


def _move_ids_on(given_out: dict[str, int] | None) -> None:
    last = dict(database.execute_sql("SELECT name, seq FROM sqlite_sequence").fetchall())
    # Of all tables that count: one that has given out no id yet is not in sqlite_sequence.
    counting = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"
    for (table,) in database.execute_sql(counting).fetchall():
        so_far = last.get(table, 0)
        after = so_far + UNKNOWN_IDS if given_out is None else max(so_far, given_out.get(table, 0))
        database.execute_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        database.execute_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, after))


@dataclass(frozen=True, slots=True)
class _Old:
    """The database to be replaced: the highest id that each table gave out, and the number of leads."""

    ids: dict[str, int]
    leads: int


def _look_at_old(old: Path) -> _Old | None:
    """Return what the database to be replaced has given out; None if there is none, or it is damaged."""

    def look(database: ReadOnlyDatabase) -> _Old | None:
        if database.value(f"PRAGMA {QUICK_CHECK}(1)") != "ok":
            return None
        counters = database.rows("SELECT name, seq FROM sqlite_sequence")
        return _Old(
            {row["name"]: row["seq"] for row in counters}, int(database.value("SELECT count(*) FROM lead"))
        )

    try:
        return ask_to_recover(old, look) if old.exists() else None
    except StorageError:
        return None


def _put_in_place(data_dir: Path, prepared: Path, now: datetime) -> Path | None:
    # From here on the folder refuses to be used until the last rename, whatever happens between.
    restoring, path = data_dir / RESTORING, data_dir / FILE_NAME
    os.replace(prepared, restoring)
    sync_folder(data_dir)
    replaced: Path | None = None
    old = [file for file in with_companions(path) if file.exists()]
    if old:
        replaced = _new_folder(data_dir, f"replaced-{now:{AT}}")
        for file in old:
            os.rename(file, replaced / file.name)
        sync_folder(replaced)
        sync_folder(data_dir)
    os.rename(restoring, path)
    sync_folder(data_dir)
    return replaced


def _new_folder(parent: Path, name: str) -> Path:
    for number in range(1, 1_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return folder
    raise DatabaseUnusable(f"{parent} has a thousand folders named {name}; remove some")
