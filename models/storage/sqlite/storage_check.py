"""Whether a lead could be stored in the file now: there must be room as well."""

from datetime import datetime
from pathlib import Path

from models.disk_space import measure_disk
from models.storage import StorageError
from models.storage.sqlite.connection import database
from models.storage.storage_check import write_check

# Measured: the largest lead takes 115 KB of the WAL, and later as much of the file. So a few of them may
# still come between two checks.
ROOM_FOR_A_LEAD = 2**20  # bytes


def check_storage(now: datetime) -> None:
    """Write a little, as a lead would. An action of the writer.

    Raises StorageError if the disk has no room for a lead: so little may still fit where the largest doesn't.
    """
    free = _free_bytes()
    if free < ROOM_FOR_A_LEAD:
        raise StorageError(
            f"the disk has {free // 1024} KiB left; {ROOM_FOR_A_LEAD // 1024} KiB are to be free"
        )
    write_check(now)


def _free_bytes() -> int:
    """Return how much room the database's file system has left for this process."""
    try:
        return measure_disk(Path(database.database).parent).free_bytes
    except OSError as error:
        raise StorageError(f"the disk can't be asked how full it is: {error.strerror}") from error
