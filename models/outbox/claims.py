"""Claims: which deliveries are attempted now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import fn

from models.outbox.delivery import (
    NEW_LEAD,
    PENDING,
    SENDING,
    Delivery,
    DeliveryAttempt,
    state_is,
)
from models.outbox.destination import (
    EMAIL,
    NO_DESTINATION,
    BreakerState,
    breaker_state,
    configure_destinations,
)
from models.outbox.digests import LARGEST, MailRates, admit, form_digests, members
from models.outbox.due import due_ids
from models.storage.cached_query import CachedInsert, CachedQuery

CUT_OFF = "cut off: the server stopped before it knew the outcome"
MOST_ROUNDS = 20  # of mails that are all put off, in one claim; the next tick goes on


@dataclass(frozen=True, slots=True)
class Claim:
    """A request for due deliveries of one kind.

    limit: the most to claim; 0: one, of another source than slow_sources. slow_sources: those of the
    deliveries that are on their way, if all of these are slow; else None. rates: of mail; None: no mail, or
    no limit.
    """

    kind: str
    limit: int
    now: datetime
    slow_sources: frozenset[str | None] | None = None
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
    has_room = limit > 0 and state is BreakerState.CLOSED
    excluded_sources = None if has_room else request.slow_sources
    limit = 1 if state is BreakerState.HALF_OPEN else max(limit, 1)
    ids: list[int] = []
    for _ in range(MOST_ROUNDS):
        found = due_ids(kind, state, now, LARGEST if rates else limit, excluded_sources)
        ids = admit(found, limit, rates, now) if rates else found
        if ids or not found:
            break
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


def open_outbox(configured: frozenset[str], missing: Mapping[str, str] = NO_DESTINATION) -> None:
    """Prepare the outbox at the start of a server: close the circuit breakers, and move deliveries that a
    crash left in `sending` to `pending`.

    configured: the kinds of delivery for which the settings have a destination. missing: what the settings
    lack for the others.
    """
    configure_destinations(configured, missing)
    put_back(Delivery.select(Delivery.id).where(state_is(SENDING)))


def put_back(ids: Any) -> None:
    """Move deliveries from `sending` to `pending`, as the outcome of their attempt is unknown.

    ids: a list or a query. When the content was first sent is kept, so the next mail is the same.
    """
    DeliveryAttempt.update(outcome=CUT_OFF).where(
        DeliveryAttempt.delivery.in_(ids), DeliveryAttempt.outcome.is_null()
    ).execute()
    Delivery.update(state=PENDING, claimed_by=None, claimed_until=None).where(Delivery.id.in_(ids)).execute()
