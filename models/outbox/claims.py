"""Claims: which deliveries are attempted now, and their next state by how the attempt ended."""

import enum
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

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
    EMAIL,
    JITTER,
    MAX_RETRY_AFTER,
    NO_DESTINATION,
    BreakerState,
    breaker_state,
    configure_destinations,
    has_succeeded_since,
    record_answer,
    record_success,
    trip,
)
from models.outbox.digests import LARGEST, MailRates, admit, form_digests, members
from models.outbox.due import due_ids
from models.storage.cached_query import CachedInsert, CachedQuery

CUT_OFF = "cut off: the server stopped before it knew the outcome"

# The backoff of a delivery: its wait after each failure of its own. After one more failure it is `failed`.
# Jitter only adds to a delay, so at least 85 hours pass between the first attempt and the last.
RETRY_DELAYS = tuple(
    timedelta(minutes=m) for m in (0.25, 1, 5, 15, 30, 60, 120, 240, 480, 720, 1080, 1080, 1320)
)


MOST_ROUNDS = 5  # of mails that are put off, in one claim


@dataclass(frozen=True, slots=True)
class Claim:
    """A request for due deliveries of one kind. limit: the most to claim.

    other_than: sources whose deliveries are not claimed, if there are any. rates: of mail; None: no mail, or
    no limit.
    """

    kind: str
    limit: int
    now: datetime
    other_than: frozenset[str] = frozenset()
    rates: MailRates | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that its claimer alone attempts now. attempt: its number, from 1.

    sent_at: when its content was first sent, or `started_at` if it never was. is_probe: the breaker had
    tripped before.
    """

    delivery_id: int
    lead_id: int
    kind: str
    attempt: int
    started_at: datetime
    sent_at: datetime
    content: str = NEW_LEAD
    recipient: str | None = None
    is_probe: bool = False
    digest: int | None = None


class FailureKind(enum.Enum):
    """What a failed attempt means for the delivery and for its destination.

    TRANSIENT: the delivery failed for now; it backs off.
    PERMANENT: the delivery can never arrive; it moves to `failed`.
    UNREACHABLE: the destination failed; its circuit breaker trips, and nothing counts against the delivery.
    NEEDS_OPERATOR: like UNREACHABLE, but only the operator can fix it; the breaker trips for an hour.
    AMBIGUOUS: the destination is busy, maybe only for this delivery, which backs off. The breaker trips for
    its source alone, and not if the destination accepted another delivery since this one's last attempt.
    REFUSED: like AMBIGUOUS, but a rule of the destination refused it: a policy, a quota. While the breaker is
    open, nothing counts against the delivery.
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

    recipient: whom the attempt was for. answer: of the destination, if it was delivered. half: the digest
    that the delivery leaves in once this one is split; None if it can't be.
    """

    claimed: Claimed
    ended_at: datetime
    failure: Failure | None = None
    recipient: str | None = None
    answer: str | None = None
    half: int | None = None


def claim(claims: Sequence[Claim]) -> list[list[Claimed]]:
    """Move due deliveries to `sending`, and count the attempt before it begins.

    Return the claimed deliveries of each claim, the longest due first.
    """
    return [_claim(request) for request in claims]


def _claim(request: Claim) -> list[Claimed]:
    state = breaker_state(request.kind, request.now)
    ids = _ids_to_claim(request, state)
    if not ids:
        return []
    is_probe = state is not BreakerState.CLOSED
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
                is_probe,
                digest,
            )
            for row_id, lead_id, attempt, sent_at, content, recipient, digest in _MOVE.run(request.now, ids)
        ),
        key=lambda c: ids.index(c.delivery_id),
    )
    _BEGIN_ATTEMPTS.run([(c.delivery_id, c.attempt, request.now) for c in claimed])
    return claimed


def _ids_to_claim(request: Claim, state: BreakerState) -> list[int]:
    kind, now, limit, rates = request.kind, request.now, request.limit, request.rates
    if kind == EMAIL:
        form_digests(now)
    ids = due_ids(kind, state, now, limit, request.other_than)
    for _ in range(MOST_ROUNDS):
        if not ids or rates is None:
            break
        if admitted := admit(ids, limit, rates, now):
            ids = admitted
            break
        ids = due_ids(kind, state, now, LARGEST, request.other_than)
    else:
        return []  # the next tick goes on
    return members(ids) if kind == EMAIL and ids else ids


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
            Delivery.digest,
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
    if outcome.half is not None and is_own and failure.kind is not FailureKind.TRANSIENT:
        delivery.state, delivery.due_at, delivery.digest = PENDING, now, outcome.half
    elif not is_own and failure.kind is not FailureKind.AMBIGUOUS:
        delivery.state = PENDING
        delivery.due_at = now  # behind those that wait longer, so that each probe is another delivery
    elif failure.kind is FailureKind.PERMANENT or delivery.failures >= len(RETRY_DELAYS):
        delivery.state, delivery.due_at, delivery.settled_at = FAILED, None, now
    else:
        delay = RETRY_DELAYS[delivery.failures] * (1 + random.random() * JITTER)
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


def open_outbox(configured: frozenset[str], missing: Mapping[str, str] = NO_DESTINATION) -> None:
    """Prepare the outbox at the start of a server: close the circuit breakers, and move deliveries that a
    crash left in `sending` to `pending`.

    configured: the kinds of delivery for which the settings have a destination. missing: what the settings
    lack for the others.
    """
    configure_destinations(configured, missing)
    sending = state_is(SENDING)
    DeliveryAttempt.update(outcome=CUT_OFF).where(
        DeliveryAttempt.delivery.in_(Delivery.select(Delivery.id).where(sending)),
        DeliveryAttempt.outcome.is_null(),
    ).execute()
    Delivery.update(state=PENDING).where(sending).execute()
