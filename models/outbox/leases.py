"""Leases of claims: renewed while a delivery is on its way, given up at a stop, taken over when they end.

Only on a shared database may another server take a delivery over.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from models.outbox.claims import LEASE, Claim, Claimed, put_back
from models.outbox.delivery import SENDING, Delivery, DeliveryAttempt, state_is
from models.storage.rows import is_exclusive, locked

Lease = tuple[int, datetime | None]  # of a delivery, and until when

NOT_BEGUN = "not begun: the server stopped, or was too slow"


def renew(server: str, claims: Collection[Claimed], now: datetime) -> set[int]:
    """Extend the leases of this server's claims. Return the deliveries whose lease was extended.

    Of the others the claim is lost, or another transaction is changing the delivery.
    """
    rows = _claims_of(server, claims)
    held = _still_held(locked(rows, skip=True), claims)
    if held:
        Delivery.update(claimed_until=now + LEASE).where(Delivery.id.in_(held)).execute()
    return set(held)


def give_up(server: str, begun: Sequence[Claimed], not_begun: Sequence[Claimed], now: datetime) -> None:
    """Put the deliveries of these claims back at once, unless the claim was lost.

    begun: their mail may have left. not_begun: nothing of it has.
    """
    claims = [*begun, *not_begun]
    held = _still_held(locked(_claims_of(server, claims)), claims)
    numbers = {claim.delivery_id: claim for claim in not_begun}
    for claim in (numbers[row_id] for row_id in held if row_id in numbers):
        DeliveryAttempt.update(outcome=NOT_BEGUN, ended_at=now).where(
            DeliveryAttempt.delivery == claim.delivery_id, DeliveryAttempt.number == claim.attempt
        ).execute()
        if claim.sent_at == claim.started_at:
            Delivery.update(sent_at=None).where(Delivery.id == claim.delivery_id).execute()
    if held:
        put_back(held)


def give_up_unknown(claims: Sequence[Claim], now: datetime) -> list[int]:
    """Put back what these claims took, if they were committed: their outcome is unknown, so nothing of them
    has begun. Return the ids of the deliveries.
    """
    ids: list[int] = []
    for claim in claims:
        rows = Delivery.select(Delivery.id).where(
            Delivery.kind == claim.kind,
            state_is(SENDING),
            Delivery.claimed_by == claim.server,
            Delivery.claimed_until == claim.now + LEASE,
        )
        taken = [row_id for (row_id,) in locked(rows.order_by(Delivery.id)).tuples()]
        if not taken:
            continue
        DeliveryAttempt.update(outcome=NOT_BEGUN, ended_at=now).where(
            DeliveryAttempt.delivery.in_(taken), DeliveryAttempt.outcome.is_null()
        ).execute()
        Delivery.update(sent_at=None).where(Delivery.id.in_(taken), Delivery.sent_at == claim.now).execute()
        put_back(taken)
        ids += taken
    return ids


def take_over(seen: Collection[Lease], now: datetime) -> tuple[list[int], set[Lease]]:
    """Put deliveries back whose lease is over, as their server stopped or is too slow.

    seen: the leases that were over at an earlier look. One that is over for the first time may be so because
    the database's clock was set forward; its server renews it before the next look.

    Return the ids of the deliveries, and the other leases that are over. One server at a time does, and waits
    for locks, so that a digest is put back as a whole.
    """
    if not is_exclusive("take over"):
        return [], set(seen)
    # Without a lease: the database was moved here, and the server that sent them has stopped.
    is_over = Delivery.claimed_until.is_null() | (Delivery.claimed_until <= now)
    rows = Delivery.select(Delivery.id, Delivery.claimed_until).where(state_is(SENDING), is_over)
    leases: set[Lease] = set(locked(rows.order_by(Delivery.id)).tuples())
    over = {lease for lease in leases if lease in seen or lease[1] is None}
    ids = sorted(row_id for row_id, _ in over)
    if ids:
        put_back(ids)
    return ids, leases - over


def _claims_of(server: str, claims: Collection[Claimed]) -> Any:
    ids = [claim.delivery_id for claim in claims]
    return (
        Delivery.select(Delivery.id, Delivery.attempts)
        .where(Delivery.id.in_(ids), state_is(SENDING), Delivery.claimed_by == server)
        .order_by(Delivery.id)
    )


def _still_held(rows: Any, claims: Collection[Claimed]) -> list[int]:
    attempts = {claim.delivery_id: claim.attempt for claim in claims}
    return [row_id for row_id, attempt in rows.tuples() if attempts[row_id] == attempt]
