"""Listings of the outbox for the operator: deliveries, and why they wait."""

from datetime import datetime
from typing import Any, TypedDict

from peewee import JOIN, fn

from models.building import Building
from models.clock import utc_text_or_none
from models.lead import Lead
from models.outbox.delivery import (
    FAILED,
    PENDING,
    QUARANTINED,
    SENDING,
    Delivery,
    DeliveryAttempt,
    state_is,
)
from models.outbox.destination import EMAIL, Destination, why_waiting


class DeliveryDict(TypedDict):
    """A delivery as JSON. reason: of a pending one, first of all why its destination accepts nothing.

    content: what a mail says, one of CONTENTS. recipient: an e-mail address, or the host of a URL, that the
    delivery went to or will go to; None if that is not known. answer: of the destination that took it.
    """

    id: int
    lead_id: int
    kind: str
    content: str
    recipient: str | None
    state: str
    attempts: int
    reason: str | None
    answer: str | None
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


def list_deliveries(
    state: str | None, kind: str | None, limit: int, now: datetime, lead_id: int | None = None
) -> list[DeliveryDict]:
    """Return the newest deliveries, of this state, kind and lead if given."""
    page = Delivery.select(Delivery.id).order_by(Delivery.id.desc()).limit(limit)
    if state:
        page = page.where(state_is(state))
    if kind:
        page = page.where(Delivery.kind == kind)
    if lead_id is not None:
        page = page.where(Delivery.lead == lead_id)
    newest = (DeliveryAttempt.delivery == Delivery.id) & (DeliveryAttempt.number == Delivery.attempts)
    rows: Any = (
        Delivery.select(
            Delivery,
            DeliveryAttempt.recipient.alias("went_to"),
            DeliveryAttempt.answer.alias("answer"),
            Building.agent_email.alias("agent_email"),
        )
        .join(DeliveryAttempt, JOIN.LEFT_OUTER, on=newest)
        .join_from(Delivery, Lead, JOIN.LEFT_OUTER)
        .join(Building, JOIN.LEFT_OUTER)
        .where(Delivery.id.in_(page))
        .order_by(Delivery.id.desc())
        .objects()
    )
    waits = {row.kind: why_waiting(row, now) for row in Destination.select()}
    return [
        {
            "id": row.id,
            "lead_id": row.lead_id,
            "kind": row.kind,
            "content": row.content,
            "recipient": _recipient(row),
            "state": row.state,
            "attempts": row.attempts,
            "reason": (waits[row.kind] if row.state == PENDING else None) or row.reason,
            "answer": row.answer,
            "due_at": utc_text_or_none(row.due_at),
            "settled_at": utc_text_or_none(row.settled_at),
        }
        for row in rows
    ]


def _recipient(row: Any) -> str | None:
    will_go_to = row.recipient or (row.agent_email if row.kind == EMAIL else None)
    if row.state in (PENDING, QUARANTINED):  # the agent may be another one since the last attempt
        recipient = will_go_to or row.went_to
    else:
        recipient = row.went_to or (will_go_to if row.state == SENDING else row.recipient)
    return None if recipient is None else str(recipient)


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
