"""Actions of operators on the outbox: retry or skip deliveries, pause or resume a kind of them."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from models.audit import Actor, record_action, record_actions
from models.errors import Conflict, NotFound
from models.outbox.delivery import (
    DELIVERED,
    ERASED,
    FAILED,
    NEW_LEAD,
    PENDING,
    QUARANTINED,
    SKIPPED,
    Delivery,
    lock_deliveries,
    state_is,
)
from models.outbox.destination import CLOSED_BREAKER, EMAIL, KINDS, Destination
from models.outbox.mails import WITHDRAWN
from models.spam import why_quarantined
from models.storage.rows import locked

SKIPPED_BY_HAND = "skipped by the operator"


def retry_deliveries(actor: Actor, ids: Sequence[int], now: datetime) -> list[int]:
    """Make these deliveries due now, whether failed, skipped or pending, and return their ids.

    Their backoff starts anew. Raises NotFound or Conflict, and changes none, if one of them can't be sent.
    """
    _require_state(ids, {PENDING, FAILED, SKIPPED})
    _address_later_mails(ids)
    _due_anew(now, digest=None).where(Delivery.id.in_(ids)).execute()
    record_actions(actor, "delivery.retry", "delivery", list(dict.fromkeys(ids)), now)
    return list(ids)


def retry_failed(actor: Actor, kind: str | None, now: datetime) -> list[int]:
    """Make all failed deliveries due now, of this kind if given, and return their ids."""
    # One statement: after a long outage there are more ids than a statement can hold.
    failed = Delivery.select(Delivery.id).where(state_is(FAILED)).order_by(Delivery.id)
    failed = failed.where(Delivery.kind == kind) if kind else failed
    due = _due_anew(now).where(Delivery.id.in_(locked(failed)))
    ids = sorted(row_id for (row_id,) in due.returning(Delivery.id).tuples().execute())
    if ids:
        record_action(actor, "delivery.retry_failed", "destination", kind, now)
    return ids


def skip_deliveries(actor: Actor, ids: Sequence[int], now: datetime) -> list[int]:
    """Cancel these deliveries, whether quarantined, pending or failed. Return their ids.

    Raises NotFound or Conflict, and changes none, if one of them is being sent or has left.
    """
    _require_state(ids, {QUARANTINED, PENDING, FAILED})
    skipped = {"state": SKIPPED, "reason": SKIPPED_BY_HAND, "due_at": None, "settled_at": now}
    Delivery.update(skipped).where(Delivery.id.in_(ids)).execute()
    record_actions(actor, "delivery.skip", "delivery", list(dict.fromkeys(ids)), now)
    return list(ids)


def _require_state(ids: Sequence[int], states: Collection[str]) -> None:
    lock_deliveries(Delivery.id.in_(ids))
    rows = {row.id: row for row in Delivery.select().where(Delivery.id.in_(ids))}
    for row_id in ids:
        if row_id not in rows:
            raise NotFound(f"there is no delivery {row_id}", "unknown_delivery")
        row = rows[row_id]
        lead_id = row.lead_id
        if row.state == QUARANTINED and QUARANTINED not in states:
            raise Conflict(f"delivery {row_id} is {QUARANTINED}", "quarantined", lead=lead_id)
        if row.state == DELIVERED and row.kind == EMAIL and SKIPPED in states:
            raise Conflict(f"delivery {row_id} is {DELIVERED} already", "delivered", lead=lead_id)
        if row.state not in states:
            raise Conflict(f"delivery {row_id} is {row.state} already")
        if row.reason == ERASED:
            raise Conflict(f"delivery {row_id} can't leave: {ERASED}")
        if row.state == SKIPPED and row.reason in WITHDRAWN:
            raise Conflict(f"delivery {row_id} can't leave: {row.reason}", "withdrawn", lead=lead_id)
        is_held = row.content == NEW_LEAD and why_quarantined(row.lead.suspected, row.lead.building)
        if QUARANTINED not in states and is_held:
            raise Conflict(f"lead {lead_id} looks like spam", "suspected", lead=lead_id)
        if row.kind == EMAIL and row.lead.building_id is None:
            raise Conflict(f"lead {lead_id} has no building, and so no agent", "unassigned", lead=lead_id)


def _address_later_mails(ids: Sequence[int]) -> None:
    """Address mails to the building's agent that are not the lead's first: the first has the lead's own
    Message-ID.
    """
    for row in Delivery.select().where(
        Delivery.id.in_(ids), Delivery.kind == EMAIL, Delivery.recipient.is_null()
    ):
        of_lead = Delivery.select().where(Delivery.lead == row.lead_id, Delivery.kind == EMAIL)
        if of_lead.where(Delivery.id < row.id).exists():
            building = row.lead.building
            row.recipient = building.agent_email if building else None
            row.save(only=[Delivery.recipient])


def _due_anew(now: datetime, **values: Any) -> Any:
    return Delivery.update(state=PENDING, failures=0, refused=False, due_at=now, settled_at=None, **values)


def pause(actor: Actor, kind: str, now: datetime, reason: str = "by the operator") -> None:
    """Claim no delivery of this kind until it is resumed. Deliveries that are being sent arrive."""
    Destination.update(paused=True, pause_reason=reason).where(Destination.kind == kind).execute()
    record_action(actor, "destination.pause", "destination", kind, now)


def resume(actor: Actor, kind: str, now: datetime) -> None:
    """Let deliveries of this kind leave at once: end a pause, and close the circuit breaker."""
    Destination.update(paused=False, pause_reason=None, **CLOSED_BREAKER).where(
        Destination.kind == kind
    ).execute()
    record_action(actor, "destination.resume", "destination", kind, now)


def pause_after_restore(actor: Actor, now: datetime) -> None:
    """Pause every kind: pending mail may have been sent after the backup was made. The operator decides."""
    record_action(actor, "backup.restore", "backup", None, now)
    for kind in KINDS:
        pause(actor, kind, now, f"by a restore at {now:%Y-%m-%d %H:%M}Z: what waits may have left already")


def pause_moved(actor: Actor, target: str, now: datetime) -> None:
    """Pause every kind in a database that was moved: what waits leaves from the target."""
    _pause_all(actor, now, f"since all leads were moved to {target} at {now:%Y-%m-%d %H:%M}Z")


def pause_after_move(actor: Actor, source: str, now: datetime) -> None:
    """Pause every kind in the database that a move has made, until the operator resumes it."""
    _pause_all(actor, now, f"since all leads were moved here from {source} at {now:%Y-%m-%d %H:%M}Z")


def _pause_all(actor: Actor, now: datetime, reason: str) -> None:
    record_action(actor, "database.move", "database", None, now)
    for kind in KINDS:
        pause(actor, kind, now, reason)
