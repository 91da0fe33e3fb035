"""Outcomes: how an attempt at a delivery ended, and the delivery's next state by that."""

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.outbox.claims import Claimed
from models.outbox.delivery import (
    DELIVERED,
    ERASED,
    FAILED,
    PENDING,
    SENDING,
    SKIPPED,
    Delivery,
    DeliveryAttempt,
)
from models.outbox.destination import (
    JITTER,
    MAX_RETRY_AFTER,
    has_succeeded_since,
    record_answer,
    record_success,
    trip,
)
from models.storage.cached_query import CachedQuery

# The backoff of a delivery: its wait after each failure of its own. After one more failure it is `failed`.
# Jitter only adds to a delay, so at least 85 hours pass between the first attempt and the last.
RETRY_DELAYS = tuple(
    timedelta(minutes=m) for m in (0.25, 1, 5, 15, 30, 60, 120, 240, 480, 720, 1080, 1080, 1320)
)


class FailureKind(enum.Enum):
    """What a failed attempt means for the delivery and for its destination.

    TRANSIENT: the delivery failed for now; it backs off.
    PERMANENT: the delivery can never arrive; it moves to `failed`.
    UNREACHABLE: the destination failed; its circuit breaker trips, and nothing counts against the delivery.
    NEEDS_OPERATOR: like UNREACHABLE, but only the operator can fix it; the breaker trips for an hour.
    AMBIGUOUS: the destination is busy, maybe only for this delivery, which backs off. The breaker trips, for
    its source alone. It does not if the destination accepted another delivery since this one's last attempt:
    then the delivery is at fault itself.
    REFUSED: like AMBIGUOUS, but a rule of the destination refused it: a policy, a quota. It counts against
    the delivery only if that is at fault.
    """

    TRANSIENT = enum.auto()
    PERMANENT = enum.auto()
    UNREACHABLE = enum.auto()
    NEEDS_OPERATOR = enum.auto()
    AMBIGUOUS = enum.auto()
    REFUSED = enum.auto()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. reason: one line for the operator. retry_after: as the destination asked.

    loggable: the reason without the destination's words, which may name the renter. content_sent: whether the
    destination may have got the content. is_of_content: whether the content seems to be refused.
    """

    reason: str
    kind: FailureKind = FailureKind.TRANSIENT
    retry_after: timedelta | None = None
    loggable: str = ""
    content_sent: bool = False
    is_of_content: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. failure: None if it was delivered.

    recipient: of the attempt. answer: of the destination, if it was delivered. half: the digest that the
    delivery leaves in after this one is split; None if it can't be.
    """

    claimed: Claimed
    ended_at: datetime
    failure: Failure | None = None
    recipient: str | None = None
    answer: str | None = None
    half: int | None = None


def settle(attempts: Sequence[Sequence[Outcome]]) -> list[list[str]]:
    """Record how attempts ended, each with the outcomes of all its deliveries: several, if it was a digest.

    Return the new states of the deliveries. An operation of the writer.
    """
    _settle_delivered([outcome for outcomes in attempts for outcome in outcomes if outcome.failure is None])
    return [_settle_attempt(outcomes) for outcomes in attempts]


def _settle_attempt(outcomes: Sequence[Outcome]) -> list[str]:
    jitter = 1 + random.random() * JITTER  # the deliveries of a digest are due again together
    return [
        DELIVERED if outcome.failure is None else _settle_failed(outcome, outcome.failure, jitter)
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
    for kind, is_probe in {(o.claimed.kind, o.claimed.is_probe) for o in outcomes}:
        record_success(kind, latest, is_probe=is_probe)


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


def _settle_failed(outcome: Outcome, failure: Failure, jitter: float) -> str:
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
    is_refusal = failure.kind in (FailureKind.AMBIGUOUS, FailureKind.REFUSED)
    is_own = failure.kind in (FailureKind.TRANSIENT, FailureKind.PERMANENT) or (
        is_refusal and _is_at_fault(claimed)
    )
    if is_own:
        record_answer(claimed.kind, now)
    else:
        trip(
            claimed.kind,
            ERASED if erased else failure.reason,
            now,
            failure.retry_after,
            needs_operator=failure.kind is FailureKind.NEEDS_OPERATOR,
            refuses=is_refusal,
        )
    if delivery.state != SENDING:
        return str(delivery.state)  # skipped meanwhile
    delivery.reason = failure.reason
    if not failure.content_sent and claimed.sent_at == claimed.started_at:
        delivery.sent_at = None
    delivery.refused = is_refusal and not is_own
    if outcome.half is not None and is_own and failure.is_of_content:
        delivery.state, delivery.due_at, delivery.digest = PENDING, now, outcome.half
    elif not is_own and failure.kind is not FailureKind.AMBIGUOUS:
        delivery.state = PENDING
        delivery.due_at = now  # behind those that wait longer, so that each probe is another delivery
    elif failure.kind is FailureKind.PERMANENT or delivery.failures >= len(RETRY_DELAYS):
        delivery.state, delivery.due_at, delivery.settled_at = FAILED, None, now
    else:
        delay = RETRY_DELAYS[delivery.failures] * jitter
        if failure.retry_after is not None:
            delay = max(delay, min(failure.retry_after, MAX_RETRY_AFTER))
        delivery.failures += 1
        delivery.state, delivery.due_at = PENDING, now + delay
    delivery.save()
    return delivery.state


def _is_at_fault(claimed: Claimed) -> bool:
    """Return True if the destination accepted another delivery since the last attempt at this one."""
    last = DeliveryAttempt.get_or_none(
        DeliveryAttempt.delivery == claimed.delivery_id, DeliveryAttempt.number == claimed.attempt - 1
    )
    return last is not None and has_succeeded_since(claimed.kind, last.started_at)
