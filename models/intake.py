"""Intake: the one transaction behind a 201 stores customer, lead, deal and deliveries, all or none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

from models.building import Building
from models.building_match import BuildingKeys, BuildingRef, match_buildings
from models.customer import Customer, CustomerRef, Renter, find_or_create
from models.deal import open_deals
from models.idempotency import (
    KeyedRequest,
    KeyRecord,
    ScopedKey,
    earlier_lead,
    find_key_records,
    is_reused,
    save_key_records,
)
from models.lead import JUNE_HOMES_SOURCE, Lead
from models.outbox.delivery import NewDelivery, enqueue
from models.outbox.destination import EMAIL, JUNE_HOMES
from models.secret import SecretKeys, process_keys
from models.slot import Slot
from models.spam import (
    UNATTENDED,
    SpamSignals,
    check_for_spam,
    remember_texts,
    spam_check_of,
    why_quarantined,
)
from models.storage import ACTIONS, in_batch
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
    slot: Slot | None = None
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
    # What the digest of the message is made with, for a building with a defence: a call looks at a file.
    secret: Callable[[], SecretKeys] = process_keys


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored lead. building_id: None if no building matched; not_told: why no agent is mailed; replayed: an
    earlier request stored it.
    """

    lead_id: int
    building_id: int | None
    not_told: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class KeyReused:
    """A lead that was not stored: its source has sent its Idempotency-Key with another body before."""


@in_batch(ACTIONS - 1)
def record_leads(submissions: Sequence[Submission]) -> list[Recorded | KeyReused]:
    """Store leads with their customers, deals and deliveries. An operation of the writer.

    Only the first of several leads with one Idempotency-Key and body is stored, now or by an earlier request.
    All of them get its id. The writer orders leads that arrive at the same time.
    """
    now = max(s.received_at for s in submissions)
    buildings = match_buildings((s.building_keys for s in submissions), now)
    keys = [_key(submission, buildings) for submission in submissions]
    if not any(keys):
        return list(_store(submissions, buildings, now))
    records = find_key_records((key for key in keys if key), now)
    outcomes: dict[int, Recorded | KeyReused] = {}
    new: list[int] = []
    for at, key in enumerate(keys):
        lead_id = earlier_lead(key, records) if key else None
        if lead_id is not None:
            outcomes[at] = Recorded(lead_id, _building_id(submissions[at], buildings), replayed=True)
        elif key and is_reused(key, records):
            outcomes[at] = KeyReused()
        else:
            new.append(at)
            if key:  # for those behind it in this batch: until the lead has its id, its place stands for it
                first = key.digests[0]
                records.setdefault(first.key, []).append(KeyRecord(_place(at), first.body, first.source))
    stored = dict(zip(new, _store([submissions[at] for at in new], buildings, now), strict=True))
    save_key_records({stored[at].lead_id: key for at in new if (key := keys[at])}, now)
    by_place = {_place(at): lead.lead_id for at, lead in stored.items()}
    for at, outcome in outcomes.items():
        if isinstance(outcome, Recorded) and outcome.lead_id in by_place:
            outcomes[at] = replace(outcome, lead_id=by_place[outcome.lead_id])
    return [stored[at] if at in stored else outcomes[at] for at in range(len(submissions))]


def _place(at: int) -> int:
    return -1 - at  # no lead has a negative id


def _key(submission: Submission, buildings: Mapping[BuildingKeys, BuildingRef]) -> ScopedKey | None:
    if submission.keyed_request is None:
        return None
    return submission.keyed_request.scoped_to(_building_id(submission, buildings))


def _building_id(submission: Submission, buildings: Mapping[BuildingKeys, BuildingRef]) -> int | None:
    building = buildings.get(submission.building_keys)
    return None if building is None else building.id


def _store(
    submissions: Sequence[Submission], buildings: Mapping[BuildingKeys, BuildingRef], now: datetime
) -> list[Recorded]:
    if not submissions:
        return []
    customers = find_or_create([s.renter for s in submissions], [s.received_at for s in submissions])
    checks = [
        spam_check_of(
            s.spam_signals, s.message, buildings.get(s.building_keys), customer.id, s.source, s.secret
        )
        for s, customer in zip(submissions, customers, strict=True)
    ]
    suspected = [
        UNATTENDED if submission.is_unattended else reason
        for submission, reason in zip(submissions, check_for_spam(checks, now), strict=True)
    ]
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
        recorded.append(
            Recorded(lead_id, _building_id(submission, buildings), skip_reason or quarantine_reason)
        )
        deliveries += _deliveries(lead_id, submission, skip_reason, quarantine_reason)
    enqueue(deliveries, now)
    remember_texts(zip(lead_ids, checks, strict=True), now)
    return recorded


_COLUMNS = [field for field in Lead._meta.sorted_fields if field.name not in ("id", "corrected_slot")]
_values = itemgetter(*(field.name for field in _COLUMNS))
_INSERT = CachedInsert(Lead, *_COLUMNS, returning=(Lead.request_id, Lead.id))


def _lead_row(
    submission: Submission, building: BuildingRef | None, customer: CustomerRef, suspected: str | None
) -> dict[str, Any]:
    # Consent that no person was seen to give is none.
    consent = None if submission.is_unattended else submission.sms_consent
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
        "source": submission.source,
        "tour_sequence": 0,
        "suspected": suspected,
    }


def property_type(submission: Submission) -> str:
    """Return what the renter asks about (C15)."""
    return "listing" if submission.unit_preference else "building"


def in_utc(slot: Slot | None, building: Building | BuildingRef | None) -> datetime | None:
    """Return the instant of a slot. Without an offset it is in the building's time zone, else in UTC."""
    return None if slot is None else slot.in_utc(ZoneInfo(building.time_zone) if building else UTC)


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
