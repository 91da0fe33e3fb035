"""The files of backups: how they are named, listed and rotated, and of which installation they are."""

import itertools
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.clock import utc_text
from models.storage import DatabaseUnusable, StorageError
from models.storage.sqlite.connection import FILE_NAME
from models.storage.sqlite.inspect import ReadOnlyDatabase, ask_in_use, refuse_half_restored

NIGHTLY = "nightly"
NAME = re.compile(
    r"leads-(?:(?P<of>[0-9a-f]{8})-)?(?P<why>[\w-]+)-(?P<at>\d{8}T\d{6}Z)(?:-\d+)?\.db", re.ASCII
)
AT = "%Y%m%dT%H%M%SZ"
ABANDONED_SECONDS = 86_400  # a partial copy that was last written so long ago was cut off


def installation_of(data_dir: Path) -> str | None:
    """Return the installation id of this folder's database; None if it is older than schema 3, or missing.

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
    """Return the installation id of an open database; None if it is older than schema 3."""
    if (database.schema or 0) < 3:
        return None
    return str(database.value("SELECT id FROM installation"))


def new_path(data_dir: Path, folder: Path, why: str, now: datetime) -> Path:
    """Return a free path for a backup made now, such as 'leads-1a2b3c4d-nightly-20261123T030000Z.db'.

    why: nightly, manual and so on, a part of the name. Raises DatabaseUnusable.
    """
    of = installation_of(data_dir)
    name = "-".join(["leads", *([of] if of else []), why, f"{now.astimezone(UTC):{AT}}"])
    names = (f"{name}-{number}.db" if number > 1 else f"{name}.db" for number in itertools.count(1))
    paths = (folder / name for name in names)
    return next(path for path in paths if not path.exists() and not partial_file(path).exists())


def partial_file(path: Path) -> Path:
    """Return the name of a backup that is not whole yet."""
    return path.with_name(path.name + ".partial")


def checksum_file(path: Path) -> Path:
    """Return the path of this backup's checksum file."""
    return path.with_name(path.name + ".sha256")


def secret_file(path: Path) -> Path:
    """Return the path of the installation's secret beside this backup."""
    return path.with_name(path.name + ".secret")


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A backup by its file name. of: the installation, None of an older schema; why: nightly and so on."""

    path: Path
    of: str | None
    why: str
    made_at: datetime

    @property
    def complete(self) -> bool:
        """True if its checksum file is there, as with every backup that was made here."""
        return checksum_file(self.path).exists()

    def as_dict(self) -> dict[str, Any]:
        """Return the backup as listings show it."""
        return {
            "path": str(self.path),
            "made_at": utc_text(self.made_at),
            "why": self.why,
            "installation": self.of,
            "bytes": self.path.stat().st_size,
        }


def list_backups(folder: Path, of: str | None = None) -> list[BackupFile]:
    """Return the backups in this folder by their names, newest first. of: this installation's alone."""
    found = [_parse_name(path) for path in (folder.iterdir() if folder.is_dir() else ())]
    listed = [backup for backup in found if backup and (of is None or backup.of == of)]
    return sorted(listed, key=lambda backup: backup.made_at, reverse=True)


def _parse_name(path: Path) -> BackupFile | None:
    name = NAME.fullmatch(path.name)
    if name is None:
        return None
    try:
        made_at = datetime.strptime(name["at"], AT).replace(tzinfo=UTC)
    except ValueError:  # such as the 99th of a month
        return None
    return BackupFile(path, name["of"], name["why"], made_at)


def rotate(folder: Path, of: str, keep: int, now: datetime) -> list[Path]:
    """Remove all but the newest `keep` nightly backups of this installation, and return what was removed.

    A backup that an operator or an upgrade made stays until an operator removes it. One from the future, made
    while the clock was wrong, does not count, and stays until its time has come.
    """
    removed = []
    nightly = [b for b in list_backups(folder, of) if b.why == NIGHTLY and b.made_at <= now]
    for backup in nightly[keep:]:
        backup.path.unlink()
        checksum_file(backup.path).unlink(missing_ok=True)
        secret_file(backup.path).unlink(missing_ok=True)
        removed.append(backup.path)
    # Partial copies of a night that was cut off, with SQLite's journal. A recent one may be of a server that
    # was stopped and still finishes it.
    for leftover in folder.glob(f"leads-{of}-{NIGHTLY}-*.partial*"):
        if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
            leftover.unlink()
    return removed
