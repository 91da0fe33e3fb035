"""Owns what a clock that was wrong, or is set, means for what waits in the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.destination import JITTER, move_holds
from models.outbox import PENDING, RETRY_DELAYS, Delivery, state_is


@dataclass(frozen=True, slots=True)
class SetBack:
    """The time of day was set back by so much, and is now this."""

    by: timedelta
    now: datetime


def follow_the_clock(steps: Sequence[SetBack]) -> list[None]:
    """Move what deliveries and destinations wait for back with the clock. An operation of the writer."""
    for step in steps:
        for row in _waiting(step.now):
            Delivery.update(due_at=row.due_at - step.by).where(Delivery.id == row.id).execute()
        move_holds(-step.by)
    return [None for _ in steps]


def call_in(instants: Sequence[datetime]) -> list[None]:
    """Make due now what waits longer than its backoff allows: a clock that was ahead had put it off.

    An operation of the writer.
    """
    for now in instants:
        for row in _waiting(now):
            longest = RETRY_DELAYS[row.failures - 1] * (1 + JITTER) if row.failures else timedelta(0)
            if row.due_at - now > longest:
                Delivery.update(due_at=now).where(Delivery.id == row.id).execute()
    return [None for _ in instants]


def _waiting(now: datetime) -> list[Delivery]:
    columns = (Delivery.id, Delivery.due_at, Delivery.failures)
    return list(Delivery.select(*columns).where(state_is(PENDING), Delivery.due_at > now))
