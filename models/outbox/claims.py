"""Claims: which deliveries are attempted now, and by which server.

A claim belongs to its server while the row has that server's id and the claim's attempt number. Its lease
says until when no other server may take the delivery over; the server renews it: see `leases`. A claim waits
for no lock of another transaction. It passes over what one has locked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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
from models.outbox.due import due_ids, unlocked
from models.storage.cached_query import CachedInsert, CachedQuery
from models.storage.rows import database, is_exclusive

CUT_OFF = "cut off: the server stopped before it knew the outcome"
LEASE = timedelta(seconds=45)  # so that a dead server's claims are taken over within a minute
MOST_ROUNDS = 20  # of mails that are all put off, in one claim; the next tick goes on


@dataclass(frozen=True, slots=True)
class Claim:
    """A server's request for due deliveries of one kind.

    server: its id. limit: the most to claim; 0: one, of another source than slow_sources. slow_sources: those
    of the deliveries that are on their way, if all of these are slow; else None. rates: of mail; None: no
    mail, or no limit.
    """

    kind: str
    limit: int
    now: datetime
    server: str
    slow_sources: frozenset[str | None] | None = None
    rates: MailRates | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that one server alone attempts now. attempt: its number, from 1. server: that server's id.

    sent_at: when its content was first sent, or `started_at` if it never was. is_probe: the breaker had
    tripped before.
    """

    delivery_id: int
    lead_id: int
    kind: str
    attempt: int
    server: str
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
    others = 0
    if state.is_limited:
        if not is_exclusive(f"probes {request.kind}"):
            return []  # another server is claiming; the next tick looks again
        # Before the state: the outcome of a probe changes both at once, and must not come between them.
        others = _count_of_others(request.kind, request.server)
        state = breaker_state(request.kind, request.now)
    ids = _ids_to_claim(request, state, others)
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
                request.server,
                request.now,
                datetime.fromisoformat(sent_at),
                content,
                recipient,
                is_probe,
                digest,
            )
            for row_id, lead_id, attempt, sent_at, content, recipient, digest in _MOVE.run(
                request.now, request.server, request.now + LEASE, ids
            )
        ),
        key=lambda c: ids.index(c.delivery_id),
    )
    _BEGIN_ATTEMPTS.run([(c.delivery_id, c.attempt, request.now) for c in claimed])
    return claimed


def _ids_to_claim(request: Claim, state: BreakerState, others: int) -> list[int]:
    """Return the deliveries to claim. others: how many other servers are sending, if not all may leave."""
    kind, now, limit, rates = request.kind, request.now, request.limit, request.rates
    if kind == EMAIL:
        form_digests(now)
    has_room = limit > 0 and state is BreakerState.CLOSED
    excluded_sources = None if has_room else request.slow_sources
    if others and (state is BreakerState.HALF_OPEN or 0 < limit <= others):
        return []
    limit -= others
    limit = 1 if state is BreakerState.HALF_OPEN else max(limit, 1)
    ids: list[int] = []
    for _ in range(MOST_ROUNDS):
        found = due_ids(kind, state, now, LARGEST if rates else limit, excluded_sources)
        ids = admit(found, limit, rates, now, request.server) if rates else found
        if ids or not found:
            break
    return _whole_digests(members(ids)) if kind == EMAIL and ids else ids


def _count_of_others(kind: str, server: str) -> int:
    """Return how many deliveries other servers are sending."""
    if not database.is_shared:
        return 0
    count: int = (
        Delivery.select()
        .where(Delivery.kind == kind, state_is(SENDING), Delivery.claimed_by != server)
        .count()
    )
    return count


def _whole_digests(found: Mapping[int, int | None]) -> list[int]:
    """Return these deliveries without digests of which another transaction is changing a part.

    found: the digest of each.
    """
    free = set(unlocked(list(found)))
    if len(free) == len(found):
        return list(found)
    cut = {digest for row_id, digest in found.items() if row_id not in free}
    return [
        row_id for row_id, digest in found.items() if row_id in free and (digest not in cut or not digest)
    ]


_MOVE = CachedQuery(
    lambda now, server, until, ids: (
        Delivery.update(
            state=SENDING,
            attempts=Delivery.attempts + 1,
            sent_at=fn.COALESCE(Delivery.sent_at, now),
            claimed_by=server,
            claimed_until=until,
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

    On a shared database another server may be sending them. They are taken over once their lease is over. A
    breaker that other servers have tripped stays, and the destination is probed at once.

    configured: the kinds of delivery for which the settings have a destination. missing: what the settings
    lack for the others.
    """
    configure_destinations(configured, missing)
    if not database.is_shared:
        put_back(Delivery.select(Delivery.id).where(state_is(SENDING)))


def put_back(ids: Any) -> None:
    """Move deliveries from `sending` to `pending`, as the outcome of their attempt is unknown.

    ids: a list or a query. When the content was first sent is kept, so the next mail is the same.
    """
    DeliveryAttempt.update(outcome=CUT_OFF).where(
        DeliveryAttempt.delivery.in_(ids), DeliveryAttempt.outcome.is_null()
    ).execute()
    Delivery.update(state=PENDING, claimed_by=None, claimed_until=None).where(Delivery.id.in_(ids)).execute()
