"""A lead as it was submitted: made of a decoded body, with each field cleaned and converted."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from handlers.api.text import clean_text
from handlers.api.utm_data import parse_utm_data
from handlers.api.validation import SCHEMA, SIGNAL_FIELDS, TOUR_REQUEST, UNUSABLE_EMAIL, VALIDATOR
from handlers.errors import BadRequest
from models.building_match import BuildingKeys
from models.customer import Renter
from models.email_address import clean_address, comparison_key, restore_plus
from models.idempotency import KeyedRequest
from models.intake import SmsConsent, Submission
from models.phone import phone_key
from models.secret import SecretKeys, process_keys
from models.slot import Slot, parse_slot
from models.spam import SpamSignals

SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RequestMetadata:
    """What is kept of a lead's request besides its body."""

    request_id: str
    received_at: datetime
    source_ip: str
    user_agent: str | None
    host: str | None
    keyed_request: KeyedRequest | None = None
    source: str | None = None  # the network that the lead came from; None if many clients share it
    origin: str | None = None
    page_host: str | None = None  # of the page with the form
    unregistered_origin: str | None = None
    is_unattended: bool = False
    is_program_form: bool = False  # a program's urlencoded form, which may have lost the plus signs
    secret: Callable[[], SecretKeys] = process_keys


def read_submission(document: dict[str, Any], metadata: RequestMetadata) -> Submission:
    """Validate a decoded body, and return the lead to store. Raises BadRequest (C6-C16)."""
    sent = _clean(document, SCHEMA)
    inner = document.get("tour_request")
    if isinstance(inner, dict) and inner:
        sent["tour_request"] = _clean(inner, TOUR_REQUEST)
    elif isinstance(inner, dict) or (isinstance(inner, str) and not inner.strip()):
        sent.pop("tour_request", None)
    elif inner is not None:
        sent["tour_request"] = inner
    if (error := VALIDATOR.error(sent)) is not None:
        quotes_client = error.message.startswith("'")
        raise BadRequest(error.message, quotes_client, field=error.field, maximum=error.maximum)
    tour = sent["tour_request"]
    utm = tour.get("utm_data")
    slot = _read_slot(tour.get("slot"))
    renter = _read_renter(tour, metadata)
    request_host = tour.get("request_host") or metadata.host
    # The value as sent, not the cleaned one: neither true nor " true" is consent (C14).
    consents = isinstance(inner, dict) and inner.get("sms_consent") == "true"
    return Submission(
        request_id=metadata.request_id,
        received_at=metadata.received_at,
        building_keys=BuildingKeys(
            token=_stripped(sent.get("token")),
            unified_address_id=_stripped(sent.get("unified_address_id")),
            address_line_one=_stripped(sent.get("address_line_one")),
        ),
        slot=slot,
        sent_slot=tour.get("slot") if slot else None,
        renter=renter,
        sent_email=tour["requestor_email"] if renter.email != tour["requestor_email"] else None,
        message=tour.get("message"),
        unit_preference=tour.get("unit_preference"),
        utm_data=parse_utm_data(utm) if utm else None,
        sent_utm_data=utm,
        listing_source=tour.get("listing_source"),
        listing_source_original_id=tour.get("listing_source_original_id"),
        request_host=request_host,
        sms_consent=SmsConsent(
            metadata.received_at,
            metadata.source_ip,
            metadata.user_agent,
            request_host,
            tour.get("sms_consent_version"),
            metadata.origin,
        )
        if consents
        else None,
        spam_signals=_read_signals(inner if isinstance(inner, dict) else {}),
        keyed_request=metadata.keyed_request,
        website=metadata.page_host or tour.get("request_host"),
        unregistered_origin=metadata.unregistered_origin,
        is_unattended=metadata.is_unattended,
        source=metadata.source,
        secret=metadata.secret,
    )


def _clean(values: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    # An unknown field is ignored, a blank one counts as not sent, and a number is taken as its text (C8).
    cleaned: dict[str, Any] = {}
    for name in schema.keys() & values.keys():
        value = values[name]
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, int):
            value = str(value)
        if isinstance(value, str):
            value = clean_text(value, keep_lines=name == "message")
        if value is not None:
            cleaned[name] = value
    return cleaned


def _stripped(text: str | None) -> str | None:
    return text and text.strip()


def _read_renter(tour: dict[str, Any], metadata: RequestMetadata) -> Renter:
    email, phone = clean_address(tour["requestor_email"]), tour.get("requestor_phone")
    if metadata.is_program_form:
        email = restore_plus(email)
    try:
        key = comparison_key(email)
    except ValueError:
        raise BadRequest(UNUSABLE_EMAIL, field="requestor_email") from None
    return Renter(
        name=tour.get("requestor_name"),
        email=email,
        email_key=key,
        phone=phone,
        phone_key=phone and phone_key(phone),
    )


def _read_slot(text: str | None) -> Slot | None:
    try:
        return parse_slot(text) if text else None
    except ValueError:
        raise BadRequest("invalid date: slot", field="slot") from None


def _read_signals(sent: dict[str, Any]) -> SpamSignals | None:
    honeypot, seconds = (sent.get(name) for name in SIGNAL_FIELDS)
    is_filled = isinstance(honeypot, str) and clean_text(honeypot) is not None
    text = str(seconds).strip() if isinstance(seconds, str | int) else ""
    known = float(text) if SECONDS.fullmatch(text) else None
    return SpamSignals(is_filled, known) if is_filled or known is not None else None
