"""Validation of a lead's body: the Cerberus schema, and the conversion of each field."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from cerberus import Validator, errors

from handlers.api.utm_data import CONTROL, parse_utm_data
from handlers.errors import BadRequest
from models.building_match import BuildingKeys
from models.customer import Renter
from models.email_address import clean_address, comparison_key, restore_plus
from models.idempotency import KeyedRequest
from models.intake import SmsConsent, Submission
from models.lead import LISTING_SOURCES
from models.phone import phone_key
from models.slot import Slot, parse_slot
from models.spam import SpamSignals

MAX_KEY_LENGTH = 255  # characters of an Idempotency-Key

MISSING = "param is missing or the value is empty: tour_request"
UNUSABLE_EMAIL = "Unable to create tour request"

CONTROL_IN_MESSAGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # line breaks and tabs may stay
SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?", re.ASCII)


def _text(description: str, maximum: int = 1_000, values: Sequence[str] = (), **rules: Any) -> dict[str, Any]:
    # Cerberus ignores `meta`. The OpenAPI document and the reference are made of it. values: those to send,
    # although any other is no error.
    meta = {"description": description, **({"enum": values} if values else {})}
    return {"type": "string", "maxlength": maximum, "meta": meta, **rules}


TOUR_REQUEST = {
    "requestor_name": _text("The renter's name."),
    "requestor_email": _text("The renter's e-mail address, which the agent's reply goes to.", required=True),
    "requestor_phone": _text("The renter's phone number."),
    "message": _text("The renter's message. A line break counts as one character.", 10_000),
    "slot": _text(
        "Time of the tour in ISO 8601, or its day alone. Without an offset it is in the building's time zone."
    ),
    "unit_preference": _text("The unit, or the kind of unit, that the renter wants."),
    "utm_data": _text("The page's query string, or its whole URL. The query is stored as an object.", 10_000),
    "listing_source": _text("The listing site that the renter came from.", allowed=LISTING_SOURCES),
    "listing_source_original_id": _text("The listing's id on that site."),
    "request_host": _text("The website's host. By default the Host header."),
    "sms_consent": _text('Consent to text messages: only the string "true".', values=("true", "false")),
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
    "idempotency_key": _text(
        "A key of this filled-in form, for a form that can't send the header Idempotency-Key. Another body "
        "with the same key is another lead.",
        MAX_KEY_LENGTH,
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
    source: str | None = None  # the network that the lead came from; None if many clients share it
    origin: str | None = None
    page_host: str | None = None  # of the page with the form
    unregistered_origin: str | None = None
    is_unattended: bool = False
    is_program_form: bool = False  # a program's urlencoded form, which may have lost the plus signs


class SchemaError(NamedTuple):
    """The error that the client is told of. maximum: the number of characters, of a text that is too long."""

    message: str
    field: str
    maximum: int | None = None


class FirstError(errors.BaseErrorHandler):  # type: ignore[misc]  # Cerberus has no types
    """Cerberus error handler: the one that the client gets, of the first kind in a fixed order."""

    def __call__(self, found: Sequence[errors.ValidationError]) -> SchemaError | None:
        flat = [child for error in found for child in (error.child_errors or (error,))]
        order = (errors.BAD_TYPE, errors.MAX_LENGTH, errors.UNALLOWED_VALUE, errors.REQUIRED_FIELD)
        for kind in order:
            for error in flat:
                if error.code == kind.code:
                    return _schema_error(error)
        return None


def _schema_error(error: errors.ValidationError) -> SchemaError:
    field = error.document_path[-1]
    if error.code == errors.BAD_TYPE.code:
        wanted = "an object" if error.constraint == "dict" else "a string"
        return SchemaError(f"{field} must be {wanted}", field)
    if error.code == errors.MAX_LENGTH.code:
        message = f"{field} is too long (maximum is {error.constraint} characters)"
        return SchemaError(message, field, error.constraint)
    if error.code == errors.UNALLOWED_VALUE.code:
        return SchemaError(f"'{error.value}' is not a valid {field}", field)
    return SchemaError(MISSING if field == "tour_request" else UNUSABLE_EMAIL, field)


class LeadValidator:
    """Cerberus validator with a fast path for documents without an error, which nearly all are.

    The fast path takes a thirtieth of Cerberus's time. It implements only the rules that the schema uses: a
    schema with any other rule is rejected at construction, with ValueError. Not thread-safe, as Cerberus.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._cerberus = Validator(schema, error_handler=FirstError)
        self._fast_path = _FastPath(schema)

    def error(self, document: dict[str, Any]) -> SchemaError | None:
        """Return the error for the client; None if the document is valid."""
        return None if self.is_surely_valid(document) else self.cerberus_error(document)

    def is_surely_valid(self, document: dict[str, Any]) -> bool:
        """Return the fast path's judgement: True exactly if Cerberus finds no error."""
        return self._fast_path.accepts(document)

    def cerberus_error(self, document: dict[str, Any]) -> SchemaError | None:
        """Return the error by Cerberus alone; None if the document is valid."""
        if self._cerberus.validate(document, normalize=False):
            return None
        error: SchemaError = self._cerberus.errors
        return error


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
    if (error := _validator.error(sent)) is not None:
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
        if consents and not metadata.is_unattended
        else None,
        spam_signals=_read_signals(inner if isinstance(inner, dict) else {}),
        keyed_request=metadata.keyed_request,
        website=metadata.page_host or tour.get("request_host"),
        unregistered_origin=metadata.unregistered_origin,
        is_unattended=metadata.is_unattended,
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

    keep_lines: keep tabs and line breaks, each as one line feed.
    """
    if not text.isprintable():  # a quick test, as the regular expression is slow
        if keep_lines:
            text = CONTROL_IN_MESSAGE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        else:
            text = CONTROL.sub("", text)
    return text if text and not text.isspace() else None


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
