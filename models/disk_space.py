"""Disk space: how much is free, and how much a source may store a day while little is left."""

import os
from dataclasses import dataclass
from datetime import date, datetime
from operator import itemgetter
from pathlib import Path

MAX_RESERVE_BYTES = 2**30
RESERVE_SHARE = 20  # the reserve of a small disk is a 20th of it

BUDGET_BYTES = 2**20  # a renter's lead takes about 3 KB of it
ROW_BYTES = 2_048  # of a lead's rows and index entries, besides what its body holds: a rough figure
MAX_SOURCES = 16_384


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Room on a disk, in bytes. free_bytes: what this process may still use."""

    free_bytes: int
    total_bytes: int

    @property
    def reserve_bytes(self) -> int:
        """Bytes that are kept for sources that have stored little. 0 if the disk's size is not known."""
        return min(MAX_RESERVE_BYTES, self.total_bytes // RESERVE_SHARE)

    @property
    def is_low(self) -> bool:
        """True if less than the reserve is free."""
        return self.free_bytes < self.reserve_bytes


def measure_disk(folder: Path) -> DiskSpace:
    """Return the room on the folder's disk. Raises OSError. May block for long on a network disk."""
    found = os.statvfs(folder)
    return DiskSpace(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


class SpaceBudget:
    """Bytes that each source has stored today, in UTC. They count against a source while `is_low` is set.

    A source is the text of an address or network; None, for one that many clients share, has no budget. The
    time is passed in.
    """

    # In memory alone: a write for each lead would cost more than it saves. So a restart forgets the counts,
    # and each source begins anew.

    def __init__(self, budget_bytes: int = BUDGET_BYTES, max_sources: int = MAX_SOURCES) -> None:
        self.is_low = False
        self._budget_bytes = budget_bytes
        self._max_sources = max_sources
        self._day = date.min
        self._stored: dict[str, int] = {}

    def allows(self, source: str | None, now: datetime) -> bool:
        """Return False if the disk is low, and this source has stored more than its budget today."""
        if not self.is_low or source is None or now.date() != self._day:
            return True
        return self._stored.get(source, 0) <= self._budget_bytes

    def add(self, source: str | None, body_bytes: int, now: datetime) -> None:
        """Count a stored lead of this source. body_bytes: the size of its request's body."""
        if source is None:
            return
        today = now.date()
        if today != self._day:
            self._day = today
            self._stored.clear()
        stored = self._stored
        stored[source] = stored.get(source, 0) + body_bytes + ROW_BYTES
        if len(stored) > self._max_sources:
            # The smaller half goes: a source that has stored much can't free itself by sending from others.
            by_size = sorted(stored.items(), key=itemgetter(1))
            self._stored = dict(by_size[-self._max_sources // 2 :])

    def forget(self) -> None:
        """Forget what each source has stored."""
        self._stored.clear()

    def __len__(self) -> int:
        """Return how many sources are counted."""
        return len(self._stored)
