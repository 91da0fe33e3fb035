"""Owns the nightly backup: made once a night, and at once where the last is too old."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

from models.backup import NIGHTLY, Backup, create_backup, list_backups, new_path, rotate
from models.clock import Clock
from models.database import DatabaseRefused

log = logging.getLogger("leads.backup")

HOUR = 3  # of the machine's own time
NOT_AGAIN_WITHIN = timedelta(hours=20)
TOO_OLD = timedelta(hours=26)  # then it doesn't wait for the night: the machine may be off at three


class NightlyBackup:
    """Backs a data folder up to another, where the newest so many are kept."""

    def __init__(self, data_dir: Path, backup_dir: Path, keep: int, clock: Clock) -> None:
        self._data_dir = data_dir
        self._backup_dir = backup_dir
        self._keep = keep
        self._clock = clock
        self._running = asyncio.Lock()

    async def make_if_due(self) -> None:
        """Make one if it is time. A failure is logged and tried again the next time this is called."""
        async with self._running:
            try:
                if self._is_due():
                    await asyncio.to_thread(self._make)
            except (DatabaseRefused, OSError) as error:
                log.error("the backup failed", extra={"reason": str(error)})
            except Exception:
                log.exception("the backup failed")

    def _is_due(self) -> bool:
        now = self._clock.now()
        # One from the future was made while the clock was wrong, and says nothing.
        ages = [now - backup.made_at for backup in list_backups(self._backup_dir) if backup.made_at <= now]
        age = min(ages, default=timedelta.max)
        return age > TOO_OLD or (age > NOT_AGAIN_WITHIN and now.astimezone().hour == HOUR)

    def _make(self) -> Backup:
        began = self._clock.monotonic_ns()
        backup = create_backup(self._data_dir, new_path(self._backup_dir, NIGHTLY, self._clock.now()))
        removed = rotate(self._backup_dir, self._keep, self._clock.now())
        seconds = round((self._clock.monotonic_ns() - began) / 1e9, 1)
        facts = {"file": backup.path.name, "leads": backup.leads, "bytes": backup.size, "seconds": seconds}
        log.info("backed up", extra=facts | {"removed": len(removed)})
        return backup
