"""Outcomes: how an attempt at a delivery ended, and the delivery's next state by that.

An outcome counts only for the claim that it belongs to. A server that was too slow has lost its claim, and
another one may be sending the delivery: then the outcome only goes into the ledger of its own attempt.
"""

import enum
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.lead import Lead
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
    lock_destinations,
    record_answer,
    record_success,
    trip,
)
from models.storage import ACTIONS, in_batch
from models.storage.cached_query import CachedQuery
from models.storage.rows import locked

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


@dataclass(frozen=True, slots=True)
class _Current:
    """A delivery as it is when its outcome comes; its row is locked."""

    state: str
    attempts: int
    claimed_by: str | None
    reason: str | None
    recipient: str | None

    def is_of(self, claimed: Claimed) -> bool:
        """Return True if the claim still holds. The delivery may have been skipped all the same."""
        return self.claimed_by == claimed.server and self.attempts == claimed.attempt

    def awaits_next(self, claimed: Claimed) -> bool:
        """Return True if the claim was lost, and no attempt has begun since."""
        return self.state == PENDING and self.claimed_by is None and self.attempts == claimed.attempt


LOST = "taken over"  # in place of a state: the claim was lost, so the outcome does not count


@in_batch(ACTIONS + 1)
def settle(attempts: Sequence[Sequence[Outcome]]) -> list[list[str]]:
    """Record how attempts ended, each with the outcomes of all its deliveries: several, if it was a digest.

    Return the new states of the deliveries, or LOST. An operation of the writer.
    """
    outcomes = [outcome for each in attempts for outcome in each]
    rows = {row[0]: _Current(*row[1:]) for row in _LOCKED.run([o.claimed.delivery_id for o in outcomes])}
    known = [(outcome, rows.get(outcome.claimed.delivery_id)) for outcome in outcomes]
    held = [(outcome, row) for outcome, row in known if row is not None and row.is_of(outcome.claimed)]
    lock_destinations(o.claimed.kind for o, _ in held if o.failure is not None or o.claimed.is_probe)
    _settle_delivered([(outcome, row) for outcome, row in held if outcome.failure is None])
    return [_settle_attempt(each, rows) for each in attempts]


_LOCKED = CachedQuery(
    lambda ids: locked(
        Delivery.select(
            Delivery.id,
            Delivery.state,
            Delivery.attempts,
            Delivery.claimed_by,
            Delivery.reason,
            Delivery.recipient,
        )
        .where(Delivery.id.in_(ids))
        .order_by(Delivery.id)
    )
)


def _settle_attempt(outcomes: Sequence[Outcome], rows: Mapping[int, _Current]) -> list[str]:
    jitter = 1 + random.random() * JITTER  # the deliveries of a digest are due again together
    return [_settle(outcome, rows.get(outcome.claimed.delivery_id), jitter) for outcome in outcomes]


def _settle(outcome: Outcome, row: _Current | None, jitter: float) -> str:
    if row is None:
        return SKIPPED  # deleted meanwhile, with its lead
    if not row.is_of(outcome.claimed):
        return _settle_late(outcome, row)
    return DELIVERED if outcome.failure is None else _settle_failed(outcome, outcome.failure, row, jitter)


def _settle_delivered(held: Sequence[tuple[Outcome, _Current]]) -> None:
    if not held:
        return
    latest = max(outcome.ended_at for outcome, _ in held)
    if arrived := [outcome.claimed.delivery_id for outcome, row in held if row.state == SENDING]:
        _DELIVERED.run(latest, arrived)
    for outcome, row in held:
        _end_delivered(outcome, row, erased=row.reason == ERASED)
    for kind, is_probe in sorted({(o.claimed.kind, o.claimed.is_probe) for o, _ in held}):
        record_success(kind, latest, is_probe=is_probe)


def _settle_late(outcome: Outcome, row: _Current) -> str:
    claimed = outcome.claimed
    erased = Lead.select(Lead.requestor_email).where(Lead.id == claimed.lead_id).scalar() is None
    if outcome.failure is not None:
        _end_failed(outcome, row, ERASED if erased else outcome.failure.reason)
        return LOST
    _end_delivered(outcome, row, erased=erased)
    if not row.awaits_next(claimed):
        return LOST
    _DELIVERED.run(outcome.ended_at, [claimed.delivery_id])  # another attempt would deliver it twice
    return DELIVERED


def _end_delivered(outcome: Outcome, row: _Current, *, erased: bool) -> None:
    """End the attempt in the ledger. erased: the customer was, and the answer may quote them."""
    answer = None if erased else outcome.answer
    claimed = outcome.claimed
    _END_ATTEMPT.run(
        outcome.ended_at, DELIVERED, _recipient(outcome, row), answer, claimed.delivery_id, claimed.attempt
    )


def _end_failed(outcome: Outcome, row: _Current, reason: str) -> None:
    claimed = outcome.claimed
    _END_ATTEMPT.run(
        outcome.ended_at, reason, _recipient(outcome, row), None, claimed.delivery_id, claimed.attempt
    )


def _recipient(outcome: Outcome, row: _Current) -> str | None:
    return ERASED if row.recipient == ERASED else outcome.recipient


_DELIVERED = CachedQuery(
    lambda at, ids: Delivery.update(state=DELIVERED, reason=None, due_at=None, settled_at=at).where(
        Delivery.id.in_(ids)
    )
)
_END_ATTEMPT = CachedQuery(
    lambda at, outcome, recipient, answer, delivery_id, number: DeliveryAttempt.update(
        ended_at=at, outcome=outcome, recipient=recipient, answer=answer
    ).where(DeliveryAttempt.delivery == delivery_id, DeliveryAttempt.number == number)
)


def _settle_failed(outcome: Outcome, failure: Failure, row: _Current, jitter: float) -> str:
    claimed, now = outcome.claimed, outcome.ended_at
    # If the customer was erased meanwhile, the failure's reason is dropped: it may quote them.
    reason = ERASED if row.reason == ERASED else failure.reason
    _end_failed(outcome, row, reason)
    is_refusal = failure.kind in (FailureKind.AMBIGUOUS, FailureKind.REFUSED)
    is_own = failure.kind in (FailureKind.TRANSIENT, FailureKind.PERMANENT) or (
        is_refusal and _is_at_fault(claimed)
    )
    if is_own:
        record_answer(claimed.kind, now)
    else:
        trip(
            claimed.kind,
            reason,
            now,
            failure.retry_after,
            needs_operator=failure.kind is FailureKind.NEEDS_OPERATOR,
            refuses=is_refusal,
        )
    if row.state != SENDING:
        return row.state  # skipped meanwhile
    delivery = Delivery.get_by_id(claimed.delivery_id)
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
    return str(delivery.state)


def _is_at_fault(claimed: Claimed) -> bool:
    """Return True if the destination accepted another delivery since the last attempt at this one."""
    last = DeliveryAttempt.get_or_none(
        DeliveryAttempt.delivery == claimed.delivery_id, DeliveryAttempt.number == claimed.attempt - 1
    )
    return last is not None and has_succeeded_since(claimed.kind, last.started_at)
