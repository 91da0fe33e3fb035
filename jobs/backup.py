"""Owns the nightly backup: one for each three o'clock in the morning, made later where that was missed."""

import asyncio
import logging
from datetime import datetime, timedelta
from pathlib import Path

from models.backup import NIGHTLY, Backup, create_backup, list_backups, new_path, rotate
from models.clock import Clock
from models.database import DatabaseRefused

log = logging.getLogger("leads.backup")

HOUR = 3  # of the machine's own time


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
        # One from the future was made while the clock was wrong, and says nothing.
        now = self._clock.now()
        due = _last_due(now)
        return not any(due <= backup.made_at <= now for backup in list_backups(self._backup_dir))

    def _make(self) -> Backup:
        began = self._clock.monotonic_ns()
        backup = create_backup(self._data_dir, new_path(self._backup_dir, NIGHTLY, self._clock.now()))
        removed = rotate(self._backup_dir, self._keep, self._clock.now())
        seconds = round((self._clock.monotonic_ns() - began) / 1e9, 1)
        facts = {"file": backup.path.name, "leads": backup.leads, "bytes": backup.size, "seconds": seconds}
        log.info("backed up", extra=facts | {"removed": len(removed)})
        return backup


def _last_due(now: datetime) -> datetime:
    """The last time that was three o'clock."""
    local = now.astimezone()
    due = local.replace(hour=HOUR, minute=0, second=0, microsecond=0)
    return due if due <= local else due - timedelta(days=1)
