"""Owns what a lead's body may hold: the Cerberus schema, and what is made of each field."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from cerberus import Validator, errors

from handlers.errors import BadRequest
from models.building_match import BuildingKeys
from models.customer import Renter, phone_key
from models.email_address import comparison_key
from models.idempotency import KeyedRequest
from models.intake import SmsConsent, Submission
from models.lead import LISTING_SOURCES
from models.spam import SpamSignals

MISSING = "param is missing or the value is empty: tour_request"
UNUSABLE_EMAIL = "Unable to create tour request"

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROL_IN_MESSAGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # line breaks and tabs may stay
SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?", re.ASCII)
# datetime.fromisoformat takes any one character between date and time, and a space before the offset.
ISO_8601 = re.compile(r"[\dW-]+(?:[T ][\d:.,]+(?:Z|[+-][\d:]+)?)?", re.ASCII)


def _text(description: str, maximum: int = 1_000, **rules: Any) -> dict[str, Any]:
    # Cerberus leaves `meta` alone; the API's description is made of it.
    return {"type": "string", "maxlength": maximum, "meta": {"description": description}, **rules}


TOUR_REQUEST = {
    "requestor_name": _text("The renter's name."),
    "requestor_email": _text("The renter's e-mail address; the agent's reply goes there.", required=True),
    "requestor_phone": _text("The renter's phone number, as typed."),
    "message": _text("What the renter wants to say.", 10_000),
    "slot": _text("When to tour, ISO 8601; without an offset it is the building's own time."),
    "unit_preference": _text("The unit, or what kind of one."),
    "utm_data": _text("The page's query string; stored as an object."),
    "listing_source": _text("Where the renter saw it.", allowed=LISTING_SOURCES),
    "listing_source_original_id": _text("Its number there."),
    "request_host": _text("The website's host; the Host header if it is not sent."),
    "sms_consent": _text('"true", and nothing else, is consent to be texted.'),
    "sms_consent_version": _text("Which text was consented to, as the form calls it."),
}
# What a form says of how it was filled in. No rule but its reader's: nothing is refused for it.
SIGNS = ("homepage", "form_seconds")
SCHEMA = {
    "token": _text("The building's token."),
    "unified_address_id": _text("The building, where there is no token."),
    "address_line_one": _text("The building's street address, where there is neither."),
    "return_to": _text("Where a form without JavaScript leads on: a page of the website that it is on."),
    "tour_request": {"type": "dict", "required": True, "schema": TOUR_REQUEST},
}


@dataclass(frozen=True, slots=True)
class RequestMetadata:
    """What is known of a lead besides its body."""

    request_id: str
    received_at: datetime
    source_ip: str
    user_agent: str | None
    host: str | None
    keyed_request: KeyedRequest | None = None


class FirstError(errors.BaseErrorHandler):  # type: ignore[misc]  # Cerberus has no types
    """Turns Cerberus's errors into the one sentence that the client is told."""

    def __call__(self, problems: Sequence[errors.ValidationError]) -> str | None:
        flat = [child for p in problems for child in (p.child_errors or (p,))]
        order = (errors.BAD_TYPE, errors.MAX_LENGTH, errors.UNALLOWED_VALUE, errors.REQUIRED_FIELD)
        for kind in order:
            for problem in flat:
                if problem.code == kind.code:
                    return _sentence(problem)
        return None


def _sentence(problem: errors.ValidationError) -> str:
    field = problem.document_path[-1]
    if problem.code == errors.BAD_TYPE.code:
        return f"{field} must be {'an object' if problem.constraint == 'dict' else 'a string'}"
    if problem.code == errors.MAX_LENGTH.code:
        return f"{field} is too long (maximum is {problem.constraint} characters)"
    if problem.code == errors.UNALLOWED_VALUE.code:
        return f"'{problem.value}' is not a valid {field}"
    return MISSING if field == "tour_request" else UNUSABLE_EMAIL


_validator = Validator(SCHEMA, error_handler=FirstError)  # one for the loop's thread: it isn't thread-safe


def _is_valid(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether Cerberus would find nothing wrong. For what is wrong Cerberus is asked: it has the words.

    It takes 3 µs where Cerberus takes 90, and knows no other rules than those used above; the tests hold it
    to Cerberus.
    """
    for name, value in document.items():
        rules = schema[name]
        if rules["type"] == "dict":
            if type(value) is not dict or not _is_valid(value, rules["schema"]):
                return False
        elif type(value) is not str or len(value) > rules["maxlength"]:
            return False
        elif "allowed" in rules and value not in rules["allowed"]:
            return False
    return all(name in document for name, rules in schema.items() if "required" in rules)


def read_submission(document: dict[str, Any], receipt: RequestMetadata) -> Submission:
    """A decoded body as a lead to store. Raises BadRequest with the contract's sentence (C6-C16)."""
    sent = _clean(document, SCHEMA)
    inner = document.get("tour_request")
    if isinstance(inner, dict) and inner:
        sent["tour_request"] = _clean(inner, TOUR_REQUEST)
    elif isinstance(inner, dict) or (isinstance(inner, str) and not inner.strip()):
        sent.pop("tour_request", None)
    elif inner is not None:
        sent["tour_request"] = inner
    if not _is_valid(sent, SCHEMA) and not _validator.validate(sent, normalize=False):
        sentence = _validator.errors
        raise BadRequest(sentence, quotes_client=sentence.startswith("'"))
    tour = sent["tour_request"]
    slot, utm = tour.get("slot"), tour.get("utm_data")
    request_host = tour.get("request_host") or receipt.host
    # As it was sent: not a boolean, not cleaned (C14).
    consents = isinstance(inner, dict) and inner.get("sms_consent") == "true"
    return Submission(
        request_id=receipt.request_id,
        received_at=receipt.received_at,
        building_keys=BuildingKeys(
            token=_stripped(sent.get("token")),
            unified_address_id=_stripped(sent.get("unified_address_id")),
            address_line_one=_stripped(sent.get("address_line_one")),
        ),
        slot=_read_slot(slot) if slot else None,
        sent_slot=slot,
        renter=_read_renter(tour),
        message=tour.get("message"),
        unit_preference=tour.get("unit_preference"),
        utm_data=_read_utm(utm) if utm else None,
        sent_utm_data=utm,
        listing_source=tour.get("listing_source"),
        listing_source_original_id=tour.get("listing_source_original_id"),
        request_host=request_host,
        sms_consent=SmsConsent(
            receipt.received_at,
            receipt.source_ip,
            receipt.user_agent,
            request_host,
            tour.get("sms_consent_version"),
        )
        if consents
        else None,
        spam_signals=_read_signs(inner if isinstance(inner, dict) else {}),
        keyed_request=receipt.keyed_request,
    )


def _clean(values: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    # What the schema doesn't know is ignored, what is blank counts as not sent, a number is its text (C8).
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


def clean_text(text: str, keep_lines: bool = False) -> str | None:
    """The text without control characters (C16); None if nothing but white space is left."""
    if not text.isprintable():  # then there may be controls in it
        text = (CONTROL_IN_MESSAGE if keep_lines else CONTROL).sub("", text)
    return text if text and not text.isspace() else None


def _stripped(text: str | None) -> str | None:
    return text and text.strip()


def _read_renter(tour: dict[str, Any]) -> Renter:
    email, phone = tour["requestor_email"], tour.get("requestor_phone")
    try:
        key = comparison_key(email)
    except ValueError:
        raise BadRequest(UNUSABLE_EMAIL) from None
    return Renter(
        name=tour.get("requestor_name"),
        email=email,
        email_key=key,
        phone=phone,
        phone_key=phone and phone_key(phone),
    )


def _read_slot(text: str) -> datetime:
    text = text.strip().upper()
    try:
        if not ISO_8601.fullmatch(text):
            raise ValueError
        slot = datetime.fromisoformat(text)
        # In any zone it must still be a year that there is.
        slot.replace(tzinfo=None) - timedelta(days=2), slot.replace(tzinfo=None) + timedelta(days=2)
    except (ValueError, OverflowError):
        raise BadRequest("invalid date: slot") from None
    return slot


def _read_signs(sent: dict[str, Any]) -> SpamSignals | None:
    trap, seconds = (sent.get(name) for name in SIGNS)
    trapped = isinstance(trap, str) and clean_text(trap) is not None
    text = str(seconds).strip() if isinstance(seconds, str | int) else ""
    known = float(text) if SECONDS.fullmatch(text) else None
    return SpamSignals(trapped, known) if trapped or known is not None else None


def _read_utm(text: str) -> dict[str, str] | None:
    pairs = parse_qsl(text.strip().removeprefix("?"), keep_blank_values=True)
    return {CONTROL.sub("", name): CONTROL.sub("", value) for name, value in pairs} or None
