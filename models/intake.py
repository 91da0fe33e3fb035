"""Owns the one transaction behind a 201: customer, lead, deal and outbox rows, all or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

from models.building import Building, Clues, FoundBuilding, match_buildings
from models.customer import Customer, FoundCustomer, Renter, find_or_create
from models.deal import open_deals
from models.destination import EMAIL, JUNE_HOMES
from models.idempotency import FirstTry, OwnedKey, Retryable, first_tries, keep_first_tries
from models.lead import JUNE_HOMES_SOURCE, Lead
from models.outbox import NewDelivery, enqueue
from models.prepared import PreparedInsert
from models.suspicion import Signs, remember_texts, suspect_in, suspicions, why_held


@dataclass(frozen=True, slots=True)
class SmsConsent:
    """The evidence that goes with a consent to be texted (C14)."""

    at: datetime
    ip: str
    user_agent: str | None
    host: str | None
    version: str | None = None


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
    signs: Signs | None = None  # of how it was filled in
    retryable: Retryable | None = None  # None: every time it is sent it is another lead


@dataclass(frozen=True, slots=True)
class Recorded:
    """A lead that is stored: its id, and why no agent is told of it, if none is. again: it was so before."""

    lead_id: int
    not_told: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class KeyReused:
    """A lead that was not stored: its Idempotency-Key came with another body before."""


def record_leads(submissions: Sequence[Submission]) -> list[Recorded | KeyReused]:
    """Store these leads with all that belongs to them. An operation of the writer.

    Of those that are the same by their Idempotency-Key the first is stored, if it isn't already, and all are
    answered with its id: twins that come at once meet here, one behind the other.
    """
    now = max(s.received_at for s in submissions)
    buildings = match_buildings((s.clues for s in submissions), now)
    keys = [_key(submission, buildings) for submission in submissions]
    tries = first_tries({key.digest for key in keys if key}, now)
    first_at: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        if key and key.digest not in tries:
            first_at.setdefault(key.digest, position)
    new = [at for at, key in enumerate(keys) if key is None or first_at.get(key.digest) == at]
    stored = dict(zip(new, _store([submissions[at] for at in new], buildings, now), strict=True))
    made = {
        key.digest: FirstTry(stored[at].lead_id, key.body)
        for at, key in enumerate(keys)
        if key and at in stored
    }
    keep_first_tries(made, now)
    tries |= made
    return [
        stored[at] if key is None or at in stored else _again(key, tries[key.digest])
        for at, key in enumerate(keys)
    ]


def _key(submission: Submission, buildings: Mapping[Clues, FoundBuilding]) -> OwnedKey | None:
    if submission.retryable is None:
        return None
    building = buildings.get(submission.clues)
    return submission.retryable.owned_by(None if building is None else building.id)


def _again(key: OwnedKey, first: FirstTry) -> Recorded | KeyReused:
    return Recorded(first.lead_id, again=True) if key.body == first.body else KeyReused()


def _store(
    submissions: Sequence[Submission], buildings: Mapping[Clues, FoundBuilding], now: datetime
) -> list[Recorded]:
    if not submissions:
        return []
    customers = find_or_create([s.renter for s in submissions], now)
    suspects = [suspect_in(s.signs, s.message, buildings.get(s.clues)) for s in submissions]
    suspected = suspicions(suspects, now)
    rows = [
        _lead_row(submission, buildings.get(submission.clues), customer, reason)
        for submission, customer, reason in zip(submissions, customers, suspected, strict=True)
    ]
    inserted = _INSERT.run([_values(row) for row in rows])
    ids: dict[str, int] = dict(inserted)  # by request: the order of returned rows is nobody's promise
    lead_ids = [ids[submission.request_id] for submission in submissions]
    open_deals(lead_ids, now)
    recorded: list[Recorded] = []
    deliveries: list[NewDelivery] = []
    for lead_id, submission, customer, reason in zip(
        lead_ids, submissions, customers, suspected, strict=True
    ):
        building = buildings.get(submission.clues)
        skip, hold = why_not_told(customer, building), why_held(reason, building)
        recorded.append(Recorded(lead_id, skip or hold))
        deliveries += _deliveries(lead_id, submission, skip, hold)
    enqueue(deliveries, now)
    remember_texts(zip(lead_ids, suspects, strict=True), now)
    return recorded


_COLUMNS = [field for field in Lead._meta.sorted_fields if field is not Lead.id]
_values = itemgetter(*(field.name for field in _COLUMNS))
_INSERT = PreparedInsert(Lead, *_COLUMNS, returning=(Lead.request_id, Lead.id))


def _lead_row(
    submission: Submission, building: FoundBuilding | None, customer: FoundCustomer, suspected: str | None
) -> dict[str, Any]:
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
        "slot": in_utc(submission.slot, building),
        "sent_slot": submission.sent_slot,
        "unit_preference": submission.unit_preference,
        "property_type": property_type(submission),
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
        "sms_consent_version": consent and consent.version,
        "suspected": suspected,
    }


def property_type(submission: Submission) -> str:
    """What the renter asks about (C15)."""
    return "listing" if submission.unit_preference else "building"


def in_utc(slot: datetime | None, building: Building | FoundBuilding | None) -> datetime | None:
    """The instant of a slot: without an offset it is in the building's time zone, UTC if there is none."""
    if slot is not None and slot.tzinfo is None:
        slot = slot.replace(tzinfo=ZoneInfo(building.time_zone) if building else UTC)
    return slot and slot.astimezone(UTC)


def _deliveries(
    lead_id: int, submission: Submission, skip: str | None, hold: str | None
) -> list[NewDelivery]:
    deliveries = [NewDelivery(lead_id, EMAIL, skip, hold)]
    if submission.listing_source == JUNE_HOMES_SOURCE:
        deliveries.append(NewDelivery(lead_id, JUNE_HOMES, hold_reason=hold))
    return deliveries


def why_not_told(customer: Customer | FoundCustomer, building: Building | FoundBuilding | None) -> str | None:
    """Why no agent gets a mail about a lead of this customer, for the operator; None if one does (C22)."""
    if building is None:
        return "no building matched"
    if not building.agent_email:
        return "the building has no agent e-mail"
    if customer.spam:
        return "the customer is flagged as spam"
    return None
