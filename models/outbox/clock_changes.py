"""Corrections of the outbox after a change of the clock: due times and circuit breakers."""

from datetime import datetime, timedelta
from typing import Any

from peewee import Case, Value

from models.clock import utc_text
from models.outbox.delivery import PENDING, Delivery, state_is
from models.outbox.destination import JITTER, KINDS, shift_breakers
from models.outbox.outcomes import RETRY_DELAYS
from models.storage.cached_query import CachedQuery

CAPPED_AT_ONCE = 10_000


def shift_due_times(set_back_by: timedelta, now: datetime) -> None:
    """Move due times and open circuit breakers back, because the clock was set back to `now`."""
    for row in list(Delivery.select(Delivery.id, Delivery.due_at).where(_is_due_after(now))):
        _MOVE.run(row.due_at - set_back_by, row.id)
    shift_breakers(-set_back_by)


def cap_due_times(now: datetime) -> bool:
    """Make deliveries due now that wait longer than their backoff: the clock was ahead when they failed.

    Return True if there may be more: one transaction changes so many that it takes few seconds.
    """
    longest = [timedelta(0), *(delay * (1 + JITTER) for delay in RETRY_DELAYS)]  # by failures
    cases = [(_literal(failures), _literal(utc_text(now + d))) for failures, d in enumerate(longest)]
    latest = Case(Delivery.failures, cases)
    too_late = Delivery.select(Delivery.id).where(_is_due_after(now), Delivery.due_at > latest)
    capped = Delivery.update(due_at=now).where(Delivery.id.in_(too_late.limit(CAPPED_AT_ONCE))).execute()
    return bool(capped == CAPPED_AT_ONCE)


_MOVE = CachedQuery(lambda due_at, row_id: Delivery.update(due_at=due_at).where(Delivery.id == row_id))


def _literal(value: object) -> Value:
    return Value(value, converter=False)  # not converted like the column that it is compared with


def _is_due_after(now: datetime) -> Any:
    """Return the condition that a delivery waits beyond this moment, worded so that SQLite uses the index."""
    return state_is(PENDING) & Delivery.kind.in_(KINDS) & (Delivery.due_at > now)
