"""Owns what the operator is shown of the outbox: its deliveries, and what keeps them waiting."""

from datetime import datetime
from typing import Any

from peewee import fn

from models.clock import utc_text_or_none
from models.outbox.delivery import FAILED, PENDING, SENDING, Delivery, state_is
from models.outbox.destination import Destination, why_waiting


def list_deliveries(state: str | None, kind: str | None, limit: int, now: datetime) -> list[dict[str, Any]]:
    """The newest deliveries, of this state and kind if given, as listings show them."""
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


def list_destinations(now: datetime) -> list[dict[str, Any]]:
    """What each destination has waiting, and why it waits."""
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
            **{state: counts.get((row.kind, state), 0) for state in (PENDING, SENDING, FAILED)},
        }
        for row in Destination.select().order_by(Destination.kind)
    ]
