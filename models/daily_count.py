"""Daily counts: how often something happened that no row tells, such as dry runs."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from peewee import CompositeKey, IntegerField, TextField

from models.storage import ACTIONS, in_batch
from models.storage.rows import Row, is_exclusive

# Names of counts.
DRY_RUNS = "dry_runs"
REFUSED_FOR_SPACE = "refused_for_space"  # leads that a nearly full disk had no room for
UNDECLARED_PROXY = "undeclared_proxy "  # begins a name, which ends with the address of a peer

KEPT_DAYS = 30


class DailyCount(Row):
    """How often something happened on one day, in UTC."""

    day = TextField()
    name = TextField()
    count = IntegerField()

    class Meta:
        primary_key = CompositeKey("day", "name")


@in_batch(ACTIONS + 3)
def add_counts(events: Sequence[tuple[str, datetime, int]]) -> Sequence[None]:
    """Count events, given by name, instant and number. An operation of the writer."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, at, number in events:
        counts[name, day_of(at)] += number
    for (name, day), count in sorted(counts.items()):  # in one order: other servers count as well
        DailyCount.insert(day=day, name=name, count=count).on_conflict(
            conflict_target=(DailyCount.day, DailyCount.name),
            update={DailyCount.count: DailyCount.count + count},
        ).execute()
    if is_exclusive("old counts"):
        oldest = min(at for _, at, _ in events) - timedelta(days=KEPT_DAYS)
        DailyCount.delete().where(DailyCount.day < day_of(oldest)).execute()
    return [None] * len(events)


def undeclared_proxy_count(address: str) -> str:
    """Return the name of the count of hours in which this peer forwarded requests, undeclared."""
    return UNDECLARED_PROXY + address


def day_of(at: datetime) -> str:
    """Return the day of an instant as the table has it."""
    return f"{at:%Y-%m-%d}"
