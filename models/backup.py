"""Owns backups: whole copies of the database, each read back before it counts, kept by rotation.

A backup is a SQLite file in one piece, with its checksum beside it in the form of `sha256sum`.
"""

import itertools
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from models.database import (
    BUSY_TIMEOUT_SECONDS,
    FILE_NAME,
    DatabaseRefused,
    as_text,
    refuse_half_restored,
    storage_reason,
)
from models.files import make_private, sha256_of, sync_file, sync_folder
from models.migrations import refuse_newer, schema_of

NIGHTLY = "nightly"
NAME = re.compile(r"leads-(?P<why>[\w-]+)-(?P<at>\d{8}T\d{6}Z)(?:-\d+)?\.db")
AT = "%Y%m%dT%H%M%SZ"

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


def new_path(folder: Path, why: str, now: datetime) -> Path:
    """Where a backup made now goes: 'leads-nightly-20261123T030000Z.db', or '…Z-2.db' if that is taken."""
    name = f"leads-{why}-{now.astimezone(UTC):{AT}}"
    names = (f"{name}-{number}.db" if number > 1 else f"{name}.db" for number in itertools.count(1))
    return next(path for path in (folder / name for name in names) if not path.exists())


def create_backup(data_dir: Path, path: Path, progress: Progress = lambda step: None) -> Backup:
    """Copy the database of this data folder, as it is at one moment, to a new file, and read it back.

    Leads are taken meanwhile. Raises DatabaseRefused if there is nothing to copy, the file is there already,
    or the copy fails or is not whole; OSError if the disk fails. Only a whole backup gets its name.
    """
    source = data_dir / FILE_NAME
    refuse_half_restored(data_dir)
    if not source.exists():
        raise DatabaseRefused(f"there is no {FILE_NAME} in {data_dir}; give --data-dir")
    if path.exists():
        raise DatabaseRefused(f"{path} is there already; a backup is never overwritten")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # what a crash left
    make_private(partial)
    try:
        progress(f"copying {source.stat().st_size / 1e6:.1f} MB")
        copy_database(source, partial)
        progress("reading the copy back")
        schema, leads, newest = _read_back(partial)
        checksum = sha256_of(partial)
        beside = checksum_file(path)
        beside.unlink(missing_ok=True)
        make_private(beside, f"{checksum}  {path.name}\n".encode())
        partial.rename(path)
        sync_folder(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, apsw.Error):
            raise DatabaseRefused(
                f"copying {source} to {path.parent} failed: {storage_reason(error)}; "
                "see that both disks are well, and have room"
            ) from error
        raise
    return Backup(path, path.stat().st_size, schema, leads, newest, checksum)


def copy_database(source: Path, target: Path, *, immutable: bool = False) -> None:
    """Copy a database into an empty file, in one piece without a journal, synced. immutable: nobody writes
    to the source, and nothing is to be made beside it. Raises apsw.Error; OSError if it can't be synced.

    Through SQLite: a copy of the file alone would lack what is still in its journal. In one step: one of
    several would begin anew whenever a lead is written between them, and never come to its end.
    """
    with (
        closing(open_for_reading(source, immutable)) as from_here,
        closing(apsw.Connection(str(target))) as to_there,
    ):
        from_here.set_busy_timeout(int(1000 * BUSY_TIMEOUT_SECONDS))
        copying = to_there.backup("main", from_here, "main")
        try:
            copying.step(-1)
        finally:
            copying.finish()  # of a failure this says which, where step says 'not an error'
        to_there.pragma("journal_mode", "delete")
    sync_file(target)


def verify_backup(path: Path) -> Backup:
    """Read a backup to its last byte. Raises DatabaseRefused if it is damaged or not one of ours, saying how;
    OSError if it can't be read.
    """
    path.open("rb").close()  # what isn't there, or is a folder, is not damaged
    expected = _checksum_beside(path)
    if expected is not None and sha256_of(path) != expected:
        raise DatabaseRefused(f"{path} is damaged: it is not what {checksum_file(path).name} says it was")
    schema, leads, newest = _read_back(path)
    return Backup(path, path.stat().st_size, schema, leads, newest, expected)


def _read_back(path: Path) -> tuple[int, int, str | None]:
    """Its schema, how many leads it has, and when the newest of them came."""
    journal = path.with_name(path.name + "-wal")
    if journal.exists() and journal.stat().st_size:
        raise DatabaseRefused(f"{path} is no backup: it has a journal, {journal.name}, beside it")
    try:
        with closing(open_for_reading(path, immutable=True)) as connection:
            schema = schema_of(connection)
            if not schema:
                raise DatabaseRefused(f"{path} is no backup of this program's database")
            refuse_newer(path, schema)
            verdict = connection.execute("PRAGMA integrity_check(1)").get
            if verdict != "ok":
                raise DatabaseRefused(f"{path} is damaged: {verdict}")
            if connection.execute("PRAGMA foreign_key_check").get:
                raise DatabaseRefused(f"{path} is damaged: rows in it belong to rows that are not there")
            leads, newest = connection.execute("SELECT count(*), max(created_at) FROM lead").get
            return schema, leads, newest
    except apsw.Error as error:
        raise DatabaseRefused(f"{path} is damaged: {error}") from error


def open_for_reading(path: Path, immutable: bool = False) -> apsw.Connection:
    """A connection that can't write. immutable: nobody else writes either; then nothing is made or locked
    beside the file, and it may lie on a disk that is read-only. Raises apsw.Error.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=ro" + ("&immutable=1" if immutable else "")
    return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def checksum_file(path: Path) -> Path:
    """Where the checksum of this backup stands."""
    return path.with_name(path.name + ".sha256")


def _checksum_beside(path: Path) -> str | None:
    beside = checksum_file(path)
    if not beside.exists():
        return None
    found = re.match(r"[0-9a-f]{64}\b", beside.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise DatabaseRefused(f"{beside} holds no checksum; if {path.name} is to be trusted, remove it")
    return found[0]


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup by its name: made for which reason, and when."""

    path: Path
    why: str
    made_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """The backup as listings show it."""
        return {
            "path": str(self.path),
            "made_at": as_text(self.made_at),
            "why": self.why,
            "bytes": self.path.stat().st_size,
        }


def list_backups(folder: Path) -> list[Listed]:
    """The backups in this folder that bear the names we give, the newest first."""
    found = [(NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ())]
    listed = [
        Listed(path, match["why"], datetime.strptime(match["at"], AT).replace(tzinfo=UTC))
        for match, path in found
        if match
    ]
    return sorted(listed, key=lambda backup: backup.made_at, reverse=True)


def rotate(folder: Path, keep: int, now: datetime) -> list[Path]:
    """Remove all but so many of the nightly backups, the oldest first; answers with what was removed.

    What an operator made, or an upgrade, stays until an operator removes it. One from the future, made while
    the clock was wrong, takes nobody's place, and stays until its time has come.
    """
    removed = []
    nightly = [backup for backup in list_backups(folder) if backup.why == NIGHTLY and backup.made_at <= now]
    for backup in nightly[keep:]:
        backup.path.unlink()
        checksum_file(backup.path).unlink(missing_ok=True)
        removed.append(backup.path)
    # Of a night that was cut off, with SQLite's journal: only the one server of the folder makes them.
    for leftover in folder.glob(f"leads-{NIGHTLY}-*.partial*"):
        leftover.unlink()
    return removed
