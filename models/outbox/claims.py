"""Claims: which deliveries are attempted now, and their next state by how the attempt ended."""

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from peewee import fn

from models.outbox.delivery import (
    DELIVERED,
    ERASED,
    FAILED,
    NEW_LEAD,
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

# The backoff of a delivery: its wait after each failure of its own. After one more failure it is `failed`.
# Jitter only adds to a delay, so at least 85 hours pass between the first attempt and the last.
RETRY_DELAYS = tuple(
    timedelta(minutes=m) for m in (0.25, 1, 5, 15, 30, 60, 120, 240, 480, 720, 1080, 1080, 1320)
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A request for due deliveries of one kind. limit: the most to claim."""

    kind: str
    limit: int
    now: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that its claimer alone attempts now. attempt: its number, from 1.

    sent_at: when its content was first sent, or `started_at` if it never was.
    """

    delivery_id: int
    lead_id: int
    kind: str
    attempt: int
    started_at: datetime
    sent_at: datetime
    content: str = NEW_LEAD
    recipient: str | None = None


class FailureKind(enum.Enum):
    """What a failed attempt means for the delivery and for its destination.

    TRANSIENT: the delivery failed for now; it backs off.
    PERMANENT: the delivery can never arrive; it moves to `failed`.
    UNREACHABLE: the destination failed; its circuit breaker trips, and nothing counts against the delivery.
    NEEDS_OPERATOR: like UNREACHABLE, but only the operator can fix it; the breaker trips for an hour.
    AMBIGUOUS: the destination failed, maybe because of this delivery; the breaker trips, and the delivery
    backs off.
    """

    TRANSIENT = enum.auto()
    PERMANENT = enum.auto()
    UNREACHABLE = enum.auto()
    NEEDS_OPERATOR = enum.auto()
    AMBIGUOUS = enum.auto()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. reason: one line for the operator. retry_after: as the destination asked.

    loggable: the reason without the destination's words, which may name the renter. content_sent: whether the
    destination may have got the content.
    """

    reason: str
    kind: FailureKind = FailureKind.TRANSIENT
    retry_after: timedelta | None = None
    loggable: str = ""
    content_sent: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. failure: None if it was delivered.

    recipient: whom the attempt was for. answer: of the destination, if it was delivered.
    """

    claimed: Claimed
    ended_at: datetime
    failure: Failure | None = None
    recipient: str | None = None
    answer: str | None = None


def claim(claims: Sequence[Claim]) -> list[list[Claimed]]:
    """Move due deliveries to `sending`, and count the attempt before it begins.

    Return the claimed deliveries of each claim, the longest due first.
    """
    return [_claim(request) for request in claims]


def _claim(request: Claim) -> list[Claimed]:
    limit = request.limit
    match breaker_state(request.kind, request.now):
        case BreakerState.OPEN:
            return []
        case BreakerState.HALF_OPEN:  # one probe, and only if none is running
            limit = 0 if _in_state(request.kind, SENDING).exists() else 1
    ids = [row_id for (row_id,) in _DUE.run(request.kind, request.now, limit)]
    if not ids:
        return []
    claimed = sorted(
        (
            Claimed(
                row_id,
                lead_id,
                request.kind,
                attempt,
                request.now,
                datetime.fromisoformat(sent_at),
                content,
                recipient,
            )
            for row_id, lead_id, attempt, sent_at, content, recipient in _MOVE.run(request.now, ids)
        ),
        key=lambda c: ids.index(c.delivery_id),
    )
    _BEGIN_ATTEMPTS.run([(c.delivery_id, c.attempt, request.now) for c in claimed])
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
    lambda now, ids: (
        Delivery.update(
            state=SENDING,
            attempts=Delivery.attempts + 1,
            sent_at=fn.COALESCE(Delivery.sent_at, now),
        )
        .where(Delivery.id.in_(ids))
        .returning(
            Delivery.id,
            Delivery.lead,
            Delivery.attempts,
            Delivery.sent_at,
            Delivery.content,
            Delivery.recipient,
        )
    )
)
_BEGIN_ATTEMPTS = CachedInsert(
    DeliveryAttempt, DeliveryAttempt.delivery, DeliveryAttempt.number, DeliveryAttempt.started_at
)


def settle(outcomes: Sequence[Outcome]) -> list[str]:
    """Record how attempts ended. Return the new state of each delivery. An operation of the writer."""
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
    for o in outcomes:
        _END_ATTEMPT.run(o.ended_at, o.recipient, o.answer, o.claimed.delivery_id, o.claimed.attempt)
    for kind in {o.claimed.kind for o in outcomes}:
        record_success(kind, latest)


_DELIVERED = CachedQuery(
    lambda at, ids: Delivery.update(state=DELIVERED, reason=None, due_at=None, settled_at=at).where(
        Delivery.id.in_(ids), Delivery.state == SENDING
    )
)
_END_ATTEMPT = CachedQuery(
    lambda at, recipient, answer, delivery_id, number: DeliveryAttempt.update(
        ended_at=at, outcome=DELIVERED, recipient=recipient, answer=answer
    ).where(DeliveryAttempt.delivery == delivery_id, DeliveryAttempt.number == number)
)


def _settle_failed(outcome: Outcome, failure: Failure) -> str:
    claimed, now = outcome.claimed, outcome.ended_at
    delivery = Delivery.get_or_none(Delivery.id == claimed.delivery_id)
    if delivery is None:
        return SKIPPED  # deleted meanwhile, with its lead
    erased = delivery.reason == ERASED  # meanwhile; the failure's reason may quote the customer, so drop it
    DeliveryAttempt.update(
        ended_at=now, outcome=ERASED if erased else failure.reason, recipient=outcome.recipient
    ).where(
        DeliveryAttempt.delivery == claimed.delivery_id, DeliveryAttempt.number == claimed.attempt
    ).execute()
    if failure.kind in (FailureKind.TRANSIENT, FailureKind.PERMANENT):
        record_success(claimed.kind, now)
    else:
        needs_operator = failure.kind is FailureKind.NEEDS_OPERATOR
        reason = ERASED if erased else failure.reason
        trip(claimed.kind, reason, now, failure.retry_after, needs_operator=needs_operator)
    if delivery.state != SENDING:
        return str(delivery.state)  # skipped meanwhile
    delivery.reason = failure.reason
    if not failure.content_sent and claimed.sent_at == claimed.started_at:
        delivery.sent_at = None
    if failure.kind in (FailureKind.UNREACHABLE, FailureKind.NEEDS_OPERATOR):
        delivery.state = PENDING
        delivery.due_at = now  # behind those that wait longer, so that each probe is another delivery
    elif failure.kind is FailureKind.PERMANENT or delivery.failures >= len(RETRY_DELAYS):
        delivery.state, delivery.due_at, delivery.settled_at = FAILED, None, now
    else:
        delay = RETRY_DELAYS[delivery.failures] * (1 + random.random() * JITTER)
        delivery.failures += 1
        delivery.state, delivery.due_at = PENDING, now + delay
    delivery.save()
    return delivery.state


def open_outbox(configured: frozenset[str]) -> None:
    """Prepare the outbox at the start of a server: close the circuit breakers, and move deliveries that a
    crash left in `sending` to `pending`.

    configured: the kinds of delivery for which the settings have a destination.
    """
    configure_destinations(configured)
    sending = state_is(SENDING)
    DeliveryAttempt.update(outcome=CUT_OFF).where(
        DeliveryAttempt.delivery.in_(Delivery.select(Delivery.id).where(sending)),
        DeliveryAttempt.outcome.is_null(),
    ).execute()
    Delivery.update(state=PENDING).where(sending).execute()
