"""Owns giving an unassigned lead its building, and so its agent the mail about it."""

from datetime import datetime

from models.building import Building
from models.errors import ActionError
from models.intake import in_utc, why_not_told
from models.lead import Lead
from models.outbox.delivery import PENDING, QUARANTINED, SKIPPED, Delivery
from models.outbox.destination import EMAIL
from models.spam import why_quarantined


def assign_lead(lead_id: int, building: Building, now: datetime) -> str | None:
    """Give this lead the building that it matched none of; why its agent is not told, None if they will be.

    Raises ActionError, and changes nothing, if there is no such lead, or it has a building.
    """
    lead = Lead.get_or_none(Lead.id == lead_id)
    if lead is None:
        raise ActionError(f"there is no lead {lead_id}; see 'lead list --unassigned'")
    if lead.building_id is not None:
        raise ActionError(f"lead {lead_id} is of building {lead.building_id} already")
    lead.building = building
    if lead.sent_slot:  # without an offset it was read as UTC, for want of the building's time zone
        lead.slot = in_utc(datetime.fromisoformat(lead.sent_slot.strip().upper()), building)
    lead.save(only=[Lead.building, Lead.slot])
    not_told, held = why_not_told(lead.customer, building), why_quarantined(lead.suspected, building)
    Delivery.update(
        state=SKIPPED if not_told else QUARANTINED if held else PENDING,
        reason=not_told or held,
        due_at=None if not_told or held else now,
        settled_at=now if not_told else None,
        failures=0,
    ).where(Delivery.lead == lead_id, Delivery.kind == EMAIL).execute()
    return not_told or held


def release_lead(lead_id: int, now: datetime) -> int:
    """Take the suspicion off a lead, and have leave what was held; answers with how many deliveries that are.

    Raises ActionError if there is no such lead, or it isn't suspected.
    """
    lead = Lead.get_or_none(Lead.id == lead_id)
    if lead is None:
        raise ActionError(f"there is no lead {lead_id}; see 'lead list --suspected'")
    if lead.suspected is None:
        raise ActionError(f"lead {lead_id} is not suspected of anything")
    lead.suspected = None
    lead.save(only=[Lead.suspected])
    released: int = (
        Delivery.update(state=PENDING, reason=None, due_at=now, settled_at=None)
        .where(Delivery.lead == lead_id, Delivery.state == QUARANTINED)
        .execute()
    )
    return released
