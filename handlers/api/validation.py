"""Validation of a lead's body: the Cerberus schema, and the conversion of each field."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from cerberus import Validator, errors

from handlers.errors import BadRequest
from models.building_match import BuildingKeys
from models.customer import Renter
from models.email_address import comparison_key
from models.idempotency import KeyedRequest
from models.intake import SmsConsent, Submission
from models.lead import LISTING_SOURCES
from models.phone import phone_key
from models.spam import SpamSignals

MISSING = "param is missing or the value is empty: tour_request"
UNUSABLE_EMAIL = "Unable to create tour request"

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROL_IN_MESSAGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # line breaks and tabs may stay
SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?", re.ASCII)
# datetime.fromisoformat alone takes any one character between date and time, and a space before the offset.
ISO_8601 = re.compile(r"[\dW-]+(?:[T ][\d:.,]+(?:Z|[+-][\d:]+)?)?", re.ASCII)


def _text(description: str, maximum: int = 1_000, **rules: Any) -> dict[str, Any]:
    # Cerberus ignores `meta`. The OpenAPI document and the reference are made of it.
    return {"type": "string", "maxlength": maximum, "meta": {"description": description}, **rules}


TOUR_REQUEST = {
    "requestor_name": _text("The renter's name."),
    "requestor_email": _text("The renter's e-mail address, which the agent's reply goes to.", required=True),
    "requestor_phone": _text("The renter's phone number."),
    "message": _text("The renter's message.", 10_000),
    "slot": _text("Time of the tour, in ISO 8601. Without an offset it is in the building's time zone."),
    "unit_preference": _text("The unit, or the kind of unit, that the renter wants."),
    "utm_data": _text("The page's query string, which is stored as an object."),
    "listing_source": _text("The listing site that the renter came from.", allowed=LISTING_SOURCES),
    "listing_source_original_id": _text("The listing's id on that site."),
    "request_host": _text("The website's host. By default the Host header."),
    "sms_consent": _text('Consent to text messages: only the string "true".'),
    "sms_consent_version": _text("The version of the consent text that the form showed."),
}
# Fields about how a form was filled in. They are not in the schema: no value of them is an error.
SIGNAL_FIELDS = ("homepage", "form_seconds")
SCHEMA = {
    "token": _text("The building's token."),
    "unified_address_id": _text("The building's unified address id. It is used only without a token."),
    "address_line_one": _text("The building's street address. It is used only without the other two."),
    "return_to": _text(
        "The page that a form without JavaScript redirects to. It must be on the form's website."
    ),
    "tour_request": {"type": "dict", "required": True, "schema": TOUR_REQUEST},
}


@dataclass(frozen=True, slots=True)
class RequestMetadata:
    """What is kept of a lead's request besides its body."""

    request_id: str
    received_at: datetime
    source_ip: str
    user_agent: str | None
    host: str | None
    keyed_request: KeyedRequest | None = None
    source: str | None = None


class FirstError(errors.BaseErrorHandler):  # type: ignore[misc]  # Cerberus has no types
    """Cerberus error handler: the one message that the client gets, of the first kind in a fixed order."""

    def __call__(self, found: Sequence[errors.ValidationError]) -> str | None:
        flat = [child for error in found for child in (error.child_errors or (error,))]
        order = (errors.BAD_TYPE, errors.MAX_LENGTH, errors.UNALLOWED_VALUE, errors.REQUIRED_FIELD)
        for kind in order:
            for error in flat:
                if error.code == kind.code:
                    return _message(error)
        return None


def _message(error: errors.ValidationError) -> str:
    field = error.document_path[-1]
    if error.code == errors.BAD_TYPE.code:
        return f"{field} must be {'an object' if error.constraint == 'dict' else 'a string'}"
    if error.code == errors.MAX_LENGTH.code:
        return f"{field} is too long (maximum is {error.constraint} characters)"
    if error.code == errors.UNALLOWED_VALUE.code:
        return f"'{error.value}' is not a valid {field}"
    return MISSING if field == "tour_request" else UNUSABLE_EMAIL


class LeadValidator:
    """Cerberus validator with a fast path for documents without an error, which nearly all are.

    The fast path takes a thirtieth of Cerberus's time. It implements only the rules that the schema uses: a
    schema with any other rule is rejected at construction, with ValueError. Not thread-safe, as Cerberus.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._cerberus = Validator(schema, error_handler=FirstError)
        self._fast_path = _FastPath(schema)

    def error(self, document: dict[str, Any]) -> str | None:
        """Return the message for the client; None if the document is valid."""
        return None if self.is_surely_valid(document) else self.cerberus_error(document)

    def is_surely_valid(self, document: dict[str, Any]) -> bool:
        """Return the fast path's judgement: True exactly if Cerberus finds no error."""
        return self._fast_path.accepts(document)

    def cerberus_error(self, document: dict[str, Any]) -> str | None:
        """Return the message by Cerberus alone; None if the document is valid."""
        if self._cerberus.validate(document, normalize=False):
            return None
        message: str = self._cerberus.errors
        return message


class _FastPath:
    """The schema's rules, taken apart for one quick loop over a document."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._max_lengths: dict[str, int] = {}
        self._allowed: dict[str, Sequence[str]] = {}
        self._objects: dict[str, _FastPath] = {}
        self._required: list[str] = []
        for name, rules in schema.items():
            self._add(name, dict(rules))

    def _add(self, name: str, rules: dict[str, Any]) -> None:
        rules.pop("meta", None)
        kind = rules.pop("type", None)
        if kind == "string" and "maxlength" in rules:
            self._max_lengths[name] = rules.pop("maxlength")
            if "allowed" in rules:
                self._allowed[name] = rules.pop("allowed")
        elif kind == "dict" and "schema" in rules:
            self._objects[name] = _FastPath(rules.pop("schema"))
        else:
            raise ValueError(
                f"{name}: the fast path knows only a string with maxlength, and a dict with schema"
            )
        if rules.pop("required", False):
            self._required.append(name)
        if rules:
            raise ValueError(f"{name}: the fast path does not know the rule {', '.join(map(repr, rules))}")

    def accepts(self, document: dict[str, Any]) -> bool:
        """Return True if no rule is broken; a name that the schema lacks breaks one."""
        max_lengths, allowed = self._max_lengths, self._allowed
        for name, value in document.items():
            if type(value) is str:
                if len(value) > max_lengths.get(name, -1):
                    return False
                if name in allowed and value not in allowed[name]:
                    return False
            elif type(value) is not dict or name not in self._objects:
                return False
            elif not self._objects[name].accepts(value):
                return False
        for name in self._required:
            if name not in document:
                return False
        return True


_validator = LeadValidator(SCHEMA)  # one: only the loop's thread validates


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
    if (message := _validator.error(sent)) is not None:
        raise BadRequest(message, quotes_client=message.startswith("'"))
    tour = sent["tour_request"]
    slot, utm = tour.get("slot"), tour.get("utm_data")
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
            metadata.received_at,
            metadata.source_ip,
            metadata.user_agent,
            request_host,
            tour.get("sms_consent_version"),
        )
        if consents
        else None,
        spam_signals=_read_signals(inner if isinstance(inner, dict) else {}),
        keyed_request=metadata.keyed_request,
        website=tour.get("request_host"),
        source=metadata.source,
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


def clean_text(text: str, keep_lines: bool = False) -> str | None:
    """Return the text without control characters (C16); None if only white space is left.

    keep_lines: keep line breaks and tabs.
    """
    if not text.isprintable():  # a quick test, as the regular expression is slow
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
        # In any time zone the year must still be one that datetime has.
        slot.replace(tzinfo=None) - timedelta(days=2), slot.replace(tzinfo=None) + timedelta(days=2)
    except (ValueError, OverflowError):
        raise BadRequest("invalid date: slot") from None
    return slot


def _read_signals(sent: dict[str, Any]) -> SpamSignals | None:
    honeypot, seconds = (sent.get(name) for name in SIGNAL_FIELDS)
    is_filled = isinstance(honeypot, str) and clean_text(honeypot) is not None
    text = str(seconds).strip() if isinstance(seconds, str | int) else ""
    known = float(text) if SECONDS.fullmatch(text) else None
    return SpamSignals(is_filled, known) if is_filled or known is not None else None


def _read_utm(text: str) -> dict[str, str] | None:
    pairs = parse_qsl(text.strip().removeprefix("?"), keep_blank_values=True)
    return {CONTROL.sub("", name): CONTROL.sub("", value) for name, value in pairs} or None
