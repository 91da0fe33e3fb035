"""Owns the outbox: what is to leave because of a lead, and how far it has got.

A delivery's states, and who moves it:

    held       intake, of a lead that looks like spam; `release_lead` makes it pending
    pending    intake makes it so; it waits for its time, or for its destination to open
    sending    the dispatcher, by `claim`: counted as an attempt before anything leaves
    delivered  the dispatcher, by `settle`: the destination took it
    failed     the dispatcher, by `settle`: given up; stays until the operator retries it
    skipped    intake, an erasure, or the operator: it is not to leave at all, `reason` says why

From sending it goes back to pending when an attempt failed for a time, and at the start of a server: the
folder's lock proves that nobody else is sending it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import (
    SQL,
    AutoField,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from models.lead import Lead
from models.storage.cached_query import CachedInsert
from models.storage.rows import Row, UtcDateTimeField

PENDING, SENDING, DELIVERED, FAILED, SKIPPED = "pending", "sending", "delivered", "failed", "skipped"
QUARANTINED = "held"
STATES = (QUARANTINED, PENDING, SENDING, DELIVERED, FAILED, SKIPPED)

ERASED = "the customer was erased"


class Delivery(Row):
    """One thing that is to leave because of one lead."""

    id = AutoField()
    lead = ForeignKeyField(Lead)
    lead_id: int
    kind = TextField()
    state = TextField()
    reason = TextField(null=True)
    attempts = IntegerField(default=0)  # how often it was tried
    failures = IntegerField(default=0)  # how often it was itself the reason; its backoff goes by this
    due_at = UtcDateTimeField(null=True)
    settled_at = UtcDateTimeField(null=True)


class DeliveryAttempt(Row):
    """One attempt at a delivery. Until it has ended its outcome is null."""

    delivery = ForeignKeyField(Delivery)
    number = IntegerField()
    started_at = UtcDateTimeField()
    ended_at = UtcDateTimeField(null=True)
    outcome = TextField(null=True)

    class Meta:
        primary_key = CompositeKey("delivery", "number")


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to be made for a lead; with a reason to skip it, it will not leave, and with one to hold it,
    not yet.
    """

    lead_id: int
    kind: str
    skip_reason: str | None = None
    quarantine_reason: str | None = None


def enqueue(deliveries: Sequence[NewDelivery], now: datetime) -> None:
    """Put deliveries into the outbox, in the transaction of their leads."""
    _INSERT.run(
        [
            (d.lead_id, d.kind, SKIPPED, d.skip_reason, 0, 0, None, now)
            if d.skip_reason
            else (d.lead_id, d.kind, QUARANTINED, d.quarantine_reason, 0, 0, None, None)
            if d.quarantine_reason
            else (d.lead_id, d.kind, PENDING, None, 0, 0, now, None)
            for d in deliveries
        ]
    )


_INSERT = CachedInsert(
    Delivery,
    Delivery.lead,
    Delivery.kind,
    Delivery.state,
    Delivery.reason,
    Delivery.attempts,
    Delivery.failures,
    Delivery.due_at,
    Delivery.settled_at,
)


def state_is(state: str) -> Any:
    """The condition that a delivery is in this state, put so that the index of such rows serves it."""
    # That takes a literal: with a bound value it can't know that the index will do.
    assert state in STATES
    return Delivery.state == SQL(f"'{state}'")
