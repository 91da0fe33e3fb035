"""Owns giving an unassigned lead its building, and so its agent the mail about it."""

from datetime import datetime

from models.building import Building, Refused
from models.destination import EMAIL
from models.intake import in_utc, why_not_told
from models.lead import Lead
from models.outbox import HELD, PENDING, SKIPPED, Delivery
from models.suspicion import why_held


def assign_lead(lead_id: int, building: Building, now: datetime) -> str | None:
    """Give this lead the building that it matched none of; why its agent is not told, None if they will be.

    Raises Refused, and changes nothing, if there is no such lead, or it has a building.
    """
    lead = Lead.get_or_none(Lead.id == lead_id)
    if lead is None:
        raise Refused(f"there is no lead {lead_id}; see 'lead list --unassigned'")
    if lead.building_id is not None:
        raise Refused(f"lead {lead_id} is of building {lead.building_id} already")
    lead.building = building
    if lead.sent_slot:  # without an offset it was read as UTC, for want of the building's time zone
        lead.slot = in_utc(datetime.fromisoformat(lead.sent_slot.strip().upper()), building)
    lead.save(only=[Lead.building, Lead.slot])
    not_told, held = why_not_told(lead.customer, building), why_held(lead.suspected, building)
    Delivery.update(
        state=SKIPPED if not_told else HELD if held else PENDING,
        reason=not_told or held,
        due_at=None if not_told or held else now,
        settled_at=now if not_told else None,
        failures=0,
    ).where(Delivery.lead == lead_id, Delivery.kind == EMAIL).execute()
    return not_told or held
