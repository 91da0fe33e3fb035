"""Deliveries: the rows of the outbox, their states, and how a new one begins.

State        Set by
quarantined  intake, for a lead that looks like spam
pending      intake; the operator, by a release, a retry or a new mail; the dispatcher, after an attempt that
             is retried, or that its server gave up; a start or another server, if its own one stopped
sending      the dispatcher, by `claim`, which counts the attempt before anything leaves
delivered    the dispatcher, by `settle`: the destination accepted it
failed       the dispatcher, by `settle`: given up until the operator retries it
skipped      intake, an erasure, or the operator: it does not leave, and `reason` says why. One that was being
             sent may still arrive.

A `sending` delivery whose server stopped goes back to pending. On SQLite the next start puts it back: the
data folder's lock proves that no other server is sending it. Servers that share a database take it over once
its lease is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import (
    SQL,
    AutoField,
    BooleanField,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from models.building import Building
from models.lead import Lead
from models.storage.cached_query import CachedInsert
from models.storage.rows import Row, UtcDateTimeField, database, locked

PENDING, SENDING, DELIVERED, FAILED, SKIPPED = "pending", "sending", "delivered", "failed", "skipped"
QUARANTINED = "quarantined"
STATES = (QUARANTINED, PENDING, SENDING, DELIVERED, FAILED, SKIPPED)

# What a mail says. A changed tour that there no longer is when the mail leaves is a cancelled one.
NEW_LEAD, CHANGED_TOUR, TAKEN_AWAY = "lead", "changed_tour", "taken_away"
CANCELLED_TOUR = "cancelled_tour"
CONTENTS = (NEW_LEAD, CHANGED_TOUR, CANCELLED_TOUR, TAKEN_AWAY)

ERASED = "the customer was erased"


class Delivery(Row):
    """One delivery of one lead to one destination."""

    id = AutoField()
    lead = ForeignKeyField(Lead)
    lead_id: int
    kind = TextField()
    content = TextField(default=NEW_LEAD)
    told_slot = TextField(null=True)  # the time of the tour that earlier mails told, of one that changes it
    recipient = TextField(null=True)  # an e-mail address; null: the building's agent when it leaves
    building = ForeignKeyField(Building, null=True)  # that a lead was taken away from; null: the lead's
    building_id: int | None
    state = TextField()
    reason = TextField(null=True)
    attempts = IntegerField(default=0)
    failures = IntegerField(default=0)  # attempts that this delivery itself made fail; sets its backoff
    refused = BooleanField(default=False)  # the destination refused it, maybe because of itself
    # The digest that it leaves in: 0 until that is put together, then the id of the first delivery in it.
    digest = IntegerField(null=True)
    due_at = UtcDateTimeField(null=True)
    sent_at = UtcDateTimeField(null=True)  # when its content was first sent
    settled_at = UtcDateTimeField(null=True)
    claimed_by = TextField(null=True)  # the server that sends it, or sent it last; null: its claim was lost
    claimed_until = UtcDateTimeField(null=True)  # while it is being sent: when another server may take over


class DeliveryAttempt(Row):
    """One attempt at a delivery. Its outcome is null until it ends."""

    delivery = ForeignKeyField(Delivery)
    delivery_id: int
    number = IntegerField()
    started_at = UtcDateTimeField()
    ended_at = UtcDateTimeField(null=True)
    outcome = TextField(null=True)
    recipient = TextField(null=True)  # an e-mail address, or the host of a URL
    answer = TextField(null=True)  # of the destination that accepted it: a mail server names its queue id

    class Meta:
        primary_key = CompositeKey("delivery", "number")


@dataclass(slots=True, eq=False)  # frozen, it takes twice as long to make
class NewDelivery:
    """A delivery to enqueue: skipped or quarantined if there is a reason for it, else pending."""

    lead_id: int
    kind: str
    skip_reason: str | None = None
    quarantine_reason: str | None = None


def initial_state(
    skip_reason: str | None, quarantine_reason: str | None, now: datetime
) -> tuple[str, str | None, datetime | None, datetime | None]:
    """Return state, reason, due_at and settled_at of a delivery that begins now, or begins anew."""
    if skip_reason:
        return SKIPPED, skip_reason, None, now
    if quarantine_reason:
        return QUARANTINED, quarantine_reason, None, None
    return PENDING, None, now, None


def enqueue(deliveries: Sequence[NewDelivery], now: datetime) -> None:
    """Put deliveries into the outbox, in the transaction of their leads."""
    _INSERT.run(
        [
            (d.lead_id, d.kind, *initial_state(d.skip_reason, d.quarantine_reason, now), 0, 0)
            for d in deliveries
        ]
    )


_INSERT = CachedInsert(
    Delivery,
    Delivery.lead,
    Delivery.kind,
    Delivery.state,
    Delivery.reason,
    Delivery.due_at,
    Delivery.settled_at,
    Delivery.attempts,
    Delivery.failures,
)


def lock_deliveries(condition: Any) -> None:
    """Keep other servers from changing these deliveries until the transaction ends.

    In the order of their ids, so that no two transactions wait for each other. A claim passes them over.
    """
    if database.is_shared:
        list(locked(Delivery.select(Delivery.id).where(condition).order_by(Delivery.id)).tuples())


def state_is(state: str, table: Any = Delivery) -> Any:
    """Return the condition that a delivery is in this state. The state's partial index serves it.

    table: an alias of the deliveries, in a query with several.
    """
    # A literal: SQLite does not match a bound value with the index's condition.
    assert state in STATES
    return table.state == SQL(f"'{state}'")
