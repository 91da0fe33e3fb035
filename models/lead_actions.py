"""Actions of operators on leads: assign one to a building, release one from quarantine."""

from dataclasses import dataclass
from datetime import datetime

from models.audit import Actor, record_action
from models.building import Building, find_building
from models.errors import Conflict, NotFound
from models.intake import in_utc, unnotified_reason_of
from models.lead import Lead
from models.outbox.delivery import QUARANTINED, Delivery, initial_state
from models.outbox.destination import EMAIL, Destination, why_waiting
from models.slot import read_stored_slot
from models.spam import why_quarantined


@dataclass(frozen=True, slots=True)
class Assignment:
    """A lead's new building, and the reason why its mail does not leave now, if there is one.

    not_told: why no agent is mailed; waits_because: why the mail waits.
    """

    building: Building
    not_told: str | None
    waits_because: str | None


def assign_lead(actor: Actor, lead_id: int, building_id: int, now: datetime) -> Assignment:
    """Assign an unassigned lead to a building, and queue the mail to its agent.

    Raises NotFound for an unknown lead or building, Conflict if the lead has a building.
    """
    building = find_building(building_id)
    lead = Lead.get_or_none(Lead.id == lead_id)
    if lead is None:
        raise NotFound(f"there is no lead {lead_id}", "unknown_lead_to_assign")
    if lead.building_id is not None:
        raise Conflict(f"lead {lead_id} is of building {lead.building_id} already")
    lead.building = building
    if slot := read_stored_slot(lead.sent_slot):
        # Without an offset it was read as UTC, for want of the building's time zone.
        lead.slot = in_utc(slot, building)
    lead.save(only=[Lead.building, Lead.slot])
    skip_reason = unnotified_reason_of(lead.customer, building)
    quarantine_reason = why_quarantined(lead.suspected, building)
    state, reason, due_at, settled_at = initial_state(skip_reason, quarantine_reason, now)
    Delivery.update(state=state, reason=reason, due_at=due_at, settled_at=settled_at, failures=0).where(
        Delivery.lead == lead_id, Delivery.kind == EMAIL
    ).execute()
    record_action(actor, "lead.assign", "lead", lead_id, now, ["building_id"])
    not_told = skip_reason or quarantine_reason
    waits_because = None if not_told else why_waiting(Destination.get_by_id(EMAIL), now)
    return Assignment(building, not_told, waits_because)


def release_lead(actor: Actor, lead_id: int, now: datetime) -> int:
    """Clear the suspicion of spam, make the lead's quarantined deliveries due, and return their number.

    Raises NotFound, or Conflict if the lead isn't suspected.
    """
    lead = Lead.get_or_none(Lead.id == lead_id)
    if lead is None:
        raise NotFound(f"there is no lead {lead_id}", "unknown_lead_to_release")
    if lead.suspected is None:
        raise Conflict(f"lead {lead_id} is not suspected of anything")
    lead.suspected = None
    lead.save(only=[Lead.suspected])
    state, reason, due_at, settled_at = initial_state(None, None, now)
    released: int = (
        Delivery.update(state=state, reason=reason, due_at=due_at, settled_at=settled_at)
        .where(Delivery.lead == lead_id, Delivery.state == QUARANTINED)
        .execute()
    )
    record_action(actor, "lead.release", "lead", lead_id, now)
    return released
