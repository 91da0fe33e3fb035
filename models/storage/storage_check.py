"""Whether a lead could be stored now, found out by storing something."""

from datetime import datetime

from peewee import IntegerField

from models.storage.rows import Row, UtcDateTimeField


class StorageCheck(Row):
    """One row, written anew by each check."""

    id = IntegerField(primary_key=True)
    checked_at = UtcDateTimeField()


def write_check(now: datetime) -> None:
    """Write a little, as a lead would. An action of the writer."""
    StorageCheck.insert(id=1, checked_at=now).on_conflict(
        conflict_target=[StorageCheck.id], update={StorageCheck.checked_at: now}
    ).execute()
