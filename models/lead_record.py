"""Leads as JSON, with customer, deal and deliveries: for listings, for export, for delivery."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from models.audit import AuditEntry
from models.building import Building, BuildingDict, building_as_dict
from models.clock import utc_text, utc_text_or_none
from models.customer import Customer, customer_in_brief
from models.deal import Deal, PipelineStage
from models.lead import Lead
from models.lead_dict import ActionDict, LeadDetailDict, LeadDict, LeadForDelivery
from models.outbox.claims import Claim, Claimed, claim
from models.outbox.delivery import CANCELLED_TOUR, CHANGED_TOUR, NEW_LEAD, Delivery, DeliveryAttempt
from models.slot import read_stored_slot
from models.storage import ACTIONS, in_batch
from models.storage.cached_query import CachedSelect
from models.storage.rows import database

log = logging.getLogger("leads.outbox")

PAGE = 500
# The errors that a row with malformed values raises.
UNREADABLE = (ValueError, TypeError, LookupError)


def lead_as_dict(lead: Lead, deal: Deal | None, deliveries: Sequence[Delivery]) -> LeadDict:
    """Return a lead as JSON, with its deal and deliveries."""
    return {
        "id": lead.id,
        "created_at": utc_text(lead.created_at),
        "building_id": lead.building_id,
        "customer": customer_in_brief(lead.customer),
        "requestor_name": lead.requestor_name,
        "requestor_email": lead.requestor_email,
        "requestor_phone": lead.requestor_phone,
        "message": lead.message,
        "slot": utc_text_or_none(lead.slot),
        "unit_preference": lead.unit_preference,
        "property_type": lead.property_type,
        "utm_data": lead.utm_data,
        "listing_source": lead.listing_source,
        "listing_source_original_id": lead.listing_source_original_id,
        "request_host": lead.request_host,
        "website": lead.website,
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
    suspected: bool = False,
    customer_id: int | None = None,
    since: datetime | None = None,
    limit: int | None = None,
    newest_first: bool = True,
) -> Iterator[LeadDict]:
    """Yield leads, fetched a page at a time, so that a million of them need little memory."""
    conditions = []
    if building_id is not None:
        conditions.append(Lead.building == building_id)
    if unassigned:
        conditions.append(Lead.building.is_null())
    if suspected:
        conditions.append(Lead.suspected.is_null(False))
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
    """Return the number of leads."""
    count: int = Lead.select().count()
    return count


@dataclass(frozen=True, slots=True)
class LeadWithBuilding:
    """A lead for its adapter, its building, the id of the HTTP request that it came with, and its source."""

    lead: LeadForDelivery
    building: BuildingDict | None
    request_id: str
    source: str | None


@dataclass(frozen=True, slots=True)
class ClaimedRecord:
    """A claimed delivery with its lead; None if that can't be read."""

    claimed: Claimed
    record: LeadWithBuilding | None


@in_batch(ACTIONS + 2)
def claim_records(claims: Sequence[Claim]) -> list[list[ClaimedRecord]]:
    """Claim deliveries, and return each with its lead and building. An operation of the writer."""
    claimed_lists = claim(claims)
    records = _load_all({claimed.lead_id for claimed_list in claimed_lists for claimed in claimed_list})
    return [
        [_as_earlier_mails_told(ClaimedRecord(claimed, records[claimed.lead_id])) for claimed in claimed_list]
        for claimed_list in claimed_lists
    ]


def _as_earlier_mails_told(item: ClaimedRecord) -> ClaimedRecord:
    """Return a mail that ends a tour with the building and the time that earlier mails told."""
    claimed, record = item.claimed, item.record
    if record is None or claimed.content == NEW_LEAD:
        return item
    if claimed.content == CHANGED_TOUR:
        if record.lead["slot"] is not None:
            return item
        claimed = replace(claimed, content=CANCELLED_TOUR)
    delivery = Delivery.get_by_id(claimed.delivery_id)
    if delivery.building is not None:
        record = replace(record, building=building_as_dict(delivery.building))
    told = read_stored_slot(delivery.told_slot)
    zone = ZoneInfo(record.building["time_zone"]) if record.building else UTC
    lead: LeadForDelivery = {
        **record.lead,
        "slot": utc_text(told.in_utc(zone)) if told else None,
        "sent_slot": delivery.told_slot,
        "slot_corrected": True,  # the text is not the renter's
    }
    return ClaimedRecord(claimed, replace(record, lead=lead))


def _load_all(lead_ids: Collection[int]) -> Mapping[int, LeadWithBuilding | None]:
    try:
        return _load(lead_ids)
    except Exception as error:
        if database.is_storage_failure(error):
            raise
    # One unreadable lead must not delay the others.
    return {lead_id: _load_one(lead_id) for lead_id in lead_ids}


def _load_one(lead_id: int) -> LeadWithBuilding | None:
    try:
        return _load([lead_id])[lead_id]
    except Exception as error:  # whatever a column that holds nonsense raises
        if database.is_storage_failure(error):
            raise
        log.exception("a lead can't be read", extra={"lead": lead_id})
        return None


_LEADS = CachedSelect(Lead, lambda select, ids: select.where(Lead.id.in_(ids)), joined=Customer)
_BUILDINGS = CachedSelect(Building, lambda select, ids: select.where(Building.id.in_(ids)))


def _load(lead_ids: Collection[int]) -> dict[int, LeadWithBuilding]:
    if not lead_ids:
        return {}
    records = {}
    rows = _LEADS.run(list(lead_ids))
    building_ids = {lead.building_id for lead, _ in rows} - {None}
    buildings = {row.id: building_as_dict(row) for (row,) in _BUILDINGS.run(building_ids)}
    for lead, customer in rows:
        lead.customer = customer
        as_dict: LeadForDelivery = {
            **lead_as_dict(lead, None, ()),
            "sent_slot": lead.slot_text,
            "slot_corrected": lead.corrected_slot is not None,
            "suspected": lead.suspected,
            "tour_sequence": lead.tour_sequence,
        }
        building = buildings.get(lead.building_id)
        records[lead.id] = LeadWithBuilding(as_dict, building, lead.request_id, lead.source)
    return records


def show_lead(lead_id: int) -> LeadDetailDict | None:
    """Return all that is stored of one lead: also the sent texts, the consent, the attempts."""
    lead = _leads().where(Lead.id == lead_id).first()
    if lead is None:
        return None
    attempts = (
        DeliveryAttempt.select(DeliveryAttempt, Delivery)
        .join(Delivery)
        .where(Delivery.lead == lead_id)
        .order_by(DeliveryAttempt.started_at, DeliveryAttempt.delivery, DeliveryAttempt.number)
    )
    return {
        **next(iter(_as_dicts([lead]))),
        "request_id": lead.request_id,
        "suspected": lead.suspected,
        "corrected_slot": lead.corrected_slot,
        "unregistered_origin": lead.unregistered_origin,
        "sent": {
            "unified_address_id": lead.sent_unified_address_id,
            "address_line_one": lead.sent_address_line_one,
            "token": lead.sent_token,
            "email": lead.sent_email,
            "slot": lead.sent_slot,
            "utm_data": lead.sent_utm_data,
        },
        "sms_consent_evidence": {
            "at": utc_text_or_none(lead.sms_consent_at),
            "ip": lead.sms_consent_ip,
            "user_agent": lead.sms_consent_user_agent,
            "host": lead.sms_consent_host,
            "origin": lead.sms_consent_origin,
            "version": lead.sms_consent_version,
        }
        if lead.sms_consent
        else None,
        "attempts": [
            {
                "delivery_id": attempt.delivery_id,
                "kind": attempt.delivery.kind,
                "content": attempt.delivery.content,
                "number": attempt.number,
                "started_at": utc_text(attempt.started_at),
                "ended_at": utc_text_or_none(attempt.ended_at),
                "outcome": attempt.outcome,
                "recipient": attempt.recipient,
                "answer": attempt.answer,
            }
            for attempt in attempts
        ],
        "actions": _actions(lead_id),
    }


def _actions(lead_id: int) -> list[ActionDict]:
    """Return what operators did with the lead and its deliveries, the oldest first."""
    deliveries = [str(row.id) for row in Delivery.select(Delivery.id).where(Delivery.lead == lead_id)]
    entries = AuditEntry.select().where(
        ((AuditEntry.subject_kind == "lead") & (AuditEntry.subject_id == str(lead_id)))
        | ((AuditEntry.subject_kind == "delivery") & AuditEntry.subject_id.in_(deliveries))
    )
    return [
        {
            "at": utc_text(entry.at),
            "actor_kind": entry.actor_kind,
            "actor": entry.actor_name,
            "action": entry.action,
            "delivery_id": int(entry.subject_id or 0) if entry.subject_kind == "delivery" else None,
            "fields": entry.fields,
        }
        for entry in entries.order_by(AuditEntry.id)
    ]


def _leads() -> Any:
    return Lead.select(Lead, Customer).join(Customer)


def _as_dicts(leads: Sequence[Lead]) -> Iterator[LeadDict]:
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
