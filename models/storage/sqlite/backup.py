"""Backups: whole copies of the database, each read back before it counts.

A backup is a SQLite file in one piece. Beside it are its checksum, in the form of `sha256sum`, and a copy of
the installation's secret.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from models.files import make_private, sha256_of, sync_file, sync_folder
from models.secret import copy_secret
from models.storage import DatabaseUnusable, StorageError
from models.storage.sqlite.backup_files import checksum_file, partial_file, secret_file
from models.storage.sqlite.connection import FILE_NAME, size_with_wal, wal_file
from models.storage.sqlite.failures import storage_reason
from models.storage.sqlite.inspect import (
    FOREIGN_KEY_CHECK,
    INTEGRITY_CHECK,
    Inspection,
    Problem,
    ask_immutable,
    inspect_file,
    newer,
    open_file,
    refuse_half_restored,
)

SPARE_BYTES = 64 * 2**20  # a backup leaves so much free on its disk, where leads may be stored as well

Progress = Callable[[str], None]  # is called with each step of a long task, in words


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read back and found whole. newest_lead_at: None if it has no leads."""

    path: Path
    size: int  # bytes
    schema: int
    leads: int
    newest_lead_at: str | None
    checksum: str | None  # SHA-256, as the file beside it has it; None if there is no such file

    def as_dict(self) -> dict[str, Any]:
        """Return the backup as commands show it."""
        return {
            "path": str(self.path),
            "bytes": self.size,
            "schema": self.schema,
            "leads": self.leads,
            "newest_lead_at": self.newest_lead_at,
            "sha256": self.checksum,
        }


def create_backup(data_dir: Path, path: Path, progress: Progress = lambda step: None) -> Backup:
    """Copy the database of this data folder, as it is at one moment, to a new file, and read it back.

    The server takes leads meanwhile. Only a whole backup gets its name. Raises DatabaseUnusable if there is
    nothing to copy, the file exists already, or the copy fails or is not whole; OSError if the disk fails.
    """
    source = data_dir / FILE_NAME
    refuse_half_restored(data_dir)
    if not source.exists():
        raise DatabaseUnusable(f"there is no {FILE_NAME} in {data_dir}; give --data-dir")
    if path.exists():
        raise DatabaseUnusable(f"{path} is there already; a backup is never overwritten")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_without_room(source, path.parent)
    partial = partial_file(path)
    try:
        make_private(partial)
    except FileExistsError:
        raise DatabaseUnusable(
            f"{partial} is there: {path.name} is being made, or that was cut off; then remove it"
        ) from None
    try:
        progress(f"copying {source.stat().st_size / 1e6:.1f} MB")
        copy_database(source, partial)
        progress("reading the copy back")
        schema, leads, newest = read_back(partial)
        checksum = sha256_of(partial)
        copy_secret(data_dir, secret_file(path))
        beside = checksum_file(path)
        beside.unlink(missing_ok=True)
        make_private(beside, f"{checksum}  {path.name}\n".encode())
        partial.rename(path)
        sync_folder(path.parent)
    except BaseException as error:
        for file in (partial, secret_file(path), checksum_file(path)):
            file.unlink(missing_ok=True)
        if isinstance(error, apsw.Error):
            raise DatabaseUnusable(
                f"copying {source} to {path.parent} failed: {storage_reason(error)}; "
                "see that both disks are well, and have room"
            ) from error
        raise
    return Backup(path, path.stat().st_size, schema, leads, newest, checksum)


def _refuse_without_room(source: Path, folder: Path) -> None:
    needed = size_with_wal(source) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DatabaseUnusable(
            f"a backup takes {needed / 1e6:.0f} MB with what is to stay free, and {folder} has "
            f"{free / 1e6:.0f}; make room, or give another LEADS_BACKUP_DIR"
        )


def copy_database(source: Path, target: Path, *, immutable: bool = False) -> None:
    """Copy a database into an empty file, in one piece without a WAL, synced.

    immutable: no process writes to the source, and nothing is to be made beside it. Raises apsw.Error;
    OSError if the copy can't be synced.

    Through SQLite: a copy of the file alone would lack what is still in its WAL. In one step: a copy in
    several steps begins anew whenever a lead is written between them, and never ends.
    """
    with (
        closing(open_file(source, apsw.SQLITE_OPEN_READONLY, immutable=immutable)) as from_here,
        closing(apsw.Connection(str(target))) as to_there,
    ):
        copying = to_there.backup("main", from_here, "main")
        try:
            copying.step(-1)
        finally:
            copying.finish()  # this says which failure it was, where step says 'not an error'
        to_there.pragma("journal_mode", "delete")
    sync_file(target)


def verify_backup(path: Path) -> Backup:
    """Read a backup to its last byte, and return what it holds.

    Raises DatabaseUnusable if it is damaged or not one of ours; OSError if it can't be read.
    """
    path.open("rb").close()  # OSError if it is missing or a folder: that is no damage
    expected = _checksum_beside(path)
    if expected is not None and sha256_of(path) != expected:
        raise DatabaseUnusable(f"{path} is damaged: it is not what {checksum_file(path).name} says it was")
    schema, leads, newest = read_back(path)
    return Backup(path, path.stat().st_size, schema, leads, newest, expected)


def read_back(path: Path) -> tuple[int, int, str | None]:
    """Read a database in one file to its last byte.

    Return its schema, its number of leads, and when the newest lead came.

    Raises DatabaseUnusable if it is damaged, or not one of ours, or not in one file.
    """
    wal = wal_file(path)
    if wal.exists() and wal.stat().st_size:
        raise DatabaseUnusable(f"{path} is no backup: it has a journal, {wal.name}, beside it")
    inspection = inspect_file(path, [INTEGRITY_CHECK, FOREIGN_KEY_CHECK], ask_immutable)
    if inspection.problem is not None or not inspection.schema:
        raise _not_a_whole_backup(inspection)
    try:
        leads, newest = ask_immutable(
            path, lambda database: database.value("SELECT count(*), max(created_at) FROM lead")
        )
    except StorageError as error:
        raise DatabaseUnusable(f"{path} is damaged: {error}") from error
    return inspection.schema, leads, newest


def _not_a_whole_backup(inspection: Inspection) -> DatabaseUnusable:
    path = inspection.path
    match inspection.problem:
        case None | Problem.FOREIGN:
            return DatabaseUnusable(f"{path} is no backup of this program's database")
        case Problem.NEWER:
            return newer(path, inspection.schema or 0)
        case Problem.BROKEN_REFERENCES:
            return DatabaseUnusable(f"{path} is damaged: rows in it belong to rows that are not there")
        case _:
            return DatabaseUnusable(f"{path} is damaged: {inspection.detail}")


def _checksum_beside(path: Path) -> str | None:
    beside = checksum_file(path)
    if not beside.exists():
        return None
    found = re.match(r"[0-9a-f]{64}\b", beside.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise DatabaseUnusable(f"{beside} holds no checksum; if {path.name} is to be trusted, remove it")
    return found[0]
