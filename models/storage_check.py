"""Owns the question whether a lead could be stored now, answered by storing something."""

from collections.abc import Sequence
from datetime import datetime

from peewee import IntegerField

from models.database import Row, UtcDateTimeField


class StorageCheck(Row):
    """One row, written anew each time it is asked."""

    id = IntegerField(primary_key=True)
    checked_at = UtcDateTimeField()


def check_storage(instants: Sequence[datetime]) -> list[None]:
    """Write a little; what fails is what a lead would have met. An operation of the writer."""
    StorageCheck.insert(id=1, checked_at=max(instants)).on_conflict(
        conflict_target=[StorageCheck.id], update={StorageCheck.checked_at: max(instants)}
    ).execute()
    return [None for _ in instants]
