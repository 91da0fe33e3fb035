"""Owns the one transaction behind a 201: customer, lead, deal and outbox rows, all or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from models.building import Building, Clues, match_buildings
from models.customer import Customer, Renter, find_or_create
from models.deal import open_deals
from models.destination import EMAIL, JUNE_HOMES
from models.lead import JUNE_HOMES_SOURCE, Lead
from models.outbox import NewDelivery, enqueue


@dataclass(frozen=True, slots=True)
class SmsConsent:
    """The evidence that goes with a consent to be texted (C14)."""

    at: datetime
    ip: str
    user_agent: str | None
    host: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """A lead as it was sent, checked: every text is clean and not blank, or None."""

    request_id: str
    received_at: datetime
    clues: Clues
    renter: Renter
    message: str | None = None
    slot: datetime | None = None  # naive: in the building's time zone
    sent_slot: str | None = None
    unit_preference: str | None = None
    utm_data: dict[str, str] | None = None
    sent_utm_data: str | None = None
    listing_source: str | None = None
    listing_source_original_id: str | None = None
    request_host: str | None = None
    sms_consent: SmsConsent | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A lead that was stored: its id, and why no agent is told of it, if none is."""

    lead_id: int
    not_told: str | None


def record_leads(submissions: Sequence[Submission]) -> list[Recorded]:
    """Store these leads with all that belongs to them. An operation of the writer."""
    now = max(s.received_at for s in submissions)
    buildings = match_buildings((s.clues for s in submissions), now)
    customers = find_or_create([s.renter for s in submissions], now)
    rows = [
        _lead_row(submission, buildings.get(submission.clues), customer)
        for submission, customer in zip(submissions, customers, strict=True)
    ]
    inserted = Lead.insert_many(rows).returning(Lead.request_id, Lead.id).tuples().execute()
    ids = dict(inserted)  # by request: the order of returned rows is nobody's promise
    lead_ids = [ids[submission.request_id] for submission in submissions]
    open_deals(lead_ids, now)
    recorded = [
        Recorded(lead_id, _why_not_told(customer, buildings.get(submission.clues)))
        for lead_id, submission, customer in zip(lead_ids, submissions, customers, strict=True)
    ]
    enqueue(
        [
            delivery
            for lead, submission in zip(recorded, submissions, strict=True)
            for delivery in _deliveries(lead, submission)
        ],
        now,
    )
    return recorded


def _lead_row(submission: Submission, building: Building | None, customer: Customer) -> dict[str, Any]:
    consent = submission.sms_consent
    return {
        "request_id": submission.request_id,
        "created_at": submission.received_at,
        "building": building and building.id,
        "customer": customer.id,
        "sent_token": submission.clues.token,
        "sent_unified_address_id": submission.clues.unified_address_id,
        "sent_address_line_one": submission.clues.address_line_one,
        "requestor_name": submission.renter.name,
        "requestor_email": submission.renter.email,
        "requestor_phone": submission.renter.phone,
        "message": submission.message,
        "slot": _instant(submission.slot, building),
        "sent_slot": submission.sent_slot,
        "unit_preference": submission.unit_preference,
        "property_type": "listing" if submission.unit_preference else "building",
        "utm_data": submission.utm_data,
        "sent_utm_data": submission.sent_utm_data,
        "listing_source": submission.listing_source,
        "listing_source_original_id": submission.listing_source_original_id,
        "request_host": submission.request_host,
        "lead_source": "website",
        "sms_consent": consent is not None,
        "sms_consent_at": consent and consent.at,
        "sms_consent_ip": consent and consent.ip,
        "sms_consent_user_agent": consent and consent.user_agent,
        "sms_consent_host": consent and consent.host,
    }


def _instant(slot: datetime | None, building: Building | None) -> datetime | None:
    if slot is not None and slot.tzinfo is None:
        slot = slot.replace(tzinfo=ZoneInfo(building.time_zone) if building else UTC)
    return slot and slot.astimezone(UTC)


def _deliveries(lead: Recorded, submission: Submission) -> list[NewDelivery]:
    deliveries = [NewDelivery(lead.lead_id, EMAIL, lead.not_told)]
    if submission.listing_source == JUNE_HOMES_SOURCE:
        deliveries.append(NewDelivery(lead.lead_id, JUNE_HOMES))
    return deliveries


def _why_not_told(customer: Customer, building: Building | None) -> str | None:
    if building is None:
        return "no building matched"
    if not building.agent_email:
        return "the building has no agent e-mail"
    if customer.spam:
        return "the customer is flagged as spam"
    return None
