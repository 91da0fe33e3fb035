"""Owns the question whether a lead could be stored now, answered by storing something."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from peewee import IntegerField

from models.database import Row, StorageError, UtcDateTimeField, database

# Measured: the largest lead takes 115 KB of the journal, and later as much of the file. So a few of them may
# still come between two looks.
ROOM_FOR_A_LEAD = 2**20  # bytes


class StorageCheck(Row):
    """One row, written anew each time it is asked."""

    id = IntegerField(primary_key=True)
    checked_at = UtcDateTimeField()


def check_storage(instants: Sequence[datetime]) -> list[None]:
    """Write a little; what fails is what a lead would have met. An operation of the writer.

    Raises StorageError if the disk has no room for a lead: so little may still fit where the largest doesn't.
    """
    free = _free_bytes()
    if free < ROOM_FOR_A_LEAD:
        raise StorageError(
            f"the disk has {free // 1024} KiB left; {ROOM_FOR_A_LEAD // 1024} KiB are to be free"
        )
    StorageCheck.insert(id=1, checked_at=max(instants)).on_conflict(
        conflict_target=[StorageCheck.id], update={StorageCheck.checked_at: max(instants)}
    ).execute()
    return [None for _ in instants]


def _free_bytes() -> int:
    """What the database's file system has left for us."""
    try:
        found = os.statvfs(Path(database.database).parent)
    except OSError as error:
        raise StorageError(f"the disk can't be asked how full it is: {error.strerror}") from error
    return found.f_bavail * found.f_frsize
