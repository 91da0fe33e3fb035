"""Owns the diagnosis of an attempt: what an integrator would want to be told of it, in words."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from handlers.api.body import FORM_TYPES, decode_body
from handlers.api.page import redirect_url
from handlers.api.validation import MISSING, SCHEMA, SIGNS, TOUR_REQUEST, UNUSABLE_EMAIL
from handlers.errors import BadRequest
from handlers.sandbox.request_log import Attempt
from models.lead import LISTING_SOURCES
from models.origin import is_origin

TWICE_WITHIN = timedelta(seconds=10)
# What a server says of a lead; a client that sends it is not asked.
SERVER_MANAGED = (
    "id",
    "created_at",
    "lead_source",
    "property_type",
    "building_id",
    "customer_id",
    "deal",
    "sms_consent_at",
)
_OFFSET = re.compile(r"[T ].*(?:Z|[+-][\d:]+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known besides the attempt. building: that the lead was matched with, as a dict; not_told: why
    no agent was told; earlier: the number of an attempt with the same body a moment before, and its lead.
    """

    building: Mapping[str, Any] | None = None
    not_told: str | None = None
    earlier: tuple[int, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What an attempt's body says, taken apart."""

    attempt: Attempt
    facts: Facts
    media_type: str
    document: Mapping[str, Any]
    tour: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A top-level field's text; '' if it was not sent, or is not one."""
        value = self.document.get(name)
        return value.strip() if isinstance(value, str) else str(value) if isinstance(value, int) else ""


CheckResult = Iterator[str]
RULES: dict[str, Callable[[Sent], CheckResult]] = {}


def rule(look: Callable[[Sent], CheckResult]) -> Callable[[Sent], CheckResult]:
    """Register a rule; its code is the function's name."""
    RULES[look.__name__.replace("_", "-")] = look
    return look


def diagnose(attempt: Attempt, facts: Facts) -> list[dict[str, str]]:
    """What there is to say of an attempt: a code and a sentence each, the most telling first."""
    media_type = (attempt.header("Content-Type") or "").partition(";")[0].strip().lower()
    try:
        document = decode_body(attempt.header("Content-Type") or "", bytes(attempt.body))
    except BadRequest:
        document = {}
    tour = document.get("tour_request")
    sent = Sent(attempt, facts, media_type, document, tour if isinstance(tour, dict) else {})
    return [{"code": code, "says": says} for code, look in RULES.items() for says in look(sent)]


def body_key(attempt: Attempt) -> bytes:
    """What two attempts have in common that were meant to be one."""
    return bytes(attempt.body) if attempt.method == "POST" else b""


@rule
def origin_not_registered(sent: Sent) -> CheckResult:
    origin = sent.attempt.header("Origin")
    if sent.attempt.status == 403 and origin is not None:
        if is_origin(origin):
            yield (
                f"The page's origin is {origin}, and no building has it as its website. Register exactly "
                f'that: here by POST /sandbox/api/buildings {{"name": "…", "website_url": "{origin}"}}, '
                f"for real by building update ID --website {origin}"
            )
        else:
            yield (
                f"The page's origin is {origin!r}, which can't be registered: it was opened from a file, in "
                "a sandboxed frame, or by an app. Serve it from a web server, and register that one's origin."
            )


@rule
def refused(sent: Sent) -> CheckResult:
    said = _error_of(sent.attempt)
    if said == "invalid date: slot":
        yield "A slot is a date and time by ISO 8601, like 2026-12-01T10:00 or 2026-12-01T10:00-05:00."
    elif said == UNUSABLE_EMAIL:
        sent_as = sent.tour.get("requestor_email")
        why = f"it is {sent_as!r}, which is no e-mail address" if sent_as else "there is none in tour_request"
        yield f"A lead needs a requestor_email: {why}."
    elif said == MISSING and not sent.document:
        yield "The body is empty, or is no JSON object: the lead's fields go inside its tour_request."


@rule
def throttled(sent: Sent) -> CheckResult:
    if sent.attempt.status == 429 and sent.attempt.fault is None:
        wait = sent.attempt.answer_headers.get("Retry-After")
        yield f"Too many requests from this address. Wait for so long as Retry-After says: {wait} seconds."


@rule
def form_without_brackets(sent: Sent) -> CheckResult:
    if sent.media_type not in FORM_TYPES or sent.tour:
        return
    body = bytes(sent.attempt.body).lstrip()
    if body.startswith(b"{"):
        yield (
            f"The body is JSON, but was sent as {sent.media_type}, as curl -d does by itself. Send it with "
            "Content-Type: application/json."
        )
    elif names := sorted(sent.document.keys() & TOUR_REQUEST.keys()):
        yield f"In a form the lead's fields have brackets: name={_bracketed(names[0])}, not name={names[0]}."


@rule
def fields_at_top_level(sent: Sent) -> CheckResult:
    if sent.media_type in FORM_TYPES and not sent.tour:
        return  # the rule above has said so
    if names := sorted(sent.document.keys() & TOUR_REQUEST.keys()):
        yield f"At the top level this is ignored: {_listed(names)}. It belongs inside tour_request."


@rule
def server_managed_fields(sent: Sent) -> CheckResult:
    names = sorted({*sent.tour, *sent.document} & set(SERVER_MANAGED))
    if names:
        yield f"For the server alone to say, so what a client sends is ignored: {_listed(names)}."


@rule
def unknown_fields(sent: Sent) -> CheckResult:
    known = {*SERVER_MANAGED, *TOUR_REQUEST, *SIGNS}
    names = sorted(sent.document.keys() - SCHEMA.keys() - known)
    names += sorted(f"tour_request.{name}" for name in sent.tour.keys() - known)
    if names:
        yield f"There is no such field, so it is ignored: {_listed(map(_with_a_guess, names))}."


@rule
def no_token(sent: Sent) -> CheckResult:
    if not _taken(sent) or sent.text("token"):
        return
    if sent.facts.building is None:
        address = sent.text("unified_address_id") or sent.text("address_line_one")
        also = f"the address {address!r} is no building's" if address else "no address"
        yield f"No token was sent, and {also}, so the lead is nobody's: stored, unassigned."
        return
    by = "unified_address_id" if sent.text("unified_address_id") else "address_line_one"
    yield (
        f"No token was sent; the lead was matched with building {sent.facts.building['id']} by its {by}. "
        "Send the building's token: an address may be written in many ways."
    )


@rule
def unknown_token(sent: Sent) -> CheckResult:
    token = sent.text("token")
    if _taken(sent) and token and sent.facts.building is None:
        yield (
            f"The token {token!r} belongs to no building, or works no more. The lead is stored, unassigned, "
            "and nobody is told: to the renter it looks like success. 'token list' has those that work."
        )


@rule
def nobody_is_told(sent: Sent) -> CheckResult:
    reason = sent.facts.not_told
    if reason and sent.facts.building is not None:
        yield f"The lead is stored, and nobody gets a mail about it: {reason}."


@rule
def consent_not_given(sent: Sent) -> CheckResult:
    value = sent.tour.get("sms_consent")
    if value is None or value == "true" or value == "":
        return
    shown = json.dumps(value, ensure_ascii=False)
    if value is False or value == "false":
        return
    yield f'sms_consent is {shown}, so no consent is recorded. Only the string "true" is consent.'


@rule
def slot_without_offset(sent: Sent) -> CheckResult:
    slot = sent.tour.get("slot")
    if not _taken(sent) or not isinstance(slot, str) or not slot.strip() or _OFFSET.search(slot.strip()):
        return
    building = sent.facts.building
    zone = building["time_zone"] if building else "UTC, as there is no building"
    yield f"The slot {slot.strip()} has no offset, so it is taken as the building's own time ({zone})."


@rule
def listing_source_in_another_case(sent: Sent) -> CheckResult:
    value = sent.tour.get("listing_source")
    if isinstance(value, str) and value not in LISTING_SOURCES:
        likely = re.sub(r"[\s-]+", "_", value.strip().lower())
        if likely in LISTING_SOURCES:
            yield f"listing_source is {value!r}; write it {likely!r}."


@rule
def return_to_elsewhere(sent: Sent) -> CheckResult:
    origin, url = sent.attempt.header("Origin"), sent.document.get("return_to")
    if url and sent.attempt.status == 201 and redirect_url(url, origin) is None:
        own = (
            f"its own origin, {origin}" if origin else "the page's own origin, and there is no Origin header"
        )
        yield f"return_to is {url!r}, which is not on {own}: the renter got a thank-you page instead."


@rule
def posted_twice(sent: Sent) -> CheckResult:
    if sent.facts.earlier is None or not _taken(sent) or sent.attempt.replayed:
        return
    number, lead_id = sent.facts.earlier
    made = f", which made lead {lead_id}" if lead_id else ""
    cure = "With an Idempotency-Key for each filled form"
    if sent.attempt.header("Idempotency-Key"):
        cure = "With the same Idempotency-Key, which is to be one for each filled form and not for each try,"
    yield (
        f"The same body came as attempt {number} within ten seconds{made}: a double click, or a retry? "
        f"{cure} the two would be one lead."
    )


@rule
def key_used_again(sent: Sent) -> CheckResult:
    if sent.attempt.replayed:
        lead = sent.attempt.lead_id
        yield f"This Idempotency-Key came before with this body, so it was answered with lead {lead}."


@rule
def a_fault_of_the_sandbox(sent: Sent) -> CheckResult:
    if sent.attempt.fault == "dry-run":
        yield "A dry run: it was checked, and nothing was stored."
    elif sent.attempt.fault is not None:
        yield f"The sandbox was told to do this to it: {sent.attempt.fault}."


def _error_of(attempt: Attempt) -> str | None:
    try:
        error = json.loads(attempt.answer)["error"]
    except (ValueError, TypeError, KeyError):  # a page, or an answer that is no error
        return None
    return error if isinstance(error, str) else None


def _taken(sent: Sent) -> bool:
    return sent.attempt.lead_id is not None or sent.attempt.fault == "dry-run"


def _bracketed(name: str) -> str:
    return f"tour_request[{name}]"


def _with_a_guess(name: str) -> str:
    inner = name.removeprefix("tour_request.")
    known = [*TOUR_REQUEST, *SCHEMA]
    likely = (
        [f"requestor_{inner}"] if f"requestor_{inner}" in known else get_close_matches(inner, known, 1, 0.7)
    )
    return f"{name} (did you mean {likely[0]}?)" if likely else name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
