"""Backups: whole copies of the database, each read back before it counts, kept by rotation.

A backup is a SQLite file in one piece, with its checksum beside it in the form of `sha256sum`.
"""

import itertools
import re
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from models.clock import utc_text
from models.storage import DatabaseUnusable, StorageError
from models.storage.sqlite.connection import FILE_NAME, size_with_wal, wal_file
from models.storage.sqlite.failures import storage_reason
from models.storage.sqlite.files import make_private, sha256_of, sync_file, sync_folder
from models.storage.sqlite.inspect import (
    FOREIGN_KEY_CHECK,
    INTEGRITY_CHECK,
    Inspection,
    Problem,
    ReadOnlyDatabase,
    ask_immutable,
    ask_in_use,
    inspect_file,
    newer,
    open_file,
    refuse_half_restored,
)

NIGHTLY = "nightly"
NAME = re.compile(
    r"leads-(?:(?P<of>[0-9a-f]{8})-)?(?P<why>[\w-]+)-(?P<at>\d{8}T\d{6}Z)(?:-\d+)?\.db", re.ASCII
)
AT = "%Y%m%dT%H%M%SZ"
SPARE_BYTES = 64 * 2**20  # that a backup leaves free on its disk, since leads may be stored there as well
CUT_OFF_SECONDS = 86_400  # a copy that nobody has written to for so long was cut off

Progress = Callable[[str], None]  # is told, in words, of each step of something long


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read back and found whole. newest_lead_at: None if it has no leads."""

    path: Path
    size: int  # bytes
    schema: int
    leads: int
    newest_lead_at: str | None
    checksum: str | None  # SHA-256, as it stands beside the file; None: nothing stands there

    def as_dict(self) -> dict[str, Any]:
        """The backup as commands show it."""
        return {
            "path": str(self.path),
            "bytes": self.size,
            "schema": self.schema,
            "leads": self.leads,
            "newest_lead_at": self.newest_lead_at,
            "sha256": self.checksum,
        }


def installation_of(data_dir: Path) -> str | None:
    """Return the name that this folder's database has for itself; None of one too old for that, or none.

    Raises DatabaseUnusable if it can't be read, or is only half restored.
    """
    path = data_dir / FILE_NAME
    refuse_half_restored(data_dir)
    if not path.exists():
        return None
    try:
        return ask_in_use(path, installation_in)
    except StorageError as error:
        raise DatabaseUnusable(f"{path} can't be read: {error}") from error


def installation_in(database: ReadOnlyDatabase) -> str | None:
    """Return the same of a database that was opened."""
    if (database.schema or 0) < 3:
        return None
    return str(database.value("SELECT id FROM installation"))


def new_path(data_dir: Path, folder: Path, why: str, now: datetime) -> Path:
    """Where a backup of this data folder made now goes: 'leads-1a2b3c4d-nightly-20261123T030000Z.db', or
    '…Z-2.db' if that is taken. Raises DatabaseUnusable.
    """
    of = installation_of(data_dir)
    name = "-".join(["leads", *([of] if of else []), why, f"{now.astimezone(UTC):{AT}}"])
    names = (f"{name}-{number}.db" if number > 1 else f"{name}.db" for number in itertools.count(1))
    paths = (folder / name for name in names)
    return next(path for path in paths if not path.exists() and not _partial(path).exists())


def _partial(path: Path) -> Path:
    """What a backup is called until it is whole."""
    return path.with_name(path.name + ".partial")


def create_backup(data_dir: Path, path: Path, progress: Progress = lambda step: None) -> Backup:
    """Copy the database of this data folder, as it is at one moment, to a new file, and read it back.

    Leads are taken meanwhile. Raises DatabaseUnusable if there is nothing to copy, the file is there already,
    or the copy fails or is not whole; OSError if the disk fails. Only a whole backup gets its name.
    """
    source = data_dir / FILE_NAME
    refuse_half_restored(data_dir)
    if not source.exists():
        raise DatabaseUnusable(f"there is no {FILE_NAME} in {data_dir}; give --data-dir")
    if path.exists():
        raise DatabaseUnusable(f"{path} is there already; a backup is never overwritten")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_without_room(source, path.parent)
    partial = _partial(path)
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
        beside = checksum_file(path)
        beside.unlink(missing_ok=True)
        make_private(beside, f"{checksum}  {path.name}\n".encode())
        partial.rename(path)
        sync_folder(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
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
    """Read a backup to its last byte. Raises DatabaseUnusable, which says how, if it is damaged or not one of
    ours; OSError if it can't be read.
    """
    path.open("rb").close()  # what isn't there, or is a folder, is not damaged
    expected = _checksum_beside(path)
    if expected is not None and sha256_of(path) != expected:
        raise DatabaseUnusable(f"{path} is damaged: it is not what {checksum_file(path).name} says it was")
    schema, leads, newest = read_back(path)
    return Backup(path, path.stat().st_size, schema, leads, newest, expected)


def read_back(path: Path) -> tuple[int, int, str | None]:
    """Read a database in one file to its last byte: its schema, how many leads, when the newest came.

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


def checksum_file(path: Path) -> Path:
    """Where the checksum of this backup stands."""
    return path.with_name(path.name + ".sha256")


def _checksum_beside(path: Path) -> str | None:
    beside = checksum_file(path)
    if not beside.exists():
        return None
    found = re.match(r"[0-9a-f]{64}\b", beside.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise DatabaseUnusable(f"{beside} holds no checksum; if {path.name} is to be trusted, remove it")
    return found[0]


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup by its name: of which database (None: of one too old to say), why it was made, and when."""

    path: Path
    of: str | None
    why: str
    made_at: datetime

    @property
    def complete(self) -> bool:
        """Whether its checksum is beside it, as with all that were made here and not tampered with."""
        return checksum_file(self.path).exists()

    def as_dict(self) -> dict[str, Any]:
        """The backup as listings show it."""
        return {
            "path": str(self.path),
            "made_at": utc_text(self.made_at),
            "why": self.why,
            "installation": self.of,
            "bytes": self.path.stat().st_size,
        }


def list_backups(folder: Path, of: str | None = None) -> list[Listed]:
    """The backups in this folder that bear the names we give (of this database), the newest first."""
    found = [_listed(path) for path in (folder.iterdir() if folder.is_dir() else ())]
    listed = [backup for backup in found if backup and (of is None or backup.of == of)]
    return sorted(listed, key=lambda backup: backup.made_at, reverse=True)


def _listed(path: Path) -> Listed | None:
    name = NAME.fullmatch(path.name)
    if name is None:
        return None
    try:
        made_at = datetime.strptime(name["at"], AT).replace(tzinfo=UTC)
    except ValueError:  # such as of the 99th
        return None
    return Listed(path, name["of"], name["why"], made_at)


def rotate(folder: Path, of: str, keep: int, now: datetime) -> list[Path]:
    """Remove all but so many of this database's nightly backups, the oldest first; answers with what was
    removed.

    What an operator made, or an upgrade, stays until an operator removes it. One from the future, made while
    the clock was wrong, takes nobody's place, and stays until its time has come.
    """
    removed = []
    nightly = [b for b in list_backups(folder, of) if b.why == NIGHTLY and b.made_at <= now]
    for backup in nightly[keep:]:
        backup.path.unlink()
        checksum_file(backup.path).unlink(missing_ok=True)
        removed.append(backup.path)
    # Of a night that was cut off, with SQLite's journal. One that is written to now may be of a server that
    # was stopped and still finishes it.
    for leftover in folder.glob(f"leads-{of}-{NIGHTLY}-*.partial*"):
        if time.time() - leftover.stat().st_mtime > CUT_OFF_SECONDS:
            leftover.unlink()
    return removed
