"""Claims: who attempts which delivery now, and what becomes of it by how the attempt ended."""

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from models.outbox.delivery import (
    DELIVERED,
    ERASED,
    FAILED,
    PENDING,
    SENDING,
    SKIPPED,
    Delivery,
    DeliveryAttempt,
    state_is,
)
from models.outbox.destination import (
    JITTER,
    BreakerState,
    breaker_state,
    configure_destinations,
    record_success,
    trip,
)
from models.storage.cached_query import CachedInsert, CachedQuery

CUT_OFF = "cut off: the server stopped before it knew the outcome"

# How long a delivery waits after each failure of its own; one more failure and it is given up. Jitter only
# adds to them, so the last try is at least the sum of them, 85 hours, after the first.
RETRY_DELAYS = tuple(
    timedelta(minutes=m) for m in (0.25, 1, 5, 15, 30, 60, 120, 240, 480, 720, 1080, 1080, 1320)
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks for deliveries of one kind that are due, at most so many."""

    kind: str
    limit: int
    now: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that its claimer, and nobody else, is now to attempt."""

    delivery_id: int
    lead_id: int
    kind: str
    attempt: int


class FailureKind(enum.Enum):
    """What a failed attempt means for the delivery and for its destination."""

    TRANSIENT = enum.auto()  # this delivery failed, for a time: it backs off
    PERMANENT = enum.auto()  # this delivery can't arrive: it is given up
    UNREACHABLE = (
        enum.auto()
    )  # the destination failed: it is held for a while; not counted against the delivery
    NEEDS_OPERATOR = enum.auto()  # the same, but only the operator is likely to mend it: held for an hour
    AMBIGUOUS = enum.auto()  # the destination failed, perhaps at this delivery alone: held, and counted


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in one line for the operator; retry_after: what the destination asked for."""

    reason: str
    verdict: FailureKind = FailureKind.TRANSIENT
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: delivered, unless there is a failure."""

    claimed: Claimed
    ended_at: datetime
    failure: Failure | None = None


def claim(claims: Sequence[Claim]) -> list[list[Claimed]]:
    """Move the deliveries that are due to `sending` and count the attempt, before anything leaves."""
    return [_claim(one) for one in claims]


def _claim(asked: Claim) -> list[Claimed]:
    limit = asked.limit
    match breaker_state(asked.kind, asked.now):
        case BreakerState.OPEN:
            return []
        case BreakerState.HALF_OPEN:  # one, and only when no other is on its way
            limit = 0 if _in_state(asked.kind, SENDING).exists() else 1
    ids = [row_id for (row_id,) in _DUE.run(asked.kind, asked.now, limit)]
    if not ids:
        return []
    claimed = sorted(
        (Claimed(row_id, lead_id, asked.kind, attempt) for row_id, lead_id, attempt in _MOVE.run(ids)),
        key=lambda c: ids.index(c.delivery_id),
    )
    _BEGIN_ATTEMPTS.run([(c.delivery_id, c.attempt, asked.now) for c in claimed])
    return claimed


def _in_state(kind: Any, state: str) -> Any:
    return Delivery.select(Delivery.id).where(Delivery.kind == kind, state_is(state))


_DUE = CachedQuery(
    lambda kind, now, limit: (
        _in_state(kind, PENDING)
        .where(Delivery.due_at <= now)
        .order_by(Delivery.due_at, Delivery.id)
        .limit(limit)
    )
)
_MOVE = CachedQuery(
    lambda ids: (
        Delivery.update(state=SENDING, attempts=Delivery.attempts + 1)
        .where(Delivery.id.in_(ids))
        .returning(Delivery.id, Delivery.lead, Delivery.attempts)
    )
)
_BEGIN_ATTEMPTS = CachedInsert(
    DeliveryAttempt, DeliveryAttempt.delivery, DeliveryAttempt.number, DeliveryAttempt.started_at
)


def settle(outcomes: Sequence[Outcome]) -> list[str]:
    """Record how attempts ended; answers with the state each delivery is in now."""
    _settle_delivered([outcome for outcome in outcomes if outcome.failure is None])
    return [
        DELIVERED if outcome.failure is None else _settle_failed(outcome, outcome.failure)
        for outcome in outcomes
    ]


def _settle_delivered(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        return
    ids = [o.claimed.delivery_id for o in outcomes]
    latest = max(o.ended_at for o in outcomes)
    _DELIVERED.run(latest, ids)
    _END_ATTEMPTS.run(latest, ids)
    for kind in {o.claimed.kind for o in outcomes}:
        record_success(kind, latest)


_DELIVERED = CachedQuery(
    lambda at, ids: Delivery.update(state=DELIVERED, reason=None, due_at=None, settled_at=at).where(
        Delivery.id.in_(ids), Delivery.state == SENDING
    )
)
_END_ATTEMPTS = CachedQuery(
    lambda at, ids: DeliveryAttempt.update(ended_at=at, outcome=DELIVERED).where(
        DeliveryAttempt.delivery.in_(ids), DeliveryAttempt.outcome.is_null()
    )
)


def _settle_failed(outcome: Outcome, failure: Failure) -> str:
    claimed, now = outcome.claimed, outcome.ended_at
    delivery = Delivery.get_or_none(Delivery.id == claimed.delivery_id)
    if delivery is None:
        return SKIPPED  # gone, and its lead with it
    erased = delivery.reason == ERASED  # meanwhile; and then the reason may quote whom nobody is to know of
    DeliveryAttempt.update(ended_at=now, outcome=ERASED if erased else failure.reason).where(
        DeliveryAttempt.delivery == claimed.delivery_id, DeliveryAttempt.number == claimed.attempt
    ).execute()
    if failure.verdict in (FailureKind.TRANSIENT, FailureKind.PERMANENT):
        record_success(claimed.kind, now)
    else:
        needs_operator = failure.verdict is FailureKind.NEEDS_OPERATOR
        reason = ERASED if erased else failure.reason
        trip(claimed.kind, reason, now, failure.retry_after, needs_operator=needs_operator)
    if erased:
        return SKIPPED
    delivery.reason = failure.reason
    if failure.verdict in (FailureKind.UNREACHABLE, FailureKind.NEEDS_OPERATOR):
        delivery.state = PENDING
        delivery.due_at = now  # behind all that waited longer: each probe is another delivery
    elif failure.verdict is FailureKind.PERMANENT or delivery.failures >= len(RETRY_DELAYS):
        delivery.state, delivery.due_at, delivery.settled_at = FAILED, None, now
    else:
        delay = RETRY_DELAYS[delivery.failures] * (1 + random.random() * JITTER)
        delivery.failures += 1
        delivery.state, delivery.due_at = PENDING, now + delay
    delivery.save()
    return delivery.state


def open_outbox(configured: frozenset[str]) -> None:
    """At a server's start: note which kinds have a destination, close the circuit breakers, and put back to
    pending what a crash left in `sending`.
    """
    configure_destinations(configured)
    sending = state_is(SENDING)
    DeliveryAttempt.update(outcome=CUT_OFF).where(
        DeliveryAttempt.delivery.in_(Delivery.select(Delivery.id).where(sending)),
        DeliveryAttempt.outcome.is_null(),
    ).execute()
    Delivery.update(state=PENDING).where(sending).execute()
