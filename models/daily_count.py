"""Daily counts: how often something happened that no row tells, such as dry runs."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from peewee import CompositeKey, IntegerField, TextField

from models.storage.rows import Row

DRY_RUNS = "dry_runs"  # the name of a count

KEPT_DAYS = 30


class DailyCount(Row):
    """How often something happened on one day, in UTC."""

    day = TextField()
    name = TextField()
    count = IntegerField()

    class Meta:
        primary_key = CompositeKey("day", "name")


def add_counts(events: Sequence[tuple[str, datetime]]) -> Sequence[None]:
    """Count events, each given with its name and instant. An operation of the writer."""
    for (name, day), count in Counter((name, day_of(at)) for name, at in events).items():
        DailyCount.insert(day=day, name=name, count=count).on_conflict(
            conflict_target=(DailyCount.day, DailyCount.name),
            update={DailyCount.count: DailyCount.count + count},
        ).execute()
    oldest = min(at for _, at in events) - timedelta(days=KEPT_DAYS)
    DailyCount.delete().where(DailyCount.day < day_of(oldest)).execute()
    return [None] * len(events)


def day_of(at: datetime) -> str:
    """Return the day of an instant as the table has it."""
    return f"{at:%Y-%m-%d}"
