"""Owns what a clock that was wrong, or is set, means for what waits in the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from peewee import Case, Value

from models.database import as_text
from models.destination import JITTER, KINDS, move_holds
from models.outbox import PENDING, RETRY_DELAYS, Delivery, state_is
from models.prepared import Prepared


@dataclass(frozen=True, slots=True)
class SetBack:
    """The time of day was set back by so much, and is now this."""

    by: timedelta
    now: datetime


def follow_the_clock(steps: Sequence[SetBack]) -> list[None]:
    """Move what deliveries and destinations wait for back with the clock. An operation of the writer."""
    for step in steps:
        for row in list(Delivery.select(Delivery.id, Delivery.due_at).where(_waits(step.now))):
            _MOVE.run(row.due_at - step.by, row.id)
        move_holds(-step.by)
    return [None for _ in steps]


def call_in(instants: Sequence[datetime]) -> list[None]:
    """Make due now what waits longer than its backoff allows: a clock that was ahead had put it off.

    An operation of the writer.
    """
    for now in instants:
        longest = [timedelta(0), *(delay * (1 + JITTER) for delay in RETRY_DELAYS)]  # by failures
        cases = [(_as_it_is(failures), _as_it_is(as_text(now + d))) for failures, d in enumerate(longest)]
        latest = Case(Delivery.failures, cases)
        Delivery.update(due_at=now).where(_waits(now), Delivery.due_at > latest).execute()
    return [None for _ in instants]


_MOVE = Prepared(lambda due_at, row_id: Delivery.update(due_at=due_at).where(Delivery.id == row_id))


def _as_it_is(value: object) -> Value:
    return Value(value, converter=False)  # not as a value of the column that it is compared with


def _waits(now: datetime) -> Any:
    """The condition that a delivery waits beyond this moment, so that the index of such rows serves it."""
    return state_is(PENDING) & Delivery.kind.in_(KINDS) & (Delivery.due_at > now)
