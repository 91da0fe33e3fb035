"""Owns the whole record of a lead, as listings and export show it: with customer, deal and deliveries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models.building import Building, building_as_dict
from models.customer import Customer, customer_in_brief
from models.database import as_text, as_text_or_none
from models.deal import Deal, PipelineStage
from models.lead import Lead
from models.outbox import Delivery, DeliveryAttempt

PAGE = 500


def lead_as_dict(lead: Lead, deal: Deal | None, deliveries: Sequence[Delivery]) -> dict[str, Any]:
    """One lead with all that belongs to it, ready for JSON. Times are UTC text."""
    return {
        "id": lead.id,
        "created_at": as_text(lead.created_at),
        "building_id": lead.building_id,
        "customer": customer_in_brief(lead.customer),
        "requestor_name": lead.requestor_name,
        "requestor_email": lead.requestor_email,
        "requestor_phone": lead.requestor_phone,
        "message": lead.message,
        "slot": as_text_or_none(lead.slot),
        "unit_preference": lead.unit_preference,
        "property_type": lead.property_type,
        "utm_data": lead.utm_data,
        "listing_source": lead.listing_source,
        "listing_source_original_id": lead.listing_source_original_id,
        "request_host": lead.request_host,
        "sms_consent": bool(lead.sms_consent),
        "lead_source": lead.lead_source,
        "deal": {"id": deal.id, "stage": deal.stage.name} if deal else None,
        "deliveries": [
            {"kind": d.kind, "state": d.state, "attempts": d.attempts, "reason": d.reason} for d in deliveries
        ],
    }


def list_leads(
    *,
    building_id: int | None = None,
    unassigned: bool = False,
    customer_id: int | None = None,
    since: datetime | None = None,
    limit: int | None = None,
    newest_first: bool = True,
) -> Iterator[dict[str, Any]]:
    """Leads as dicts, fetched a page at a time, so that a million of them need no memory."""
    conditions = []
    if building_id is not None:
        conditions.append(Lead.building == building_id)
    if unassigned:
        conditions.append(Lead.building.is_null())
    if customer_id is not None:
        conditions.append(Lead.customer == customer_id)
    if since is not None:
        conditions.append(Lead.created_at >= since)
    order = Lead.id.desc() if newest_first else Lead.id.asc()
    last_id: int | None = None
    left = limit
    while left is None or left > 0:
        page = _leads()
        for condition in conditions:
            page = page.where(condition)
        if last_id is not None:
            page = page.where(Lead.id < last_id if newest_first else Lead.id > last_id)
        leads = list(page.order_by(order).limit(PAGE if left is None else min(PAGE, left)))
        yield from _as_dicts(leads)
        if len(leads) < PAGE:
            return
        last_id = leads[-1].id
        left = None if left is None else left - len(leads)


def count_leads() -> int:
    """How many leads there are."""
    count: int = Lead.select().count()
    return count


@dataclass(frozen=True, slots=True)
class LeadRecord:
    """A lead as a dict, with its building as one (None: unassigned) and the id of its request."""

    lead: dict[str, Any]
    building: dict[str, Any] | None
    request_id: str


def load_records(lead_ids: Sequence[int]) -> dict[int, LeadRecord]:
    """The records of these leads, by id."""
    leads = list(_leads().where(Lead.id.in_(lead_ids)))
    buildings = {
        row.id: building_as_dict(row)
        for row in Building.select().where(Building.id.in_({lead.building_id for lead in leads}))
    }
    return {
        lead.id: LeadRecord(as_dict, buildings.get(lead.building_id), lead.request_id)
        for lead, as_dict in zip(leads, _as_dicts(leads), strict=True)
    }


def show_lead(lead_id: int) -> dict[str, Any] | None:
    """All that is known of one lead: besides its record what was typed, the consent, the attempts."""
    lead = _leads().where(Lead.id == lead_id).first()
    if lead is None:
        return None
    attempts = (
        DeliveryAttempt.select(DeliveryAttempt, Delivery)
        .join(Delivery)
        .where(Delivery.lead == lead_id)
        .order_by(DeliveryAttempt.started_at)
    )
    return {
        **next(iter(_as_dicts([lead]))),
        "request_id": lead.request_id,
        "sent": {
            "unified_address_id": lead.sent_unified_address_id,
            "address_line_one": lead.sent_address_line_one,
            "token": lead.sent_token,
            "slot": lead.sent_slot,
            "utm_data": lead.sent_utm_data,
        },
        "sms_consent_evidence": {
            "at": as_text_or_none(lead.sms_consent_at),
            "ip": lead.sms_consent_ip,
            "user_agent": lead.sms_consent_user_agent,
            "host": lead.sms_consent_host,
        }
        if lead.sms_consent
        else None,
        "attempts": [
            {
                "kind": attempt.delivery.kind,
                "number": attempt.number,
                "started_at": as_text(attempt.started_at),
                "ended_at": as_text_or_none(attempt.ended_at),
                "outcome": attempt.outcome,
            }
            for attempt in attempts
        ],
    }


def _leads() -> Any:
    return Lead.select(Lead, Customer).join(Customer)


def _as_dicts(leads: Sequence[Lead]) -> Iterator[dict[str, Any]]:
    ids = [lead.id for lead in leads]
    deals = {
        deal.lead_id: deal
        for deal in Deal.select(Deal, PipelineStage).join(PipelineStage).where(Deal.lead.in_(ids))
    }
    deliveries: dict[int, list[Delivery]] = {}
    for row in Delivery.select().where(Delivery.lead.in_(ids)).order_by(Delivery.id):
        deliveries.setdefault(row.lead_id, []).append(row)
    for lead in leads:
        yield lead_as_dict(lead, deals.get(lead.id), deliveries.get(lead.id, ()))
