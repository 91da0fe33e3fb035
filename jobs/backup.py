"""The nightly backup: one for each night at three o'clock, made later if that time was missed."""

import asyncio
import logging
from datetime import datetime, timedelta
from pathlib import Path

from models.clock import Clock
from models.storage import DatabaseUnusable
from models.storage.sqlite.backup import create_backup
from models.storage.sqlite.backup_files import NIGHTLY, installation_of, list_backups, new_path, rotate

log = logging.getLogger("leads.backup")

HOUR = 3  # local time
RETRY_NS = 3_600 * 1_000_000_000  # after a failure: each attempt may copy the whole database


class NightlyBackup:
    """Backs up a data folder to a backup folder, and keeps the newest backups there."""

    def __init__(self, data_dir: Path, backup_dir: Path, keep: int, clock: Clock) -> None:
        """keep: the number of nightly backups to keep."""
        self._data_dir = data_dir
        self._backup_dir = backup_dir
        self._keep = keep
        self._clock = clock
        self._failed_at_ns: int | None = None

    async def make_if_due(self) -> None:
        """Make a backup if one is due. A failure is logged, and an hour later a call tries again."""
        if self._failed_at_ns is not None:
            if self._clock.monotonic_ns() - self._failed_at_ns < RETRY_NS:
                return
            self._failed_at_ns = None
        try:
            await asyncio.to_thread(self._make_if_due)
        except (DatabaseUnusable, OSError) as error:
            log.error("the backup failed", extra={"reason": str(error)})
            self._failed_at_ns = self._clock.monotonic_ns()
        except Exception:
            log.exception("the backup failed")
            self._failed_at_ns = self._clock.monotonic_ns()

    def _make_if_due(self) -> None:
        now, installation = self._clock.now(), installation_of(self._data_dir)
        assert installation is not None  # the start has created or upgraded the database
        due = _last_due(now)
        # A backup from the future was made while the clock was wrong, so it does not count.
        made = (b.made_at for b in list_backups(self._backup_dir, installation) if b.complete)
        if any(due <= made_at <= now for made_at in made):
            return
        began = self._clock.monotonic_ns()
        backup = create_backup(self._data_dir, new_path(self._data_dir, self._backup_dir, NIGHTLY, now))
        removed = rotate(self._backup_dir, installation, self._keep, self._clock.now())
        seconds = round((self._clock.monotonic_ns() - began) / 1e9, 1)
        facts = {"file": backup.path.name, "leads": backup.leads, "bytes": backup.size, "seconds": seconds}
        log.info("backed up", extra=facts | {"removed": len(removed)})


def _last_due(now: datetime) -> datetime:
    """Return the last time that was three o'clock."""
    local = now.astimezone()
    due = local.replace(hour=HOUR, minute=0, second=0, microsecond=0)
    return due if due <= local else due - timedelta(days=1)
