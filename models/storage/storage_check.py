"""Whether a lead could be stored now, found out by storing something."""

from datetime import datetime

from peewee import IntegerField

from models.storage.rows import Row, UtcDateTimeField


class StorageCheck(Row):
    """What a check has written: one row, or none on a shared database."""

    id = IntegerField(primary_key=True)
    checked_at = UtcDateTimeField()


def write_check(now: datetime) -> None:
    """Write a little, as a lead would. An action of the writer."""
    StorageCheck.insert(id=1, checked_at=now).on_conflict(
        conflict_target=[StorageCheck.id], update={StorageCheck.checked_at: now}
    ).execute()


def write_and_delete_check(number: int, now: datetime) -> None:
    """Write a row of this number and delete it. On a shared database a row that stays may be locked."""
    StorageCheck.insert(id=number, checked_at=now).execute()
    StorageCheck.delete().where(StorageCheck.id == number).execute()
