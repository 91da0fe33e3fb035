"""Owns what an operator does to deliveries: has them sent again, or has them not leave."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from models.errors import ActionError
from models.outbox.delivery import ERASED, FAILED, PENDING, QUARANTINED, SKIPPED, Delivery, state_is
from models.outbox.destination import EMAIL, KINDS, pause
from models.spam import why_quarantined

SKIPPED_BY_HAND = "skipped by the operator"


def pause_after_restore(now: datetime) -> None:
    """Pause every kind: mail that was waiting when the backup was made may have been sent since, and only the
    operator can know.
    """
    for kind in KINDS:
        pause(kind, f"by a restore at {now:%Y-%m-%d %H:%M}Z: what waits may have left already")


def retry_deliveries(ids: Sequence[int], now: datetime) -> list[int]:
    """Make these deliveries due now, their backoff begun anew, whether failed, skipped or waiting.

    Answers with their ids. Raises ActionError, and changes none, if one can't be sent again.
    """
    _refuse_unless(ids, {PENDING, FAILED, SKIPPED})
    _due_anew(now).where(Delivery.id.in_(ids)).execute()
    return list(ids)


def skip_deliveries(ids: Sequence[int], now: datetime) -> list[int]:
    """Have these deliveries, held, waiting or failed, not leave.

    Answers with their ids. Raises ActionError, and changes none, if one is on its way or has left.
    """
    _refuse_unless(ids, {QUARANTINED, PENDING, FAILED})
    skipped = {"state": SKIPPED, "reason": SKIPPED_BY_HAND, "due_at": None, "settled_at": now}
    Delivery.update(skipped).where(Delivery.id.in_(ids)).execute()
    return list(ids)


def _refuse_unless(ids: Sequence[int], states: Collection[str]) -> None:
    rows = {row.id: row for row in Delivery.select().where(Delivery.id.in_(ids))}
    for row_id in ids:
        if row_id not in rows:
            raise ActionError(f"there is no delivery {row_id}; see 'outbox list'")
        row = rows[row_id]
        if row.state == QUARANTINED and QUARANTINED not in states:
            raise ActionError(f"delivery {row_id} is held; 'lead release {row.lead_id}' lets it leave")
        if row.state not in states:
            raise ActionError(f"delivery {row_id} is {row.state} already")
        if row.reason == ERASED:
            raise ActionError(f"delivery {row_id} can't leave: {ERASED}")
        if QUARANTINED not in states and why_quarantined(row.lead.suspected, row.lead.building):
            raise ActionError(f"lead {row.lead_id} looks like spam; 'lead release {row.lead_id}' comes first")
        if row.kind == EMAIL and row.lead.building_id is None:
            raise ActionError(
                f"lead {row.lead_id} has no building, and so no agent; give it one by 'lead assign'"
            )


def retry_failed(kind: str | None, now: datetime) -> list[int]:
    """Make all deliveries that were given up, of this kind if given, due now; answers with their ids."""
    # One statement however many there are: after a long outage more than a statement has room for ids.
    due = _due_anew(now).where(state_is(FAILED))
    due = due.where(Delivery.kind == kind) if kind else due
    return sorted(row_id for (row_id,) in due.returning(Delivery.id).tuples().execute())


def _due_anew(now: datetime) -> Any:
    return Delivery.update(state=PENDING, failures=0, due_at=now, settled_at=None)
