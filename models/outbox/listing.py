"""Listings of the outbox for the operator: deliveries, and why they wait."""

from datetime import datetime
from typing import TypedDict

from peewee import fn

from models.clock import utc_text_or_none
from models.outbox.delivery import FAILED, PENDING, SENDING, Delivery, state_is
from models.outbox.destination import Destination, why_waiting


class DeliveryDict(TypedDict):
    """A delivery as JSON. reason: of a pending one, first of all why its destination accepts nothing."""

    id: int
    lead_id: int
    kind: str
    state: str
    attempts: int
    reason: str | None
    due_at: str | None
    settled_at: str | None


class DestinationDict(TypedDict):
    """A destination as JSON, with the numbers of its deliveries in three states."""

    kind: str
    configured: bool
    paused: bool
    waits_because: str | None
    pending: int
    sending: int
    failed: int


def list_deliveries(state: str | None, kind: str | None, limit: int, now: datetime) -> list[DeliveryDict]:
    """Return the newest deliveries, of this state and kind if given."""
    rows = Delivery.select().order_by(Delivery.id.desc()).limit(limit)
    if state:
        rows = rows.where(state_is(state))
    if kind:
        rows = rows.where(Delivery.kind == kind)
    waits = {row.kind: why_waiting(row, now) for row in Destination.select()}
    return [
        {
            "id": row.id,
            "lead_id": row.lead_id,
            "kind": row.kind,
            "state": row.state,
            "attempts": row.attempts,
            "reason": (waits[row.kind] if row.state == PENDING else None) or row.reason,
            "due_at": utc_text_or_none(row.due_at),
            "settled_at": utc_text_or_none(row.settled_at),
        }
        for row in rows
    ]


def list_destinations(now: datetime) -> list[DestinationDict]:
    """Return each destination with the numbers of its deliveries, and why they wait."""
    counts: dict[tuple[str, str], int] = {
        (kind, state): count
        for state in (PENDING, SENDING, FAILED)
        for kind, count in Delivery.select(Delivery.kind, fn.COUNT(Delivery.id))
        .where(state_is(state))
        .group_by(Delivery.kind)
        .tuples()
        .execute()
    }
    return [
        {
            "kind": row.kind,
            "configured": bool(row.configured),
            "paused": bool(row.paused),
            "waits_because": why_waiting(row, now),
            "pending": counts.get((row.kind, PENDING), 0),
            "sending": counts.get((row.kind, SENDING), 0),
            "failed": counts.get((row.kind, FAILED), 0),
        }
        for row in Destination.select().order_by(Destination.kind)
    ]
