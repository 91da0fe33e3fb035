"""Intake: the one transaction behind a 201 stores customer, lead, deal and deliveries, all or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

from models.building import Building
from models.building_match import BuildingKeys, BuildingRef, match_buildings
from models.customer import Customer, CustomerRef, Renter, find_or_create
from models.deal import open_deals
from models.idempotency import KeyedRequest, KeyRecord, ScopedKey, find_key_records, save_key_records
from models.lead import JUNE_HOMES_SOURCE, Lead
from models.outbox.delivery import NewDelivery, enqueue
from models.outbox.destination import EMAIL, JUNE_HOMES
from models.spam import SpamSignals, check_for_spam, remember_texts, spam_check_of, why_quarantined
from models.storage.cached_query import CachedInsert

FLAGGED_AS_SPAM = "the customer is flagged as spam"


@dataclass(frozen=True, slots=True)
class SmsConsent:
    """The evidence of a consent to text messages (C14)."""

    at: datetime
    ip: str
    user_agent: str | None
    host: str | None
    version: str | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A lead as it was sent and validated: each text is clean and not blank, or None."""

    request_id: str
    received_at: datetime
    building_keys: BuildingKeys
    renter: Renter
    message: str | None = None
    slot: datetime | None = None  # naive: in the building's time zone
    sent_slot: str | None = None
    unit_preference: str | None = None
    utm_data: dict[str, str] | None = None
    sent_utm_data: str | None = None
    sent_email: str | None = None  # None: as in `renter`
    listing_source: str | None = None
    listing_source_original_id: str | None = None
    request_host: str | None = None
    website: str | None = None
    unregistered_origin: str | None = None
    is_unattended: bool = False  # no person pressed the button of the form, or it stood in a frame
    source: str | None = None  # the network that the lead came from; None if many clients share it
    sms_consent: SmsConsent | None = None
    spam_signals: SpamSignals | None = None
    keyed_request: KeyedRequest | None = None  # None: a repeated request makes another lead


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored lead. not_told: why no agent is mailed; replayed: an earlier request stored it."""

    lead_id: int
    not_told: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class KeyReused:
    """A lead that was not stored: its Idempotency-Key belongs to another body."""


def record_leads(submissions: Sequence[Submission]) -> list[Recorded | KeyReused]:
    """Store leads with their customers, deals and deliveries. An operation of the writer.

    Only the first of several leads with one Idempotency-Key is stored, now or by an earlier request. All of
    them get its id. The writer orders leads that arrive at the same time.
    """
    now = max(s.received_at for s in submissions)
    buildings = match_buildings((s.building_keys for s in submissions), now)
    keys = [_key(submission, buildings) for submission in submissions]
    records = find_key_records({key.digest for key in keys if key}, now)
    first_at: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        if key and key.digest not in records:
            first_at.setdefault(key.digest, position)
    new = [at for at, key in enumerate(keys) if key is None or first_at.get(key.digest) == at]
    stored = dict(zip(new, _store([submissions[at] for at in new], buildings, now), strict=True))
    made = {
        key.digest: KeyRecord(stored[at].lead_id, key.body)
        for at, key in enumerate(keys)
        if key and at in stored
    }
    save_key_records(made, now)
    records |= made
    return [
        stored[at] if key is None or at in stored else _replayed(key, records[key.digest])
        for at, key in enumerate(keys)
    ]


def _key(submission: Submission, buildings: Mapping[BuildingKeys, BuildingRef]) -> ScopedKey | None:
    if submission.keyed_request is None:
        return None
    building = buildings.get(submission.building_keys)
    return submission.keyed_request.scoped_to(None if building is None else building.id)


def _replayed(key: ScopedKey, first: KeyRecord) -> Recorded | KeyReused:
    return Recorded(first.lead_id, replayed=True) if key.body == first.body else KeyReused()


def _store(
    submissions: Sequence[Submission], buildings: Mapping[BuildingKeys, BuildingRef], now: datetime
) -> list[Recorded]:
    if not submissions:
        return []
    customers = find_or_create([s.renter for s in submissions], [s.received_at for s in submissions])
    checks = [
        spam_check_of(s.spam_signals, s.message, buildings.get(s.building_keys), customer.id, s.source)
        for s, customer in zip(submissions, customers, strict=True)
    ]
    suspected = check_for_spam(checks, now)
    rows = [
        _lead_row(submission, buildings.get(submission.building_keys), customer, reason)
        for submission, customer, reason in zip(submissions, customers, suspected, strict=True)
    ]
    inserted = _INSERT.run([_values(row) for row in rows])
    ids: dict[str, int] = dict(inserted)  # by request: SQLite promises no order of returned rows
    lead_ids = [ids[submission.request_id] for submission in submissions]
    open_deals(lead_ids, now)
    recorded: list[Recorded] = []
    deliveries: list[NewDelivery] = []
    for lead_id, submission, customer, reason in zip(
        lead_ids, submissions, customers, suspected, strict=True
    ):
        building = buildings.get(submission.building_keys)
        skip_reason, quarantine_reason = (
            unnotified_reason_of(customer, building),
            why_quarantined(reason, building),
        )
        recorded.append(Recorded(lead_id, skip_reason or quarantine_reason))
        deliveries += _deliveries(lead_id, submission, skip_reason, quarantine_reason)
    enqueue(deliveries, now)
    remember_texts(zip(lead_ids, checks, strict=True), now)
    return recorded


_COLUMNS = [field for field in Lead._meta.sorted_fields if field is not Lead.id]
_values = itemgetter(*(field.name for field in _COLUMNS))
_INSERT = CachedInsert(Lead, *_COLUMNS, returning=(Lead.request_id, Lead.id))


def _lead_row(
    submission: Submission, building: BuildingRef | None, customer: CustomerRef, suspected: str | None
) -> dict[str, Any]:
    consent = submission.sms_consent
    return {
        "request_id": submission.request_id,
        "created_at": submission.received_at,
        "building": building and building.id,
        "customer": customer.id,
        "sent_token": submission.building_keys.token,
        "sent_unified_address_id": submission.building_keys.unified_address_id,
        "sent_address_line_one": submission.building_keys.address_line_one,
        "requestor_name": submission.renter.name,
        "requestor_email": submission.renter.email,
        "sent_email": submission.sent_email,
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
        "website": submission.website,
        "unregistered_origin": submission.unregistered_origin,
        "lead_source": "website",
        "sms_consent": consent is not None,
        "sms_consent_at": consent and consent.at,
        "sms_consent_ip": consent and consent.ip,
        "sms_consent_user_agent": consent and consent.user_agent,
        "sms_consent_host": consent and consent.host,
        "sms_consent_origin": consent and consent.origin,
        "sms_consent_version": consent and consent.version,
        "suspected": suspected,
    }


def property_type(submission: Submission) -> str:
    """Return what the renter asks about (C15)."""
    return "listing" if submission.unit_preference else "building"


def in_utc(slot: datetime | None, building: Building | BuildingRef | None) -> datetime | None:
    """Return the instant of a slot. Without an offset it is in the building's time zone, else in UTC."""
    if slot is not None and slot.tzinfo is None:
        slot = slot.replace(tzinfo=ZoneInfo(building.time_zone) if building else UTC)
    return slot and slot.astimezone(UTC)


def _deliveries(
    lead_id: int, submission: Submission, skip_reason: str | None, quarantine_reason: str | None
) -> list[NewDelivery]:
    deliveries = [NewDelivery(lead_id, EMAIL, skip_reason, quarantine_reason)]
    if submission.listing_source == JUNE_HOMES_SOURCE:
        deliveries.append(NewDelivery(lead_id, JUNE_HOMES, quarantine_reason=quarantine_reason))
    return deliveries


def unnotified_reason_of(
    customer: Customer | CustomerRef, building: Building | BuildingRef | None
) -> str | None:
    """Return why no agent is mailed about a lead of this customer, for the operator; None if one is (C22)."""
    if building is None:
        return "no building matched"
    if not building.agent_email:
        return "the building has no agent e-mail"
    if customer.spam:
        return FLAGGED_AS_SPAM
    return None
